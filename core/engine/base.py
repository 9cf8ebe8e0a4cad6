"""The part that all engines share: hooks in and out, carrying a reduction out, the trace."""

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
from tokensieve.core.contract.hooks import Handle, all_or_none, own
from tokensieve.core.contract.signature import Signature
from tokensieve.core.engine.boundary_signals import BoundarySignals
from tokensieve.core.engine.call import Call, current, enter, leave
from tokensieve.core.engine.capture_plan import CapturePlan
from tokensieve.core.engine.decision import decide
from tokensieve.core.engine.guard import ForwardGuard, refuse
from tokensieve.core.engine.reduction import Reduction
from tokensieve.core.engine.rows import Rows
from tokensieve.core.engine.state import ForwardState
from tokensieve.core.engine.timing import NO_TIMER, Timer
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
        timer: told when the engine's own code runs.
    """

    def __init__(
        self, bound: AdaptedModel, pipeline: Pipeline, seed: int, timer: Timer = NO_TIMER
    ) -> None:
        self._bound = bound
        self.pipeline = pipeline
        self.seed = seed
        self.timer = timer
        depth = bound.dims.layers
        self.placed: dict[int, tuple[int, PlacedStage]] = {
            placed.at: (number, placed)
            for number, placed in enumerate(pipeline.placed_stages(depth))
        }
        self.plan = CapturePlan([placed for _, placed in self.placed.values()], depth)
        self.schedule = pipeline.schedule(bound.dims)
        notes = (scaling_notes, end_notes)
        self.notes = [line for note in notes for line in note(pipeline, depth, bound.layer_word)]
        self.called = False
        self.forwards = 0
        self.removed = False
        self._latest = Trace(notes=list(self.notes))
        self._here = threading.local()
        self._watched: frozenset[tuple[int, str]] = frozenset()
        self._handles: list[Handle] = []
        self._recorders: list[Handle] = []  # those that an adapter registered

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

    def _forget_forward(self) -> None:
        """The forward of this context is over, and the call if it was all of it."""
        call = current(self)
        if call is not None:
            call.state = None
            if call.owner == "inner":
                leave(self, call)

    # ------------------------------------------------------------------ hooks in and out

    def install(self) -> None:
        """Register all hooks; on any failure none stays."""
        if not self.placed:
            return
        try:
            with all_or_none(self._bound.model):
                self._install()
                for handle in [*self._handles, *self._recorders]:
                    if isinstance(handle, RemovableHandle):
                        hooks: Any = handle.hooks_dict_ref()
                        captures = handle in self._recorders
                        hooks[handle.id] = self.timer.hook(hooks[handle.id], captures=captures)
                        own(handle, lambda: not self.removed)
        except BaseException:
            self.remove()
            raise

    @abstractmethod
    def _install(self) -> None:
        """Register the hooks of a pipeline that has boundaries."""

    def _watch_transitions(self) -> None:
        branches: list[tuple[int, Branch]] = []
        for layer in self.plan.layers("transitions"):
            branches += [(layer, branch) for branch in self._bound.branches(layer)]
        for layer in self.plan.layers("block_transitions"):
            block = self._bound.layers[layer]
            branches.append((layer, ("block", block, block)))
        self._watched = frozenset((layer, branch[0]) for layer, branch in branches)
        for layer, branch in branches:
            self._handles += watch(layer, branch, lambda: self.state, self.timer)

    def remove(self) -> None:
        """Take every hook away and forget all tensors."""
        self.removed = True
        for handles in (self._recorders, self._handles):
            while handles:
                handles.pop().remove()
        leave(self, current(self))

    @contextmanager
    def expecting(self, prompt: object, asked: dict[str, object]) -> Iterator[Call]:
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
        first, depth = self.plan.first_layer, bound.dims.layers
        return ForwardGuard(first, depth, bound.layer_word, self._watched, depth in self.placed)

    def _watch_model(self, inner: nn.Module) -> None:
        """Hooks on what the user calls: the module that is watched inside has to have run."""

        arguments = Signature.of(self._bound.model)

        def begin(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
            self.called = True
            call = enter(self, "model")
            call.before, call.arguments = call.forwards, arguments.named(args, kwargs)

        def end(
            module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: object
        ) -> None:
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
        """Look at what was to be checked; if it fails, the model's own hook adds nothing."""
        call = current(self)
        if call is None:
            settle(state.later_checks)
            return
        before, call.before = call.before, SEEN
        settle(state.later_checks)
        call.before = before

    def _conclude(self, state: ForwardState) -> None:
        """Look at what was to be checked, and publish the trace."""
        self._settle(state)
        self._count()
        self._publish(state.trace)
        trace, depth = state.trace, self._bound.dims.layers
        for sample in range(state.prompt.batch):
            layers: list[int] = []
            stages = {stage.boundary: stage.after[sample] for stage in trace.stages}
            alive = stages.get(IMAGE, trace.visual_tokens[sample])
            for layer in range(depth):
                alive = stages.get(layer, alive)
                layers.append(alive)
            trace.per_layer.append(layers)

    # ------------------------------------------------------------------ one boundary

    def _decide(
        self, state: ForwardState, boundary: int, signals: BoundarySignals
    ) -> Reduction | None:
        """What the stage of a boundary makes of its signals."""
        number, placed = self.placed[boundary]
        targets, notes = state.prompt.targets_of(number), state.trace.notes
        with self.timer.measured(), torch.no_grad():
            decision = decide(placed, signals.tokens(), targets)
        state.later_checks.extend(decision.later_checks)
        notes.extend(note for note in decision.notes if note not in notes)
        return decision.reduction

    def _carry_out(
        self,
        state: ForwardState,
        rows: Rows,
        boundary: int,
        reduction: Reduction | None,
        hidden: Tensor,
    ) -> tuple[Tensor, Rows]:
        """Reduce what the rows hold, and the rows, if there is a reduction; write it down."""
        _, placed = self.placed[boundary]
        before = rows.layout.visual_tokens()
        if reduction is not None:
            state.guard.reduced = True
            rows = rows.reduced(reduction, state.prompt.past, max(boundary, 0))
            hidden = reduction.hidden(hidden)
        else:
            where = "the image stage" if boundary == IMAGE else f"boundary {boundary}"
            state.trace.notes.append(
                f"{where} removes nothing: its budget ({placed.budget}) is not below the "
                f"tokens of any image"
            )
        state.rows = rows
        after = rows.layout.visual_tokens()
        state.trace.stages.append(
            StageTrace(boundary, placed.written_at, before, after, rows.origin, rows.sizes)
        )
        return hidden, rows
