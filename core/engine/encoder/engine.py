"""The hooks that reduce a running encoder of pictures.

Less is to be done than in a decoder: there is no cache, no causal mask and no position that a later
layer would ask for. Rows that kept fewer tokens than others of their batch are filled up, and the
filler is hidden by an attention mask; after the last block it is moved to the end, so that the
prefix rows are where the head looks for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from tokensieve.core.contract.adapted import ATTENTION_SIGNALS, IMAGE, AdaptedEncoder
from tokensieve.core.contract.signature import Signature
from tokensieve.core.engine.base import BaseEngine
from tokensieve.core.engine.call import enter
from tokensieve.core.engine.encoder.signals import EncoderSignals
from tokensieve.core.engine.encoder.state import (
    CapturedBlock,
    EncoderState,
    begin_pictures,
    rows_of,
)
from tokensieve.core.engine.guard import refuse
from tokensieve.core.engine.reduction import Groups
from tokensieve.core.engine.rows import Rows
from tokensieve.core.engine.state import LayerInput
from tokensieve.core.engine.timing import NO_TIMER, Timer
from tokensieve.core.engine.trace import StageTrace
from tokensieve.core.errors import UnsupportedError
from tokensieve.core.pipeline.pipeline import Pipeline

if TYPE_CHECKING:
    from torch import Tensor, nn


Args = tuple[object, ...]
Kwargs = dict[str, object]


class EncoderEngine(BaseEngine):
    """Runs one pipeline on one encoder."""

    def __init__(
        self, bound: AdaptedEncoder, pipeline: Pipeline, seed: int, timer: Timer = NO_TIMER
    ) -> None:
        super().__init__(bound, pipeline, seed, timer)
        self.bound = bound

    @property
    def state(self) -> EncoderState | None:
        """The forward that runs in this context; None between forwards."""
        state = super().state
        return state if isinstance(state, EncoderState) else None

    def _install(self) -> None:
        bound, keep = self.bound, self._handles.append
        keep(bound.encoder.register_forward_pre_hook(self._begin, with_kwargs=True))
        keep(bound.encoder.register_forward_hook(self._end, with_kwargs=True, always_call=True))
        self._watch_model(bound.encoder)
        keep(bound.embedding.register_forward_pre_hook(self._refuse_parts))
        if IMAGE in self.placed:
            self._handles += bound.shrink_images(
                lambda: None if self.state is None else self.state.small
            )
        for index in range(self.plan.first_layer, bound.dims.layers):
            before = self._before_block(index, remember=index + 1 in self.plan.last_layer)
            keep(bound.layers[index].register_forward_pre_hook(before, with_kwargs=True))
        self._watch_transitions()
        attended = {at - 1 for at in self.plan.boundaries(ATTENTION_SIGNALS) if at > 0}
        attended |= {bound.layer_at(depth) for depth in self.plan.depths}
        for layer in attended:  # whose queries and keys are read
            keep(bound.attention_source(layer).register_forward_hook(self._capture(layer)))
        keep(bound.final.register_forward_pre_hook(self._move_filler_last))
        self._handles += bound.watch_pooling(
            lambda: None if self.state is None else self.state.weights
        )

    # ------------------------------------------------------------------ one forward

    def _begin(self, module: nn.Module, args: Args, kwargs: Kwargs) -> None:
        self.called = True
        call = enter(self, "inner")
        call.state = None
        if module.training:
            raise UnsupportedError(
                "the model is in training mode: call model.eval() before pruning"
            )
        pictures = self.bound.pictures(args, kwargs)
        number, placed = self.placed.get(IMAGE, (None, None))
        call.state = state = begin_pictures(
            self.bound, self.schedule, pictures, self.notes, self.seed, self._new_guard(), number
        )
        if placed is None or state.rows is None:
            return
        # the image stage has been decided before anything ran; write it down
        if state.small is None:
            self._carry_out(state, state.rows, IMAGE, None, pictures)
            return
        rows, columns = state.small
        after = [rows * columns] * state.prompt.batch
        before, origin = state.trace.visual_tokens, state.rows.origin
        state.trace.stages.append(StageTrace(IMAGE, placed.written_at, before, after, origin))

    def _refuse_parts(self, module: nn.Module, args: Args) -> None:
        self.called = True
        if self.state is None:
            raise UnsupportedError(
                "only the whole model is pruned: call model(pictures); parts of its forward "
                "(forward_features, forward_intermediates, output_hidden_states) are not "
                "supported while pruning: detach first"
            )

    def _end(self, module: nn.Module, args: Args, kwargs: Kwargs, output: object) -> None:
        state = self.state
        self._forget_forward()
        if state is not None and output is not None:  # else the forward raised
            state.guard.check_layers()
            self._conclude(state)

    # ------------------------------------------------------------------ one block

    def _before_block(
        self, index: int, *, remember: bool
    ) -> Callable[[nn.Module, Args, Kwargs], tuple[Args, Kwargs]]:
        mask = self.bound.mask_argument
        call = Signature.of(self.bound.layers[index], () if mask is None else [mask])

        def hook(module: nn.Module, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
            state = self.state
            self.called = True
            if state is None or state.rows is None:
                raise refuse(f"a block was called without {type(self.bound.encoder).__name__}")
            state.guard.enter(index)
            rest = call.named(args, kwargs)
            hidden: Tensor = rest.pop(call.names[0])
            expected = (state.prompt.batch, state.rows.layout.length)
            if hidden.shape[:2] != expected:
                raise UnsupportedError(
                    f"adapter {self.bound.name}: a block got {tuple(hidden.shape[:2])} rows where "
                    f"{expected} were expected: this model changes its sequence by itself"
                )
            if index in self.placed:
                hidden, rows = self._reduce(state, state.rows, index, hidden)
                state.mask = _mask(rows, hidden, proportional=state.proportional)
            if remember:
                state.captures.previous = LayerInput(index, hidden)
            if state.mask is not None and mask is not None:
                rest[mask] = state.mask
            return (hidden,), rest

        return hook

    def _reduce(
        self, state: EncoderState, rows: Rows, index: int, hidden: Tensor
    ) -> tuple[Tensor, Rows]:
        """What enters block ``index``, and its rows."""
        stage = self.placed[index][1].stage
        groups = Groups.of(rows.layout, stage.scope, hidden.device)
        signals = EncoderSignals(self.bound, state, rows, groups, index, hidden)
        reduction = self._decide(state, index, signals)
        if reduction is not None and stage.merge is not None and stage.merge.proportional():
            state.proportional = True
        return self._carry_out(state, signals.rows_after(), index, reduction, hidden)

    def _capture(self, layer: int) -> Callable[[nn.Module, Args, Tensor], None]:
        def hook(module: nn.Module, args: Args, output: Tensor) -> None:
            state = self.state
            if state is None or state.rows is None:
                return
            rows = state.rows
            valid = rows.valid if rows.layout.ragged() else None
            seen = CapturedBlock(output.detach(), state.mask, valid, rows.filler())
            state.captured[layer] = seen
            state.rows = rows.marking(rows_of(layer), output.device)

        return hook

    def _move_filler_last(self, module: nn.Module, args: Args) -> Args | None:
        """After the last block filler goes to the end, and the head learns what to count."""
        state, depth = self.state, self.bound.dims.layers
        if state is None or state.rows is None:
            return None
        hidden, rows = args[0], state.rows
        assert isinstance(hidden, torch.Tensor)
        if depth in self.placed:
            state.guard.enter(depth)
            hidden, rows = self._reduce(state, rows, depth, hidden)
        valid, sizes = rows.valid, rows.sizes
        if not rows.layout.ragged() or valid is None:
            state.weights = sizes
            return (hidden, *args[1:])
        sizes = torch.ones_like(valid, dtype=torch.float32) if sizes is None else sizes
        order = (~valid).to(torch.uint8).sort(dim=1, stable=True).indices
        state.weights = (sizes * valid).gather(1, order)
        sample = torch.arange(state.prompt.batch, device=hidden.device)[:, None]
        return (hidden[sample, order], *args[1:])


def _mask(rows: Rows, hidden: Tensor, *, proportional: bool) -> Tensor | None:
    """``[batch, 1, 1, rows]`` to be added: hides filler, weighs by sizes; None for neither.

    Addends, because older versions of timm also add a mask of bools where attention is not fused.
    """
    valid = rows.valid if rows.layout.ragged() else None
    sizes = rows.sizes if proportional else None
    if sizes is None and valid is None:
        return None
    bias = hidden.new_zeros(hidden.shape[:2])
    if sizes is not None:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        bias = sizes.clamp(min=1).to(wide).log().to(hidden.dtype)
    if valid is not None:
        bias = bias.masked_fill(~valid, float("-inf"))
    return bias[:, None, None]
