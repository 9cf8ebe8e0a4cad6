"""Releases of transformers that nobody has seen: the classes of a model, changed by rule.

Every change leaves the untouched model's answers as they are (``test_pretended_releases`` checks
it) and is one that a release could make: an argument gets another name, is not passed any more, is
passed by position or by name, outputs become tuples, modules are run past their hooks, the cache
is copied. They are generated from the signatures of the classes that are installed.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from transformers.cache_utils import Cache

STARRED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True)
class Change:
    """What a pretended release does to the class at ``place`` of the model.

    ``only`` is the number of the one decoder layer that is changed; None: all instances.
    """

    place: str
    kind: str
    name: str = ""
    only: int | None = None

    def __str__(self) -> str:
        parts = [self.place, self.kind, self.name, "" if self.only is None else str(self.only)]
        return "-".join(part for part in parts if part)


def places(model: Any) -> dict[str, Any]:
    """The modules whose classes are changed."""
    inner = model.model
    decoder = inner.language_model
    tower = inner.visual if hasattr(inner, "visual") else inner.vision_tower
    return {
        "model": model,
        "inner": inner,
        "decoder": decoder,
        "layer": decoder.layers[0],
        "attention": decoder.layers[0].self_attn,
        "mlp": decoder.layers[0].mlp,
        "rotary": decoder.rotary_emb,
        "tower": tower,
        "projector": tower.merger if hasattr(tower, "merger") else inner.multi_modal_projector,
    }


def arguments(module: Any) -> list[str]:
    parameters = list(inspect.signature(type(module).forward).parameters.values())[1:]
    return [p.name for p in parameters if p.kind not in STARRED]


def changes(model: Any) -> Iterator[Change]:
    """All changes of all places."""
    depth = len(model.model.language_model.layers)
    for place, module in places(model).items():
        first, *others = arguments(module)
        if place != "model":  # its arguments are the caller's, and `generate` reads their names
            for name in (first, *others):
                yield Change(place, "rename", name)
            for name in others:
                yield Change(place, "drop", name)
        yield Change(place, "positional")
        yield Change(place, "keyword", first)
        yield Change(place, "bypass")
        if place not in ("rotary", "projector", "mlp", "attention"):
            yield Change(place, "tuple")
        if place in ("model", "inner", "decoder", "layer"):
            yield Change(place, "copy", "shallow")
        if place in ("inner", "decoder"):
            yield Change(place, "copy", "deep")
            yield Change(place, "copy-output", "deep")
    for index in (0, 2, depth - 1):
        yield Change("layer", "bypass", only=index)
        yield Change("layer", "copy", "shallow", only=index)


def pretend(patch: pytest.MonkeyPatch, model: Any, change: Change) -> None:
    """Change the class until the patch is undone."""
    release = _Release(patch, places(model)[change.place], change)
    getattr(release, change.kind.replace("-", "_"))()


class _Release:
    """The class of one module, and how to change it: a method for each kind of change."""

    def __init__(self, patch: pytest.MonkeyPatch, module: Any, change: Change) -> None:
        self.patch = patch
        self.change = change
        self.kind = type(module)
        self.names = arguments(module)
        self._call, self._forward = self.kind.__call__, self.kind.forward

    # -------------------------------------------------------------- what is replaced

    def _meant(self, module: Any) -> bool:
        return self.change.only is None or module.self_attn.layer_idx == self.change.only

    def _called(
        self,
        before: Callable[..., Any] = lambda args, kwargs: (args, kwargs),
        after: Callable[..., Any] = lambda output: output,
    ) -> None:
        """What the caller of the module does: outside of all hooks."""
        call, meant = self._call, self._meant

        def __call__(module: Any, *args: Any, **kwargs: Any) -> Any:
            if not meant(module):
                return call(module, *args, **kwargs)
            args, kwargs = before(args, dict(kwargs))
            return after(call(module, *args, **kwargs))

        self.patch.setattr(self.kind, "__call__", __call__)

    def _run(self, read: Callable[[dict[str, Any]], dict[str, Any]], names: list[str]) -> None:
        """What the module does with its arguments: inside of all hooks."""
        forward = self._forward

        def changed(module: Any, *args: Any, **kwargs: Any) -> Any:
            return forward(module, *args, **read(kwargs))

        plain = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [inspect.Parameter(name, plain) for name in ("self", *names)]
        rest = inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)
        changed.__signature__ = inspect.Signature([*parameters, rest])  # type: ignore[attr-defined]
        self.patch.setattr(self.kind, "forward", changed)

    # -------------------------------------------------------------- kinds of change

    def rename(self) -> None:
        name, new = self.change.name, f"{self.change.name}_of_tomorrow"

        def renamed(args: Any, kwargs: Any) -> Any:
            return args, {new if key == name else key: value for key, value in kwargs.items()}

        def read(kwargs: Any) -> Any:
            kwargs.pop(name, None)  # swallowed by **kwargs
            return {name if key == new else key: value for key, value in kwargs.items()}

        self._called(renamed)
        self._run(read, [new if other == name else other for other in self.names])

    def drop(self) -> None:
        """The module gets it in another way, past its arguments."""
        name = self.change.name
        aside: dict[str, Any] = {}

        def without(args: Any, kwargs: Any) -> Any:
            aside.clear()
            if name in kwargs:
                aside[name] = kwargs.pop(name)
            return args, kwargs

        def read(kwargs: Any) -> Any:
            return {**{key: v for key, v in kwargs.items() if key != name}, **aside}

        self._called(without)
        self._run(read, [other for other in self.names if other != name])

    def positional(self) -> None:
        parameters, names = inspect.signature(self._forward).parameters, self.names
        front = names[: names.index("use_cache")] if "use_cache" in names else names

        def ordered(args: Any, kwargs: Any) -> Any:
            given = {**dict(zip(names, args, strict=False)), **kwargs}
            last = max((i for i, name in enumerate(front) if name in given), default=-1)
            return [given.pop(n, parameters[n].default) for n in front[: last + 1]], given

        self._called(ordered)

    def keyword(self) -> None:
        names = self.names
        self._called(lambda args, kwargs: ((), {**dict(zip(names, args, strict=False)), **kwargs}))

    def tuple(self) -> None:
        forward = self._forward
        aside: list[Any] = []

        def changed(module: Any, *args: Any, **kwargs: Any) -> Any:
            output = forward(module, *args, **kwargs)
            aside[:] = [output] if hasattr(output, "keys") else []
            return tuple(output.values()) if aside else (output,)

        def rebuilt(output: Any) -> Any:
            if not aside:
                return output[0]
            (named,) = aside
            return type(named)(**dict(zip(named.keys(), output, strict=True)))

        changed.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
        self.patch.setattr(self.kind, "forward", changed)
        self._called(after=rebuilt)

    def bypass(self) -> None:
        """``module.forward(...)`` instead of ``module(...)``: no hook runs."""
        call, meant = self._call, self._meant

        def past(module: Any, *args: Any, **kwargs: Any) -> Any:
            return (module.forward if meant(module) else call.__get__(module))(*args, **kwargs)

        self.patch.setattr(self.kind, "__call__", past)

    def copy(self) -> None:
        self._called(lambda args, kwargs: (args, self._copied(kwargs)))

    def copy_output(self) -> None:
        self._called(after=self._copied)

    def _copied(self, values: Any) -> Any:
        duplicate = copy.deepcopy if self.change.name == "deep" else copy.copy
        for key, value in values.items():
            if isinstance(value, Cache):
                values[key] = duplicate(value)
        return values
