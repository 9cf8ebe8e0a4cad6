"""Layers and signals to capture for a pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass
from functools import cached_property

from tokensieve.core.contract.components import Component
from tokensieve.core.contract.signals import LAST_LAYER_SIGNALS
from tokensieve.core.pipeline.pipeline import PlacedStage


@dataclass(frozen=True)
class CapturePlan:
    """What the components of a pipeline may read, found out once, when it is attached."""

    placed: list[PlacedStage]
    depth: int

    def _components(self) -> Iterator[tuple[int, Component]]:
        for placed in self.placed:
            for component in placed.stage.components():
                yield placed.at, component

    def boundaries(self, signals: Set[str]) -> set[int]:
        """Boundaries at which one of the signals may be read."""
        return {at for at, component in self._components() if signals & component.readable()}

    @cached_property
    def signals(self) -> frozenset[str]:
        """All signals that some component may read."""
        readers = [component.readable() for _, component in self._components()]
        return frozenset[str]().union(*readers)

    @cached_property
    def depths(self) -> frozenset[float]:
        """Vision-encoder layers to capture besides the one that feeds the projector."""
        chosen = [component.vision_depths() for _, component in self._components()]
        return frozenset[float]().union(*chosen)

    @cached_property
    def last_layer(self) -> set[int]:
        """Boundaries at which the input of the layer before is read; nothing ran before 0."""
        return self.boundaries(LAST_LAYER_SIGNALS) - {0}

    @cached_property
    def inputs(self) -> bool:
        """Whether what entered layer 0 is read at a later boundary."""
        return bool(self.boundaries({"embeddings"}) - {0})

    @property
    def first_layer(self) -> int:
        """The first decoder layer whose input has to be looked at; there is always one."""
        wanted = [*(placed.at for placed in self.placed), *(at - 1 for at in self.last_layer)]
        wanted.append(self.depth - 1)
        return 0 if self.inputs else max(0, min(wanted))

    def layers(self, signal: str) -> list[int]:
        """Decoder layers whose transitions are read as ``signal``."""
        layers: set[int] = set()
        for at, component in self._components():
            span = component.history(at) if signal in component.readable() else None
            if span is not None:
                layers.update(range(span[0], min(span[1], at - 1) + 1))
        return sorted(layers)
