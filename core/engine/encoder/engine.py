"""The hooks that reduce a running encoder of pictures.

Less is to be done than in a decoder: there is no cache, no causal mask and no position that a later
layer would ask for. Rows that kept fewer tokens than others of their batch are filled up, and the
filler is hidden by an attention mask; behind the last block it is moved to the end, so that the
prefix rows stand where the head looks for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from tokensieve.core.contract.adapted import ATTENTION_SIGNALS, IMAGE, AdaptedEncoder
from tokensieve.core.contract.signature import Signature
from tokensieve.core.engine.base import BaseEngine
from tokensieve.core.engine.call import enter
from tokensieve.core.engine.decision import decide
from tokensieve.core.engine.encoder.signals import EncoderBoard
from tokensieve.core.engine.encoder.state import (
    CapturedBlock,
    EncoderState,
    begin_pictures,
    rows_of,
)
from tokensieve.core.engine.guard import refuse
from tokensieve.core.engine.reduction import Groups
from tokensieve.core.engine.state import SIZES, LayerInput
from tokensieve.core.engine.trace import StageTrace
from tokensieve.core.errors import UnsupportedError
from tokensieve.core.pipeline.pipeline import Pipeline, PlacedStage

if TYPE_CHECKING:
    from torch import Tensor, nn


class EncoderEngine(BaseEngine):
    """Runs one pipeline on one encoder."""

    def __init__(self, bound: AdaptedEncoder, pipeline: Pipeline, seed: int) -> None:
        super().__init__(bound, pipeline, seed)
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
        for index in range(self.needs.first_layer, bound.dims.layers):
            before = self._before_block(index, remember=index + 1 in self.needs.last_layer)
            keep(bound.layers[index].register_forward_pre_hook(before, with_kwargs=True))
        self._watch_transitions()
        for layer in self._attended():
            keep(bound.attention_source(layer).register_forward_hook(self._capture(layer)))
        keep(bound.final.register_forward_pre_hook(self._straighten))
        self._handles += bound.watch_pooling(
            lambda: None if self.state is None else self.state.weights
        )

    def _attended(self) -> set[int]:
        """Blocks whose queries and keys are read."""
        last = {at - 1 for at in self.needs.boundaries(ATTENTION_SIGNALS) if at > 0}
        return last | {self.bound.layer_at(depth) for depth in self.needs.depths}

    # ------------------------------------------------------------------ one forward

    def _begin(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self.called = True
        call = enter(self, "inner")
        call.state = None
        if module.training:
            raise UnsupportedError(
                "the model is in training mode: call model.eval() before pruning"
            )
        pictures = self.bound.pictures(args, kwargs)
        number, cut = self.placed.get(IMAGE, (None, None))
        call.state = state = begin_pictures(
            self.bound, self.schedule, pictures, self.notes, self.seed, self._new_guard(), number
        )
        if cut is not None:
            self._note_smaller(state, cut, pictures)

    def _note_smaller(self, state: EncoderState, cut: PlacedStage, pictures: Tensor) -> None:
        """The image stage has been decided before anything ran; write it down."""
        if state.small is None:
            self._traced(state, cut, None, pictures)
            return
        rows, columns = state.small
        assert state.origin is not None
        after = [rows * columns] * state.batch
        before = state.trace.visual_tokens
        state.trace.stages.append(StageTrace(cut.at, cut.written_at, before, after, state.origin))

    def _refuse_parts(self, module: nn.Module, args: Any) -> None:
        self.called = True
        if self.state is None:
            raise UnsupportedError(
                "only the whole model is pruned: call model(pictures); parts of its forward "
                "(forward_features, forward_intermediates, output_hidden_states) are not "
                "supported while pruning: detach first"
            )

    def _end(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        state = self._end_state()
        if state is not None and output is not None:  # else the forward raised
            state.guard.check_layers()
            self._conclude(state)

    # ------------------------------------------------------------------ one block

    def _before_block(self, index: int, *, remember: bool) -> Callable[..., Any]:
        mask = self.bound.mask_argument
        call = Signature.of(self.bound.layers[index], () if mask is None else [mask])

        def hook(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            state = self.state
            self.called = True
            if state is None:
                raise refuse(f"a block was called without {type(self.bound.encoder).__name__}")
            state.guard.enter(index)
            rest = call.named(args, kwargs)
            hidden = rest.pop(call.names[0])
            self._check_rows(state, hidden)
            if index in self.placed:
                hidden = self._cut(state, index, hidden)
                state.mask = self._mask(state, hidden)
            if remember:
                state.previous = LayerInput(index, hidden)
            if state.mask is not None and mask is not None:
                rest[mask] = state.mask
            return (hidden,), rest

        return hook

    def _check_rows(self, state: EncoderState, hidden: Tensor) -> None:
        assert state.layout is not None
        if hidden.shape[:2] != (state.batch, state.layout.length):
            raise UnsupportedError(
                f"adapter {self.bound.name}: a block got {tuple(hidden.shape[:2])} rows where "
                f"{(state.batch, state.layout.length)} were expected: this model changes its "
                "sequence by itself"
            )

    def _cut(self, state: EncoderState, index: int, hidden: Tensor) -> Tensor:
        number, cut = self.placed[index]
        layout = state.layout
        assert layout is not None
        groups = Groups.of(layout, cut.stage.scope, hidden.device)
        targets = {key: counts[number] for key, counts in state.targets.items()}
        board = EncoderBoard(self.bound, state, groups, index, hidden)
        with torch.no_grad():
            reduction = decide(cut, board, layout, targets, state.checks, state.trace.notes)
        merge = cut.stage.merge
        if reduction is not None and merge is not None and merge.proportional():
            state.proportional = True
        return self._traced(state, cut, reduction, hidden)

    def _mask(self, state: EncoderState, hidden: Tensor) -> Tensor | None:
        """``[batch, 1, 1, rows]`` to be added: hides filler, weighs by sizes; None for neither.

        Addends, because older versions of timm also add a mask of bools where attention is not
        fused.
        """
        assert state.layout is not None
        valid = state.valid if state.layout.ragged() else None
        sizes = state.carried.get(SIZES) if state.proportional else None
        if sizes is None and valid is None:
            return None
        bias = hidden.new_zeros(hidden.shape[:2])
        if sizes is not None:
            wide = torch.promote_types(hidden.dtype, torch.float32)
            bias = sizes.clamp(min=1).to(wide).log().to(hidden.dtype)
        if valid is not None:
            bias = bias.masked_fill(~valid, float("-inf"))
        return bias[:, None, None]

    def _capture(self, layer: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            state = self.state
            if state is None or state.layout is None:
                return
            layout, samples = state.layout, range(state.batch)
            first = [layout.length - layout.used(sample) for sample in samples]
            valid = state.valid if layout.ragged() else None
            state.captured[layer] = CapturedBlock(output.detach(), state.mask, valid, first)
            rows = torch.arange(layout.length, device=output.device)
            state.carried[rows_of(layer)] = rows.expand(state.batch, -1)

        return hook

    def _straighten(self, module: nn.Module, args: Any) -> Any:
        """Behind the last block: filler goes to the end, and the head learns what to count."""
        state, depth = self.state, self.bound.dims.layers
        if state is None or state.layout is None:
            return None
        hidden = args[0]
        if depth in self.placed:
            state.guard.enter(depth)
            hidden = self._cut(state, depth, hidden)
        ragged, sizes = state.layout.ragged(), state.carried.get(SIZES)
        if not ragged:
            state.weights = sizes
            return (hidden, *args[1:])
        valid = state.valid
        assert valid is not None
        sizes = torch.ones_like(valid, dtype=torch.float32) if sizes is None else sizes
        order = (~valid).to(torch.uint8).sort(dim=1, stable=True).indices
        state.weights = (sizes * valid).gather(1, order)
        sample = torch.arange(state.batch, device=hidden.device)[:, None]
        return (hidden[sample, order], *args[1:])
