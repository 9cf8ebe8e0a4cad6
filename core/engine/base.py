"""What all engines do alike: hooks in and out, carrying a reduction out, the trace."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.hooks import RemovableHandle

from tokensieve.core.contract.adapted import IMAGE, AdaptedModel, Branch
from tokensieve.core.contract.boundary_log import settle
from tokensieve.core.contract.hooks import all_or_none, own
from tokensieve.core.contract.signature import Signature
from tokensieve.core.contract.tensors import on_device
from tokensieve.core.engine.call import Call, current, enter, leave
from tokensieve.core.engine.guard import ForwardGuard, refuse
from tokensieve.core.engine.needs import CapturePlan
from tokensieve.core.engine.reduction import Reduction
from tokensieve.core.engine.state import SIZES, ForwardState
from tokensieve.core.engine.trace import StageTrace, Trace
from tokensieve.core.engine.transitions import watch
from tokensieve.core.pipeline.pipeline import Pipeline, PlacedStage, end_notes, scaling_notes

if TYPE_CHECKING:
    from torch import Tensor, nn


SEEN = -1
"""Instead of a number of forwards: the last one was seen, and something is wrong with it."""


class BaseEngine(ABC):
    """Runs one pipeline on one bound model.

    Attributes:
        called: whether the model was called since the pipeline is on it.
        forwards: how many forwards have been seen and checked.
        removed: whether the hooks were taken away; compiled code may still run them.
    """

    def __init__(self, bound: AdaptedModel, pipeline: Pipeline, seed: int) -> None:
        self._bound = bound
        self.pipeline = pipeline
        self.seed = seed
        depth = bound.dims.layers
        self.placed: dict[int, tuple[int, PlacedStage]] = {
            cut.at: (number, cut) for number, cut in enumerate(pipeline.placed_stages(depth))
        }
        self.needs = CapturePlan([cut for _, cut in self.placed.values()], depth)
        self.schedule = pipeline.schedule(bound.dims)
        notes = (scaling_notes, end_notes)
        self.notes = [line for note in notes for line in note(pipeline, depth, bound.layer_word)]
        self.called = False
        self.forwards = 0
        self.removed = False
        self._latest = Trace(notes=list(self.notes))
        self._here = threading.local()
        self._watched: frozenset[tuple[int, str]] = frozenset()
        self._handles: list[Any] = []

    # ------------------------------------------------------------------ what a call knows

    @property
    def call(self) -> Call | None:
        """The call that runs in this context."""
        return current(self)

    @property
    def state(self) -> ForwardState | None:
        """The forward that runs in this context; None between forwards."""
        call = current(self)
        return None if call is None else call.state

    @property
    def trace(self) -> Trace:
        """What the last prefill of this thread did; of any, in a thread that ran none."""
        trace: Trace = getattr(self._here, "trace", self._latest)
        return trace

    def _publish(self, trace: Trace) -> None:
        self._latest = self._here.trace = trace

    def _end_state(self) -> ForwardState | None:
        """Take the state of the forward that ends from its call."""
        call = current(self)
        if call is None:
            return None
        state, call.state = call.state, None
        if call.owner == "inner":
            leave(self, call)
        return state

    # ------------------------------------------------------------------ hooks in and out

    def install(self) -> None:
        """Register all hooks; on any failure none stays."""
        if not self.placed:
            return
        try:
            with all_or_none(self._bound.model):
                self._install()
                for handle in self._handles:
                    if isinstance(handle, RemovableHandle):
                        own(handle, lambda: not self.removed)
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
        self.removed = True
        while self._handles:
            self._handles.pop().remove()
        leave(self, current(self))

    @contextmanager
    def expecting(self, prompt: Any, asked: dict[str, Any]) -> Iterator[Call]:
        """The call of one ``generate``; it remembers the ids that it was given, and the rest."""
        call = enter(self, "generate")
        call.asked = asked
        call.prompt = prompt if isinstance(prompt, torch.Tensor) and prompt.ndim > 1 else None
        try:
            yield call
        finally:
            leave(self, call)

    # ------------------------------------------------------------------ one forward

    def _new_guard(self) -> ForwardGuard:
        bound = self._bound
        first, depth = self.needs.first_layer, bound.dims.layers
        return ForwardGuard(first, depth, bound.layer_word, self._watched, depth in self.placed)

    def _watch_model(self, inner: nn.Module) -> None:
        """Hooks on what the user calls: the module that is watched inside has to have run."""

        arguments = Signature.of(self._bound.model)

        def begin(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            self.called = True
            call = enter(self, "model")
            call.before, call.arguments = call.forwards, arguments.named(args, kwargs)

        def end(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            call = current(self)
            if call is not None and call.owner == "model":
                leave(self, call)
            if output is not None and (call is None or call.forwards == call.before):
                raise refuse(f"the hooks of {type(inner).__name__} did not run")

        model, keep = self._bound.model, self._handles.append
        keep(model.register_forward_pre_hook(begin, with_kwargs=True, prepend=True))
        keep(model.register_forward_hook(end, with_kwargs=True, always_call=True))

    def _count(self) -> None:
        """A forward was seen and checked."""
        self.forwards += 1
        call = current(self)
        if call is not None:
            call.forwards += 1

    def _settle(self, state: ForwardState) -> None:
        """Look at what was doubted; if it is so, the model's own hook has nothing to add."""
        call = current(self)
        if call is None:
            settle(state.checks)
            return
        before, call.before = call.before, SEEN
        settle(state.checks)
        call.before = before

    def _conclude(self, state: ForwardState) -> None:
        """Look at what was doubted, and publish the trace."""
        self._settle(state)
        self._count()
        self._publish(state.trace)
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
        self, state: ForwardState, cut: PlacedStage, reduction: Reduction | None, hidden: Tensor
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
