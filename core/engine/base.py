"""What all engines do alike: hooks in and out, carrying a reduction out, the trace."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from tokensieve.core.bound import Bound, Branch
from tokensieve.core.engine.guard import ForwardGuard, refuse
from tokensieve.core.engine.needs import Needs
from tokensieve.core.engine.reduction import Reduction
from tokensieve.core.engine.state import SIZES, ForwardState
from tokensieve.core.engine.transitions import watch
from tokensieve.core.errors import PluginError
from tokensieve.core.pipeline import Cut, Pipeline, scaling_notes
from tokensieve.core.stage import IMAGE
from tokensieve.core.tensors import on_device
from tokensieve.core.trace import StageTrace, Trace

if TYPE_CHECKING:
    from torch import Tensor, nn


class BaseEngine(ABC):
    """Runs one pipeline on one bound model.

    Attributes:
        trace: what the last forward did.
        called: whether the model was called since the pipeline is on it.
        forwards: how many forwards have been seen and checked.
        state: the forward that is running; None between forwards.
    """

    def __init__(self, bound: Bound, pipeline: Pipeline, seed: int) -> None:
        self._bound = bound
        self.pipeline = pipeline
        self.seed = seed
        depth = bound.dims.layers
        self.cuts: dict[int, tuple[int, Cut]] = {
            cut.at: (number, cut) for number, cut in enumerate(pipeline.cuts(depth))
        }
        self.needs = Needs([cut for _, cut in self.cuts.values()])
        self.schedule = pipeline.schedule(bound.dims)
        self.notes = scaling_notes(pipeline, depth, bound.layer_word)
        self.trace = Trace(notes=list(self.notes))
        self.called = False
        self.forwards = 0
        self.state: ForwardState | None = None
        self._called_at = 0
        self._watched: frozenset[tuple[int, str]] = frozenset()
        self._handles: list[Any] = []

    # ------------------------------------------------------------------ hooks in and out

    def install(self) -> None:
        """Register all hooks; on any failure none stays."""
        try:
            if self.cuts:
                self._install()
        except BaseException:
            self.remove()
            raise

    @abstractmethod
    def _install(self) -> None:
        """Register the hooks of a pipeline that has cuts."""

    def _watch_transitions(self) -> None:
        branches: list[tuple[int, Branch]] = []
        for layer in self.needs.layers("transitions"):
            branches += [(layer, branch) for branch in self._bound.branches(layer)]
        for layer in self.needs.layers("block_transitions"):
            block = self._bound.layers[layer]
            branches.append((layer, ("block", block, block)))
        self._watched = frozenset((layer, branch[0]) for layer, branch in branches)
        for layer, branch in branches:
            self._handles += watch(layer, branch, lambda: self.state)

    def remove(self) -> None:
        """Take every hook away and forget all tensors."""
        while self._handles:
            self._handles.pop().remove()
        self.state = None

    @contextmanager
    def expecting(self, prompt: Any) -> Iterator[None]:
        """Remember the ids that ``generate`` is called with, where that is of use."""
        yield

    # ------------------------------------------------------------------ one forward

    def _new_guard(self) -> ForwardGuard:
        bound = self._bound
        first, depth = self.needs.first_layer, bound.dims.layers
        return ForwardGuard(first, depth, bound.layer_word, self._watched)

    def _watch_model(self, inner: nn.Module) -> None:
        """Hooks on what the user calls: the module that is watched inside has to have run."""

        def begin(module: nn.Module, args: Any) -> None:
            self.called = True
            self._called_at = self.forwards

        def end(module: nn.Module, args: Any, output: Any) -> None:
            if self.forwards == self._called_at:
                raise refuse(f"the hooks of {type(inner).__name__} did not run")

        self._handles.append(self._bound.model.register_forward_pre_hook(begin))
        self._handles.append(self._bound.model.register_forward_hook(end))

    def _conclude(self, state: ForwardState) -> None:
        """Look at what was doubted, and publish the trace."""
        for message, wrong in state.checks:
            if bool(wrong):
                raise PluginError(message)
        self.forwards += 1
        self.trace = state.trace
        trace, depth = state.trace, self._bound.dims.layers
        for sample in range(state.batch):
            layers: list[int] = []
            stages = {stage.boundary: stage.after[sample] for stage in trace.stages}
            alive = stages.get(IMAGE, trace.visual_tokens[sample])
            for layer in range(depth):
                alive = stages.get(layer, alive)
                layers.append(alive)
            trace.per_layer.append(layers)

    def _traced(
        self, state: ForwardState, cut: Cut, reduction: Reduction | None, hidden: Tensor
    ) -> Tensor:
        """Carry a reduction out, if there is one, and write down what it did."""
        assert state.layout is not None and state.origin is not None
        before = [state.layout.visual(sample) for sample in range(state.batch)]
        if reduction is not None:
            hidden = self._apply(state, max(cut.at, 0), reduction, hidden)
        else:
            where = "the image stage" if cut.at == IMAGE else f"boundary {cut.at}"
            state.trace.notes.append(
                f"{where} removes nothing: its budget ({cut.budget}) is not below the "
                f"tokens of any image"
            )
        after = [state.layout.visual(sample) for sample in range(state.batch)]
        sizes = state.carried.get(SIZES)
        state.trace.stages.append(
            StageTrace(cut.at, cut.written_at, before, after, state.origin, sizes)
        )
        return hidden

    def _apply(
        self, state: ForwardState, index: int, reduction: Reduction, hidden: Tensor
    ) -> Tensor:
        """Carry every per-row tensor of the forward over to the surviving rows."""
        assert state.origin is not None and state.layout is not None
        state.guard.reduced = True
        rows = torch.arange(state.layout.length, device=hidden.device)[None]
        now = state.columns if state.columns is not None else rows.expand(state.batch, -1)
        state.columns = reduction.rows(now)
        padding = state.valid if state.lineage else state.new_padding
        kept = None if padding is None else reduction.rows(padding)
        if reduction.valid is not None:
            kept = reduction.valid if kept is None else kept & reduction.valid
        state.valid = kept
        state.origin = reduction.rows(reduction.relabel(state.origin))
        if kept is not None and reduction.layout.ragged():
            state.origin = state.origin.masked_fill(~kept.to(state.origin.device), -1)
        for seen in state.transitions:
            seen.rows = reduction.rows(seen.rows)
        if reduction.sizes is not None:
            state.carried[SIZES] = reduction.sizes
        state.carried = {name: reduction.rows(rows) for name, rows in state.carried.items()}
        changed = [
            reduction.layout.used(sample) != state.layout.used(sample)
            for sample in range(state.batch)
        ]
        lost = on_device(changed, hidden.device)
        state.removed = lost if state.removed is None else state.removed | lost
        state.lineage = (*state.lineage, (state.past, index))
        state.layout = reduction.layout
        return reduction.hidden(hidden)
