"""Hooks that reduce a running model, and change nothing else that it could notice."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from tokensieve.core.contract.adapted import IMAGE
from tokensieve.core.contract.adapter import AdaptedVlm
from tokensieve.core.contract.signature import Signature
from tokensieve.core.engine.base import BaseEngine
from tokensieve.core.engine.call import decided_before, enter
from tokensieve.core.engine.decoder import masks
from tokensieve.core.engine.decoder.cache import check_cache, find_cache, reduced_layer
from tokensieve.core.engine.decoder.checking import check_forward
from tokensieve.core.engine.decoder.layer_arguments import (
    REPLACED,
    RowArguments,
)
from tokensieve.core.engine.decoder.pictures import Pictures
from tokensieve.core.engine.decoder.prompt import (
    INNER_ARGUMENTS,
    begin_forward,
    check_whole,
    with_prompt,
)
from tokensieve.core.engine.decoder.restoring import restored
from tokensieve.core.engine.decoder.shrinker import unfilled
from tokensieve.core.engine.decoder.signals import INPUT_ROWS, DecoderSignals
from tokensieve.core.engine.decoder.state import DecoderState, Embeddings
from tokensieve.core.engine.guard import refuse
from tokensieve.core.engine.reduction import Groups, Reduction
from tokensieve.core.engine.rows import Rows
from tokensieve.core.engine.state import LayerInput
from tokensieve.core.engine.timing import NO_TIMER, Timer
from tokensieve.core.errors import AttachError, UnsupportedError
from tokensieve.core.models.backends import check_backend
from tokensieve.core.pipeline.pipeline import Pipeline

if TYPE_CHECKING:
    from torch import Tensor, nn

Args = tuple[object, ...]
Kwargs = dict[str, object]
PreHook = Callable[["nn.Module", Args, Kwargs], tuple[Args, Kwargs]]
CHANGING_ROPE = ("dynamic", "longrope", "unknown")
"""Kinds of RoPE whose angles depend on how long the sequence is, or may."""


class DecoderEngine(BaseEngine):
    """Runs one pipeline on one vision-language model."""

    def __init__(
        self, bound: AdaptedVlm, pipeline: Pipeline, seed: int, timer: Timer = NO_TIMER
    ) -> None:
        super().__init__(bound, pipeline, seed, timer)
        self.bound = bound
        policy = pipeline.positions
        if bound.mrope and pipeline.mrope_positions is not None:
            policy = pipeline.mrope_positions
        self.row_arguments = RowArguments(bound, reindex=policy == "reindex")
        kind = str(getattr(bound.rotary, "rope_type", "unknown"))
        if policy == "reindex" and any(word in kind for word in CHANGING_ROPE):
            raise AttachError(
                f"RoPE of type {kind!r} turns by the length of the sequence, so positions cannot "
                "be counted anew: use `positions: keep`"
            )
        image_stage, _ = self.placed.get(IMAGE, (None, None))
        self.pictures = Pictures(
            bound,
            self.plan,
            lambda: self.call,
            None if image_stage is None else lambda size: self.schedule.counts(size)[image_stage],
        )
        if not bound.placeholder_ids:
            raise AttachError(
                f"adapter {bound.name} names no placeholder_ids: no token would be a visual one"
            )
        self._model_call = Signature.of(bound.model, ["labels"])
        self._inner_call = Signature.of(bound.inner, INNER_ARGUMENTS)
        self._decoder_call = Signature.of(bound.decoder, ["inputs_embeds"])
        self._rotary_call = Signature.of(bound.rotary, ["position_ids"])
        kinds = {type(layer): layer for layer in bound.layers}
        self._layer_calls = {kind: Signature.of(layer, REPLACED) for kind, layer in kinds.items()}

    @property
    def state(self) -> DecoderState | None:
        """The forward that runs in this context; None between forwards."""
        state = super().state
        return state if isinstance(state, DecoderState) else None

    # ------------------------------------------------------------------ hooks in and out

    def _install(self) -> None:
        bound, keep = self.bound, self._handles.append
        keep(bound.model.register_forward_pre_hook(self._refuse_training, with_kwargs=True))
        keep(bound.inner.register_forward_pre_hook(self._begin, with_kwargs=True))
        keep(bound.inner.register_forward_hook(self._end, with_kwargs=True, always_call=True))
        self._watch_model(bound.inner)
        keep(bound.decoder.register_forward_hook(self._restore_length))
        keep(bound.rotary.register_forward_hook(self._note_positions, with_kwargs=True))
        for index in range(self.plan.first_layer, bound.dims.layers):
            before = self._before_layer(index, remember=index + 1 in self.plan.last_layer)
            keep(bound.layers[index].register_forward_pre_hook(before, with_kwargs=True))
        self._watch_transitions()
        if bound.dims.layers in self.placed:  # after the hooks that look at what the layer gives
            keep(bound.layers[-1].register_forward_hook(self._after_last))
        self._recorders += self.pictures.shrink()
        self._recorders += self.pictures.record()
        if self.pictures.wanted:
            keep(bound.decoder.register_forward_pre_hook(self._identify, with_kwargs=True))

    def remove(self) -> None:
        """Take every hook away and forget all tensors."""
        super().remove()
        self.pictures.forget()

    # ------------------------------------------------------------------ one forward

    def _refuse_training(self, module: nn.Module, args: Args, kwargs: Kwargs) -> None:
        self.called = True
        if module.training:
            raise UnsupportedError(
                "the model is in training mode: call model.eval() before pruning"
            )
        if self._model_call.named(args, kwargs).get("labels") is not None:
            raise UnsupportedError(
                "labels are not supported while pruning: detach to compute a loss"
            )

    def _begin(self, module: nn.Module, args: Args, kwargs: Kwargs) -> None:
        self.called = True
        check_backend(self.bound.attention_backend)
        call = enter(self, "inner")
        given = with_prompt(self._inner_call.named(args, kwargs), call.prompt, call.asked)
        call.state = state = begin_forward(
            self.bound, self.schedule, given, self.notes, self.seed, self._new_guard()
        )
        if state is None:
            return
        if state.prompt.past == 0 and not call.forwards:  # others may run later
            check_whole(state.prompt.length, call.prompt)
        if state.rows is not None and state.cache is None:
            state.decided = decided_before(call, given.get("input_ids"))

    def _note_positions(
        self, module: nn.Module, args: Args, kwargs: Kwargs, output: object
    ) -> None:
        state = self.state
        if state is None:
            return
        ids: Tensor = self._rotary_call.named(args, kwargs)["position_ids"]
        # [axes, batch, rows] with M-RoPE (one axis where there is no image), else [batch, rows]
        if ids.shape[-1] != state.prompt.length or (ids.ndim == 3) != self.bound.mrope:  # noqa: PLR2004
            raise refuse(f"the decoder's positions have the shape {list(ids.shape)}")
        axes = ids if self.bound.mrope else ids[None]
        state.positions = axes.expand(-1, state.prompt.batch, -1)

    def _end(self, module: nn.Module, args: Args, kwargs: Kwargs, output: object) -> None:
        call, state = self.call, self.state
        self._forget_forward()
        if state is None or output is None:  # the forward raised
            return
        if call is not None and state.cache is not None and call.decided is None:
            call.records.clear()
        prompt = state.prompt
        check_forward(state.guard, output, state.cache, prompt.past + prompt.length)
        masks.check_own(state.other_mask)
        if state.rows is not None:
            self._conclude(state)
            return
        self._count()
        if prompt.past == 0 and prompt.length > 1:  # a new prompt without images, no decode step
            state.trace.visual_tokens = [0] * prompt.batch
            state.trace.per_layer = [[0] * self.bound.dims.layers for _ in range(prompt.batch)]
            self._publish(state.trace)

    def _restore_length(self, module: nn.Module, args: Args, output: object) -> object:
        state, call = self.state, self.call
        if state is None or call is None or state.rows is None or state.rows.input_rows is None:
            return None
        return restored(state, call, state.rows, state.rows.input_rows, output)

    def _identify(self, module: nn.Module, args: Args, kwargs: Kwargs) -> None:
        """Find the pictures whose features went into the rows; looked at once per prompt."""
        call, state = self.call, self.state
        if call is None or state is None or state.rows is None:
            return
        embeds = self._decoder_call.named(args, kwargs).get("inputs_embeds")
        if embeds is None:
            raise refuse("the decoder was called without 'inputs_embeds'")
        state.evidence = self.pictures.find(call, state.rows, embeds)

    # ------------------------------------------------------------------ one layer

    def _before_layer(self, index: int, *, remember: bool) -> PreHook:
        call = self._layer_calls[type(self.bound.layers[index])]

        def hook(module: nn.Module, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
            state = self.state
            self.called = True
            if state is None:
                raise refuse(f"the decoder was called without {type(self.bound.inner).__name__}")
            state.guard.enter(index)
            rest = call.named(args, kwargs)
            state.guard.require(REPLACED, rest, call.title)
            hidden = rest.pop(call.names[0])
            cache = find_cache(rest)
            if state.guard.same_cache(state.cache, cache) is not state.cache:
                check_cache(cache)  # the decoder made one
                state.cache = cache
            original: Embeddings = rest["position_embeddings"]
            if state.rows is not None:
                if index == 0 and IMAGE in self.placed:
                    hidden = self._drop_unfilled(state, state.rows, hidden)
                if index in self.placed:
                    hidden = self._reduce(state, state.rows, index, hidden, original)
                if index == 0 and self.plan.inputs:
                    state.captures.inputs = hidden
                    state.rows = state.rows.marking(INPUT_ROWS, hidden.device)
            rest = self.row_arguments.fitted(state, index, hidden, rest)
            if remember and state.rows is not None:
                state.captures.previous = LayerInput(index, hidden, rest["position_embeddings"])
            return (hidden,), rest

        return hook

    def _after_last(self, module: nn.Module, args: Args, output: object) -> object:
        state, depth = self.state, self.bound.dims.layers
        if state is None:
            return None
        state.guard.enter(depth)
        if state.rows is None:
            return None
        if isinstance(output, tuple):
            return (self._reduce(state, state.rows, depth, output[0], None), *output[1:])
        assert isinstance(output, torch.Tensor)
        return self._reduce(state, state.rows, depth, output, None)

    def _reduce(
        self,
        state: DecoderState,
        rows: Rows,
        index: int,
        hidden: Tensor,
        original: Embeddings | None,
    ) -> Tensor:
        """Reduce what enters layer ``index``; without ``original`` embeddings there is none."""
        _, placed = self.placed[index]
        groups = Groups.of(rows.layout, placed.stage.scope, hidden.device, rows.separators)

        def embeddings() -> Embeddings:
            assert original is not None  # what no layer reads is not offered
            stored = None if state.cache is None else reduced_layer(state.cache, index, swap=False)
            offset = None if stored is None else stored.position_offset
            return self.row_arguments.embeddings(state, offset, hidden, original)

        signals = DecoderSignals(self.bound, state, rows, groups, index, hidden, embeddings)
        reduction = self._once(state, rows, index, lambda: self._decide(state, index, signals))
        merge = placed.stage.merge
        if reduction is not None and merge is not None and merge.proportional():
            state.trace.notes.append(
                f"{merge.name!r} at boundary {index}: a decoder's attention counts a merged token "
                "once, whatever its size"
            )
        return self._carry_out(state, signals.rows_after(), index, reduction, hidden)[0]

    def _drop_unfilled(self, state: DecoderState, rows: Rows, hidden: Tensor) -> Tensor:
        """Remove the placeholders that a smaller image does not fill."""
        groups = Groups.of(rows.layout, "image", hidden.device, rows.separators)
        evidence = state.evidence
        assert evidence is not None  # identified at the decoder's entry
        with torch.no_grad():
            reduction = self._once(
                state, rows, IMAGE, lambda: unfilled(rows.layout, groups, evidence)
            )
        return self._carry_out(state, rows, IMAGE, reduction, hidden)[0]

    def _once(
        self, state: DecoderState, rows: Rows, at: int, fresh: Callable[[], Reduction | None]
    ) -> Reduction | None:
        """Decide once per prompt: a call without a cache runs it again for every token."""
        if state.decided is None:
            return fresh()
        return state.decided.decide(at, rows.layout, fresh)
