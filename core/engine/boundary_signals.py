"""The signals at one boundary, computed on first read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from tokensieve.core.contract.adapted import AdaptedModel
from tokensieve.core.contract.signals import NEXT_LAYER_SIGNALS, Module, Transition
from tokensieve.core.contract.tensors import at_least_float32
from tokensieve.core.engine.decision import BoundaryTokens
from tokensieve.core.engine.memory import BoundaryMemory
from tokensieve.core.engine.reduction import Groups
from tokensieve.core.engine.rows import Rows
from tokensieve.core.engine.state import ForwardState, LayerInput
from tokensieve.core.errors import SignalError

if TYPE_CHECKING:
    from torch import Tensor

Readers = dict[str, Callable[[], object]]


class BoundarySignals(ABC):
    """Reads the signals of a boundary out of the state of a forward.

    Attributes:
        rows: the current rows of the forward; ``hidden`` what they hold.
        groups: their visual tokens as a batch.
        memory: what components remember.
    """

    def __init__(
        self,
        bound: AdaptedModel,
        state: ForwardState,
        rows: Rows,
        groups: Groups,
        boundary: int,
        hidden: Tensor,
    ) -> None:
        self._bound = bound
        self.state = state
        self.rows = rows
        self.groups = groups
        self.boundary = boundary
        self.hidden = hidden
        self.memory = BoundaryMemory(rows, state.captures, groups)

    @abstractmethod
    def project(self, vectors: Tensor) -> Tensor:
        """Vectors of a merger that works before the projector, as hidden states."""

    def readers(self) -> Readers:
        """By signal, what computes it."""
        return {
            "hidden": lambda: at_least_float32(self.groups.take(self.hidden)),
            "previous_hidden": lambda: at_least_float32(self.groups.take(self.previous().hidden)),
            "transitions": lambda: self._transitions(("attention", "mlp")),
            "block_transitions": lambda: self._transitions(("block",)),
            "sizes": lambda: self.groups.valid.float() if self.sizes is None else self.sizes,
        }

    def tokens(self) -> BoundaryTokens:
        """What a stage chooses among."""
        absent: frozenset[str] = frozenset()  # signals of a layer that there is not
        if self.boundary == 0:
            absent = self._bound.history
        elif self.boundary == self._bound.dims.layers:
            absent = NEXT_LAYER_SIGNALS
        offered = self._bound.provides - absent
        return BoundaryTokens(
            self.rows.layout,
            self.groups,
            self.index,
            {name: reader for name, reader in self.readers().items() if name in offered},
            keys=[self.state.prompt.keys[group[0].sample] for group in self.groups.blocks],
            sizes=self.sizes,
            memory=self.memory,
            hidden=self.hidden,
            project=self.project,
        )

    def rows_after(self) -> Rows:
        """The current rows, with what components have remembered here."""
        return replace(self.rows, row_tensors=self.memory.row_tensors)

    @cached_property
    def index(self) -> Tensor:
        """``[batch, tokens]`` places among the sample's original visual tokens; -1 if none."""
        return self.groups.take(self.rows.origin).masked_fill(~self.groups.valid, -1)

    @cached_property
    def sizes(self) -> Tensor | None:
        """``[batch, tokens]`` original tokens that each token stands for; None: one."""
        if self.rows.sizes is None:
            return None
        return self.groups.take(self.rows.sizes.to(self.hidden.device)) * self.groups.valid

    def previous(self) -> LayerInput:
        """What entered the layer that ran last."""
        previous = self.state.captures.previous
        if previous is None or previous.layer != self.boundary - 1:
            raise SignalError(f"no layer ran before boundary {self.boundary}")
        return previous

    def _transitions(self, modules: tuple[Module, ...]) -> tuple[Transition, ...]:
        recorded = self.state.captures.transitions
        self.state.guard.check_recorded(
            ((seen.layer, seen.module) for seen in recorded), modules, self.boundary
        )
        sample = self.groups.sample
        device = sample.device  # layers may be on several devices
        return tuple(
            Transition(
                seen.layer,
                seen.module,
                seen.magnitude.to(device)[sample],
                seen.cosine.to(device)[sample],
                seen.valid.to(device)[sample],
                self.groups.take(self.rows.row_tensors[seen.places].to(device)),
            )
            for seen in recorded
            if seen.module in modules
        )
