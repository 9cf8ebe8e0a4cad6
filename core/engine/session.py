"""``attach``: put a pipeline on a model, and take it off again without a trace."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from tokensieve.core.contract.adapted import AdaptedModel
from tokensieve.core.contract.hooks import NOT_PICKLED, forget_hooks
from tokensieve.core.engine.timing import NO_TIMER, Timer
from tokensieve.core.errors import AttachError, GuardError, UnsupportedError, did_you_mean
from tokensieve.core.models.binding import bind, layout_errors
from tokensieve.core.pipeline.fit import check
from tokensieve.core.pipeline.loading import PipelineLike, load_pipeline
from tokensieve.core.pipeline.pipeline import Pipeline
from tokensieve.core.plugins.discovery import build_registry

if TYPE_CHECKING:
    from tokensieve.core.engine.base import BaseEngine
    from tokensieve.core.engine.trace import Trace

_SLOT = "_tokensieve_session"
"""Where a model carries its session; a plain attribute, so that both are freed together."""
_ABSENT = object()
Generate = Callable[..., object]
_ENGINES = {
    "decoder": ("tokensieve.core.engine.decoder.engine", "DecoderEngine"),
    "encoder": ("tokensieve.core.engine.encoder.engine", "EncoderEngine"),
}
"""Modules that the first ``attach`` imports: they are heavy."""


class Session:
    """A pipeline on a model. Leave the ``with`` block or call :meth:`detach` to remove it.

    Attributes:
        model: the model, unmodified but for hooks.
        pipeline: the validated pipeline.
        bound: the model as its adapter sees it.
    """

    def __init__(
        self, model: Any, pipeline: Pipeline, bound: AdaptedModel, engine: BaseEngine
    ) -> None:
        self.model = model
        self.pipeline = pipeline
        self.bound = bound
        self._engine = engine
        self._plugins: Sequence[str | Path] = ()
        self._wrapper: Generate | None = None
        self._own_generate: object = _ABSENT
        self._entered = 0

    @property
    def trace(self) -> Trace:
        """What the last prefill did (see :class:`tokensieve.core.engine.trace.Trace`).

        Raises:
            GuardError: the pipeline prunes, but no forward has passed through it yet.
        """
        if self.pipeline.stages and not self._engine.forwards:
            raise GuardError(f"there is no trace: {self._nothing_ran()}")
        return self._engine.trace

    def _nothing_ran(self) -> str:
        return (
            f"no forward of {type(self.model).__name__} passed through pipeline "
            f"{self.pipeline.name!r}, so nothing was pruned (is it this very model that runs, not "
            "a copy or a compiled version of it?)"
        )

    @property
    def attached(self) -> bool:
        """Whether the pipeline is on the model."""
        return session_of(self.model) is self

    def detach(self) -> None:
        """Restore the model exactly; calling it twice is harmless.

        Warns if the model was not called at all: whatever was run was not pruned.
        """
        bypassed = self.attached and bool(self.pipeline.stages) and not self._engine.called
        self._restore()
        if bypassed:
            warnings.warn(self._nothing_ran(), RuntimeWarning, stacklevel=2)

    def _restore(self) -> None:
        if not self.attached:
            return
        self._engine.remove()
        present = self.model.__dict__
        if self._wrapper is not None and present.get("generate") is self._wrapper:
            if self._own_generate is _ABSENT:
                del present["generate"]
            else:
                present["generate"] = self._own_generate
        present.pop("__deepcopy__", None)
        del present[_SLOT]

    def _attach(self) -> None:
        self._engine.install()
        self.model.__dict__[_SLOT] = self
        self.model.__dict__["__deepcopy__"] = self._copied_model
        self._own_generate = self.model.__dict__.get("generate", _ABSENT)
        generate = getattr(self.model, "generate", None)
        if self.pipeline.stages and generate is not None:
            self._wrapper = self._wrapped(generate)
            self.model.__dict__["generate"] = self._wrapper

    def _wrapped(self, generate: Generate) -> Generate:
        """``generate`` that is watched; as it was once the session is over, whoever keeps it."""

        @wraps(generate)
        def watched(*args: object, **kwargs: object) -> object:
            if not self.attached:
                return generate(*args, **kwargs)
            engine = self._engine
            engine.called = True
            _refuse_modes(self.model, kwargs)
            # images are encoded before the model runs on the prompt
            prompt = kwargs.get("input_ids", kwargs.get("inputs", args[0] if args else None))
            with engine.expecting(prompt, kwargs) as call:
                output = generate(*args, **kwargs)
            if engine.removed:
                raise GuardError(
                    f"there is no answer: pipeline {self.pipeline.name!r} was detached while "
                    "generate ran, so a part of it was not pruned: detach afterwards"
                )
            if not call.forwards:
                raise GuardError(f"there is no answer: {self._nothing_ran()}")
            return output

        return watched

    def _copied_model(self, memo: dict[int, object]) -> object:
        """``copy.deepcopy`` of the model: the copy gets the pipeline in a session of its own."""
        model = self.model
        kind: Any = type(model)
        twin = memo[id(model)] = kind.__new__(kind)
        twin.__dict__.update(
            {
                name: deepcopy(value, memo)
                for name, value in model.__dict__.items()
                if name not in (_SLOT, "__deepcopy__")
                and not (name == "generate" and value is self._wrapper)
            }
        )
        if self._wrapper is not None and self._own_generate is not _ABSENT:
            twin.__dict__["generate"] = deepcopy(self._own_generate, memo)
        forget_hooks(twin)
        attach(twin, self.pipeline, seed=self._engine.seed, plugins=self._plugins)
        return twin

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """A session is for one model in one process."""
        raise UnsupportedError(NOT_PICKLED)

    def __enter__(self) -> Session:
        if not self.attached:  # left once, or detached: it goes on the model again
            refuse_second(self.model)
            old = self._engine
            self._engine = _build_engine(self.bound, self.pipeline, old.seed, old.timer)
            self._attach()
        self._entered += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._entered -= 1
        if self._entered > 0:
            return
        if kind is None:
            self.detach()
        else:
            self._restore()


def attach(
    model: Any,
    pipeline: PipelineLike,
    *,
    keep: Any = None,
    seed: int = 0,
    plugins: Sequence[str | Path] = (),
) -> Session:
    """Prune the visual tokens of ``model`` with ``pipeline`` from now on.

    Args:
        model: a Hugging Face vision-language model of a supported family, or a ViT of timm, in
            eval mode.
        pipeline: a preset's name, a YAML file, a dict, or a :class:`Pipeline`.
        keep: replaces the pipeline's own budget: tokens, share, ``{"average": 192}`` or
            ``{"flops": 0.4}``. A pipeline with several boundaries is scaled as a whole; a number
            of tokens is then the average over decoder layers.
        seed: for scorers that draw random numbers.
        plugins: plugin files to load.

    Returns:
        A session; use it in ``with`` or call ``detach``. ``session.trace`` tells what happened.

    Raises:
        PipelineError: the pipeline is wrong.
        AttachError: the pipeline cannot run on this model.
    """
    return _attached(model, pipeline, keep, seed, plugins, NO_TIMER)


def attach_timed(
    model: Any, pipeline: PipelineLike, timer: Timer, *, plugins: Sequence[str | Path] = ()
) -> Session:
    """As :func:`attach`, with a timer that is told when the engine's own code runs."""
    return _attached(model, pipeline, None, 0, plugins, timer)


def _attached(
    model: Any,
    pipeline: PipelineLike,
    keep: Any,
    seed: int,
    plugins: Sequence[str | Path],
    timer: Timer,
) -> Session:
    registry = build_registry(plugins)
    for problem in registry.problems:
        warnings.warn(problem, stacklevel=3)
    loaded = load_pipeline(pipeline, keep=keep, registry=registry)
    bound = bind(model, registry)
    refuse_second(model)
    check(loaded, bound)
    with layout_errors(model):
        session = Session(model, loaded, bound, _build_engine(bound, loaded, seed, timer))
        session._plugins = tuple(plugins)
        session._attach()
    return session


def _build_engine(bound: AdaptedModel, pipeline: Pipeline, seed: int, timer: Timer) -> BaseEngine:
    module, name = _ENGINES[bound.engine]
    build = getattr(importlib.import_module(module), name)
    engine: BaseEngine = build(bound, pipeline, seed, timer)
    return engine


def refuse_second(model: object) -> None:
    """One pipeline at a time.

    Raises:
        AttachError: the model has a session.
    """
    present = session_of(model)
    if present is not None:
        raise AttachError(
            f"pipeline {present.pipeline.name!r} is already attached to this model: detach it "
            "first (session.detach(), or leave its `with` block)"
        )


def session_of(model: object) -> Session | None:
    """The session on a model, if there is one."""
    session: Session | None = getattr(model, "__dict__", {}).get(_SLOT)
    return session


_REFUSED = {
    "assistant_model": "assisted decoding",
    "prompt_lookup_num_tokens": "prompt-lookup decoding",
    "assistant_early_exit": "early-exit assisted decoding",
    "prefill_chunk_size": "chunked prefill",
}


def _refuse_modes(model: object, kwargs: dict[str, Any]) -> None:
    """Refuse what ``generate`` would do by its arguments, or the model's config, and prune wrongly.

    Raises:
        UnsupportedError: it names the option.
    """
    config = kwargs.get("generation_config") or getattr(model, "generation_config", None)
    for option, meaning in _REFUSED.items():
        if kwargs.get(option, getattr(config, option, None)) is not None:
            raise UnsupportedError(
                f"{meaning} ({option}) is not supported while pruning: leave it out or detach"
            )
    cache = kwargs.get("cache_implementation", getattr(config, "cache_implementation", None))
    if cache not in (None, "dynamic"):
        raise UnsupportedError(
            f"cache_implementation={cache!r} is not supported while pruning"
            f"{did_you_mean(str(cache), ['dynamic'])}"
        )
