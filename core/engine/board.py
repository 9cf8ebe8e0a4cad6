"""What every engine's boundaries can be asked for, computed when it is asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tokensieve.core.contract.adapted import AdaptedModel
from tokensieve.core.contract.signals import NEXT_LAYER_SIGNALS, Module, Transition
from tokensieve.core.contract.tensors import at_least_float32
from tokensieve.core.contract.view import View
from tokensieve.core.engine.layout import Layout
from tokensieve.core.engine.memory import BoundaryMemory
from tokensieve.core.engine.reduction import Groups
from tokensieve.core.engine.state import SIZES, ForwardState, LayerInput
from tokensieve.core.errors import SignalError

if TYPE_CHECKING:
    from torch import Tensor

Readers = dict[str, Callable[[], Any]]


class BoundarySignals(ABC):
    """Builds the :class:`~tokensieve.plugin.View` of a boundary from the state of a forward."""

    def __init__(
        self,
        bound: AdaptedModel,
        state: ForwardState,
        groups: Groups,
        boundary: int,
        hidden: Tensor,
    ) -> None:
        self._bound = bound
        self.state = state
        self.groups = groups
        self.boundary = boundary
        self.hidden = hidden

    @abstractmethod
    def project(self, vectors: Tensor) -> Tensor:
        """Vectors of a merger that works in front of the projector, as hidden states."""

    def readers(self) -> Readers:
        """By signal, what computes it."""
        return {
            "hidden": lambda: at_least_float32(self.groups.take(self.hidden)),
            "previous_hidden": lambda: at_least_float32(self.groups.take(self._previous().hidden)),
            "transitions": lambda: self._transitions(("attention", "mlp")),
            "block_transitions": lambda: self._transitions(("block",)),
            "sizes": self.sizes,
        }

    def view(self) -> View:
        """The view; nothing is computed yet."""
        state, groups, bound = self.state, self.groups, self._bound
        offered = {
            name: reader
            for name, reader in self.readers().items()
            if name in bound.provides and name not in self._no_layer()
        }
        keys = [state.keys[group[0].sample] for group in groups.blocks]
        memory = BoundaryMemory(state, groups)
        return View(
            groups.valid, self.index, offered, keys=keys, boundary=self.boundary, memory=memory
        )

    def _no_layer(self) -> frozenset[str]:
        """Signals of a layer that there is not, in front of the first one and behind the last."""
        if self.boundary == 0:
            return self._bound.history
        return NEXT_LAYER_SIGNALS if self.boundary == self._bound.dims.layers else frozenset()

    @cached_property
    def index(self) -> Tensor:
        """``[batch, tokens]`` places among the sample's original visual tokens; -1 if none."""
        assert self.state.origin is not None
        return self.groups.take(self.state.origin).masked_fill(~self.groups.valid, -1)

    @property
    def layout(self) -> Layout:
        """Today's rows."""
        assert self.state.layout is not None
        return self.state.layout

    def sizes(self) -> Tensor:
        """``[batch, tokens]`` original tokens that each token stands for."""
        sizes = self.state.carried.get(SIZES)
        if sizes is None:
            return self.groups.valid.float()
        return self.groups.take(sizes.to(self.hidden.device)) * self.groups.valid

    def _transitions(self, modules: tuple[Module, ...]) -> tuple[Transition, ...]:
        recorded = self.state.transitions
        self.state.guard.check_recorded(
            ((seen.layer, seen.module) for seen in recorded), modules, self.boundary
        )
        sample = self.groups.sample
        device = sample.device  # layers may live on several devices
        return tuple(
            Transition(
                seen.layer,
                seen.module,
                seen.magnitude.to(device)[sample],
                seen.cosine.to(device)[sample],
                seen.valid.to(device)[sample],
                self.groups.take(seen.rows.to(device)),
            )
            for seen in recorded
            if seen.module in modules
        )

    def _previous(self) -> LayerInput:
        previous = self.state.previous
        if previous is None or previous.layer != self.boundary - 1:
            raise SignalError(f"no layer ran before boundary {self.boundary}")
        return previous
