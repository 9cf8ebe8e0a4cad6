"""The cases that checks run on: a class, its parameter sets, and the scenes to run them in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import torch
from pydantic import ValidationError
from torch import Tensor

from tokensieve.core.contract.components import Component
from tokensieve.core.contract.signals import HISTORY_SIGNALS
from tokensieve.core.pipeline.fields import describe_problem
from tokensieve.core.plugins.registry import Registry, build_registry, kind_of
from tokensieve.core.testing.batch import Record, SyntheticBatch
from tokensieve.core.testing.calls import Outcome, call, read, take_in_order
from tokensieve.core.testing.synthetic import Scene, synthetic_batch

DEPTH = 32  # decoder layers of the imagined model
SHARES = (0.0, 0.3, 0.6, 1.0)  # of an image's tokens, for selectors and mergers
NOTHING: frozenset[str] = frozenset()


class CheckFailed(AssertionError):
    """A component breaks the contract; the message says how."""


def require(condition: bool, message: str) -> None:
    """Fail the running check unless ``condition`` holds."""
    if not condition:
        raise CheckFailed(message)


@dataclass
class ComponentUnderTest:
    """A component class under test.

    Attributes:
        cls: the class.
        parameters: only this parameter set; default: the class's examples and their variations.
        installed: where components that it names in its parameters are looked up.
        device: where the tensors are.
    """

    cls: type[Any]
    parameters: Mapping[str, object] | None = None
    installed: Registry | None = None
    device: str = "cpu"

    @cached_property
    def kind(self) -> str:
        """``scorer``, ``selector``, ``merger`` or ``adapter``."""
        return kind_of(self.cls)

    @cached_property
    def registry(self) -> Registry:
        """All that is installed, with the class under its name."""
        registry = (self.installed or build_registry()).copy()
        registry.entries[self.kind].pop(self.cls.name, None)
        registry.add(self.cls)
        return registry

    @cached_property
    def trials(self) -> list[Trial]:
        """One for each parameter set; fails if one cannot be built."""
        given = self.parameters
        sets = [*parameter_sets(self.cls)] if given is None else [given]
        return [Trial(self, self.build(chosen), chosen) for chosen in sets]

    def build(self, parameters: Mapping[str, object]) -> Component:
        """The component with ``parameters``."""
        try:
            built: Component = self.cls.model_validate(
                parameters, context={"registry": self.registry}
            )
            return built
        except ValidationError as error:
            problem = dict(error.errors()[0])
            place = ".".join(str(part) for part in error.errors()[0]["loc"]) or "parameters"
            raise CheckFailed(
                f"{parameters} is refused ({place}: {describe_problem(problem)}): "
                "let the classmethod `examples` return parameter sets that work"
            ) from None


@dataclass
class Trial:
    """One parameter set of a component, and the scenes to run it in."""

    tested: ComponentUnderTest
    component: Any
    parameters: Mapping[str, object]

    @property
    def suffix(self) -> str:
        """Words that name the parameters, where they are not the defaults."""
        return f", with {self.parameters}" if self.parameters else ""

    @property
    def reader(self) -> str:
        """Words that name the component in errors of a view."""
        return f"{self.tested.kind} {self.component.name!r}"

    @cached_property
    def readers(self) -> list[Component]:
        """The component, and the scorers that it evaluates itself."""
        terms = self.component.terms() if self.tested.kind == "selector" else []
        return [self.component, *(term.scorer for term in terms)]

    @property
    def required(self) -> frozenset[str]:
        """Signals without which it cannot run."""
        return NOTHING.union(*(reader.required() for reader in self.readers))

    @property
    def readable(self) -> frozenset[str]:
        """Signals that it may read."""
        return NOTHING.union(*(reader.readable() for reader in self.readers))

    @cached_property
    def boundaries(self) -> list[int]:
        """Up to three boundaries that it fits: the first, a middle and the last one."""
        if getattr(self.component, "space", "") == "vision":
            return [0]
        fitting = [at for at in range(DEPTH) if all(_fits(r, at) for r in self.readers)]
        require(
            bool(fitting),
            f"history() fits no boundary of a decoder of {DEPTH} layers: it gives the first and "
            "the last layer to read, of those that have run",
        )
        return sorted({fitting[0], fitting[len(fitting) // 2], fitting[-1]})

    def layers(self, boundary: int) -> tuple[int, ...]:
        """Decoder layers whose transitions are captured for the component."""
        spans = [r.history(boundary) for r in self.readers if r.readable() & HISTORY_SIGNALS]
        known = [span for span in spans if span is not None] or [(boundary - 1, boundary - 1)]
        first, last = min(span[0] for span in known), max(span[1] for span in known)
        return tuple(range(max(0, first), min(last, boundary - 1) + 1))

    @property
    def depths(self) -> tuple[float, ...]:
        """Vision-encoder layers that are captured for the component."""
        return tuple(sorted(frozenset[float]().union(*(r.vision_depths() for r in self.readers))))

    def scenes(self) -> list[Scene]:
        """Synthetic batches: every boundary, after an earlier prune, one single token."""
        scenes = [
            Scene(
                boundary=boundary,
                layers=self.layers(boundary),
                depths=self.depths,
                device=self.tested.device,
            )
            for boundary in self.boundaries
        ]
        if self.boundaries != [0]:
            scenes.append(replace(scenes[-1], pruned=True, seed=3))
        return [*scenes, replace(scenes[-1], tokens=(1,), pruned=False)]

    def cases(self) -> Iterator[Case]:
        """The scenes; for selectors and mergers each of them with several budgets."""
        shares = (1.0,) if self.tested.kind == "scorer" else SHARES
        for scene in self.scenes():
            for share in shares:
                yield Case(self, scene, share)


def _fits(reader: Component, boundary: int) -> bool:
    """Whether the layers that it reads have run."""
    if not reader.required() & HISTORY_SIGNALS:
        return True
    span = reader.history(boundary) if boundary else None
    return span is not None and span[0] < boundary


@dataclass(frozen=True)
class Case:
    """A component, a scene and a share of the tokens."""

    trial: Trial
    scene: Scene
    share: float

    @property
    def batch(self) -> SyntheticBatch:
        """The scene's batch."""
        return synthetic_batch(self.scene)

    def answer(
        self,
        batch: SyntheticBatch | None = None,
        *,
        record: Record | None = None,
        hidden: frozenset[str] = NOTHING,
    ) -> Any:
        """The component's answer for the batch; ``hidden`` signals are not there."""
        batch, record = batch or self.batch, record or Record()
        view = batch.view(record, hidden, self.trial.reader)
        return call(self.trial.component, batch, self.share, record, view)

    def turns(self, batch: SyntheticBatch | None = None, *, record: Record | None = None) -> Tensor:
        """The order in which a selector says that it takes the tokens."""
        batch, record = batch or self.batch, record or Record()
        view = batch.view(record, reader=self.trial.reader)
        return take_in_order(self.trial.component, batch, self.share, record, view)

    def outcome(self, batch: SyntheticBatch | None = None) -> Outcome:
        """All that the engine reads of the answer, zero where it reads nothing."""
        batch = batch or self.batch
        return read(self.trial.component, self.answer(batch), batch)

    def changed(self, **scene: Any) -> Case:
        """The same case in a changed scene."""
        return replace(self, scene=replace(self.scene, **scene))

    def __str__(self) -> str:
        scene = self.scene
        parts = [f"{list(scene.tokens)} tokens", f"boundary {scene.boundary}"]
        parts += [f"share {self.share:g}"] if self.trial.tested.kind != "scorer" else []
        parts += [str(scene.dtype).removeprefix("torch.")] if scene.dtype != torch.float32 else []
        return ", ".join([*parts, *(["after an earlier prune"] if scene.pruned else [])])


def parameter_sets(cls: type[Component]) -> list[dict[str, object]]:
    """The class's examples, and the first one with every option that they do not show."""
    examples: list[dict[str, object]] = [dict(example) for example in cls.examples()]
    require(bool(examples), "examples() returns no parameter set")
    sets = list(examples)
    for name, info in cls.model_fields.items():
        shown = [example.get(name, info.default) for example in examples]
        sets += [
            {**examples[0], name: option}
            for option in options(info.annotation)
            if option not in shown
        ]
    return sets


def options(annotation: object) -> list[object]:
    """All values of a ``Literal`` or ``bool`` annotation, also inside ``X | None``."""
    if annotation is bool:
        return [False, True]
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if get_origin(annotation) in (Union, UnionType):
        return [option for part in get_args(annotation) for option in options(part)]
    return []
