"""The hooks that reduce a running model, and nothing the model could notice besides."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from tokensieve.core.contract.adapted import IMAGE
from tokensieve.core.contract.adapter import AdaptedVlm
from tokensieve.core.contract.shrinking import Grid
from tokensieve.core.contract.signals import VISION_SIGNALS
from tokensieve.core.contract.signature import Signature
from tokensieve.core.contract.vision_record import VisionRecord
from tokensieve.core.engine.base import BaseEngine
from tokensieve.core.engine.call import decided_before, enter
from tokensieve.core.engine.decision import decide
from tokensieve.core.engine.decoder import masks
from tokensieve.core.engine.decoder.cache import check_cache, find_cache
from tokensieve.core.engine.decoder.checking import check_forward
from tokensieve.core.engine.decoder.prompt import (
    INNER_ARGUMENTS,
    begin_forward,
    check_whole,
    image_sizes,
    with_prompt,
)
from tokensieve.core.engine.decoder.restoring import restored
from tokensieve.core.engine.decoder.rows import REPLACED, RowSubstitution
from tokensieve.core.engine.decoder.shrinker import Shrinker
from tokensieve.core.engine.decoder.signals import Embeddings, SignalBoard
from tokensieve.core.engine.evidence import find_evidence
from tokensieve.core.engine.guard import refuse
from tokensieve.core.engine.reduction import Groups, Reduction
from tokensieve.core.engine.state import INPUT_ROWS, ForwardState, LayerInput
from tokensieve.core.errors import AttachError, UnsupportedError
from tokensieve.core.gate.records import check_record
from tokensieve.core.models.backends import check_backend
from tokensieve.core.pipeline.pipeline import Pipeline, PlacedStage

if TYPE_CHECKING:
    from torch import Tensor, nn

CHANGING_ROPE = ("dynamic", "longrope", "unknown")
"""Kinds of RoPE whose angles depend on how long the sequence is, or may."""
KEPT_AHEAD = 16
"""Passes of the encoder that are remembered for prompts to come."""


class Engine(BaseEngine):
    """Runs one pipeline on one vision-language model."""

    def __init__(self, bound: AdaptedVlm, pipeline: Pipeline, seed: int) -> None:
        super().__init__(bound, pipeline, seed)
        self.bound = bound
        self.shrinker = Shrinker() if IMAGE in self.placed else None
        policy = pipeline.positions
        if bound.mrope and pipeline.mrope_positions is not None:
            policy = pipeline.mrope_positions
        self.rows = RowSubstitution(bound, reindex=policy == "reindex")
        kind = str(getattr(bound.rotary, "rope_type", "unknown"))
        if policy == "reindex" and any(word in kind for word in CHANGING_ROPE):
            raise AttachError(
                f"RoPE of type {kind!r} turns by the length of the sequence, so positions cannot "
                "be counted anew: use `positions: keep`"
            )
        self._vision_signals = self.needs.signals & bound.provides & VISION_SIGNALS
        self._ahead: deque[VisionRecord] = deque(maxlen=KEPT_AHEAD)
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

    # ------------------------------------------------------------------ hooks in and out

    def _install(self) -> None:
        bound, keep = self.bound, self._handles.append
        keep(bound.model.register_forward_pre_hook(self._refuse_training, with_kwargs=True))
        keep(bound.inner.register_forward_pre_hook(self._begin, with_kwargs=True))
        keep(bound.inner.register_forward_hook(self._end, with_kwargs=True, always_call=True))
        self._watch_model(bound.inner)
        keep(bound.decoder.register_forward_hook(self._restore_length, with_kwargs=True))
        keep(bound.rotary.register_forward_hook(self._positions, with_kwargs=True))
        if self.shrinker is not None:  # before the hooks that look at what the encoder is given
            self._handles += bound.shrink_images(self._shrunk)
        for index in range(self.needs.first_layer, bound.dims.layers):
            before = self._before_layer(index, remember=index + 1 in self.needs.last_layer)
            keep(bound.layers[index].register_forward_pre_hook(before, with_kwargs=True))
        self._watch_transitions()
        if bound.dims.layers in self.placed:  # behind the hooks that look at what the layer gives
            keep(bound.layers[-1].register_forward_hook(self._behind_last))
        if self._vision_signals or self.shrinker is not None:
            signals, depths = self._vision_signals, self.needs.depths
            self._handles += bound.watch_vision(signals, depths, self._see)
            keep(bound.decoder.register_forward_pre_hook(self._identify, with_kwargs=True))

    def remove(self) -> None:
        """Take every hook away and forget all tensors."""
        super().remove()
        self._ahead.clear()

    # ------------------------------------------------------------------ one forward

    def _refuse_training(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self.called = True
        if module.training:
            raise UnsupportedError(
                "the model is in training mode: call model.eval() before pruning"
            )
        if self._model_call.named(args, kwargs).get("labels") is not None:
            raise UnsupportedError(
                "labels are not supported while pruning: detach to compute a loss"
            )

    def _begin(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self.called = True
        check_backend(self.bound.attention_backend)
        call = enter(self, "inner")
        given = with_prompt(self._inner_call.named(args, kwargs), call.prompt, call.asked)
        call.state = state = begin_forward(
            self.bound, self.schedule, given, self.notes, self.seed, self._new_guard()
        )
        if state is not None and state.past == 0 and not call.forwards:  # others may run later
            check_whole(state.length, call.prompt)
        if state is not None and state.layout is not None:
            state.decided = decided_before(call, state, given.get("input_ids"))

    def _positions(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        state = self.state
        if state is None:
            return
        ids = self._rotary_call.named(args, kwargs)["position_ids"]
        # [axes, batch, rows] with M-RoPE (one axis where there is no image), else [batch, rows]
        if ids.shape[-1] != state.length or (ids.ndim == 3) != self.bound.mrope:  # noqa: PLR2004
            raise refuse(f"the decoder's positions have the shape {list(ids.shape)}")
        axes = ids if self.bound.mrope else ids[None]
        state.positions = axes.expand(-1, state.batch, -1)

    def _end(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        call, state = self.call, self._end_state()
        if state is None or output is None:  # the forward raised
            return
        if call is not None and state.cache is not None and call.decided is None:
            call.records.clear()
        check_forward(state.guard, output, state.cache, state.past + state.length)
        masks.check_own(state.odd_mask)
        if state.layout is not None:
            self._conclude(state)
            return
        self._count()
        if state.past == 0 and state.length > 1:  # a new prompt without images, no decode step
            state.trace.visual_tokens = [0] * state.batch
            state.trace.per_layer = [[0] * self.bound.dims.layers for _ in range(state.batch)]
            self._publish(state.trace)

    def _restore_length(
        self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any
    ) -> Any:
        state, call = self.state, self.call
        if state is None or call is None or state.columns is None:
            return None
        return restored(state, call, output)

    def _see(self, record: VisionRecord) -> None:
        """A pass of the encoder is over: it belongs to the running call, or to one to come."""
        if self.shrinker is not None:
            record = self.shrinker.spread(record)
        check_record(record, self.bound.name)
        call = self.call
        if call is None:
            self._ahead.append(record)
        else:
            call.records.append(record)

    def _identify(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """Which pictures' features went into which rows; looked at once per prompt."""
        call = self.call
        state = None if call is None else call.state
        if call is None or state is None or state.layout is None:
            return
        embeds = self._decoder_call.named(args, kwargs).get("inputs_embeds")
        if embeds is None:
            raise refuse("the decoder was called without 'inputs_embeds'")
        own, ahead = call.records, list(self._ahead)
        state.evidence = find_evidence(state.layout, embeds, own, ahead, state.separators)

    def _shrunk(self, grids: list[Grid], *, square: bool = False) -> list[Grid]:
        """The grids that the images of this forward are to have."""
        assert self.shrinker is not None
        original, call = {}, self.call
        if call is not None and call.state is not None:
            original = call.state.original
        elif call is not None and call.prompt is not None and not call.forwards:
            original = image_sizes(self.bound, call.prompt)
        if not original:  # nothing is known of the prompt: every grid is an image
            original = {(0, n): rows * columns for n, (rows, columns) in enumerate(grids)}
        number, _ = self.placed[IMAGE]
        targets = {key: self.schedule.counts(size)[number] for key, size in original.items()}
        return self.shrinker.plan(grids, original, targets, square=square)

    # ------------------------------------------------------------------ one layer

    def _before_layer(self, index: int, *, remember: bool) -> Callable[..., Any]:
        call = self._layer_calls[type(self.bound.layers[index])]

        def hook(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
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
            original = rest["position_embeddings"]
            if state.layout is not None:
                if index == 0 and self.shrinker is not None:
                    hidden = self._leave_out(state, hidden)
                if index in self.placed:
                    hidden = self._cut(state, index, hidden, original)
                if index == 0 and self.needs.inputs:
                    rows = torch.arange(hidden.shape[1], device=hidden.device)
                    state.inputs = hidden
                    state.carried[INPUT_ROWS] = rows.expand(state.batch, -1)
            self.rows.substitute(state, index, hidden, rest)
            if remember and state.layout is not None:
                state.previous = LayerInput(index, hidden, rest["position_embeddings"])
            return (hidden,), rest

        return hook

    def _behind_last(self, module: nn.Module, args: Any, output: Any) -> Any:
        state, depth = self.state, self.bound.dims.layers
        if state is None:
            return None
        state.guard.enter(depth)
        if state.layout is None:
            return None
        whole = isinstance(output, tuple)
        hidden = self._cut(state, depth, output[0] if whole else output, None)
        return (hidden, *output[1:]) if whole else hidden

    def _cut(
        self, state: ForwardState, index: int, hidden: Tensor, original: Embeddings | None
    ) -> Tensor:
        """Reduce what enters layer ``index``; without ``original`` embeddings there is none."""
        number, cut = self.placed[index]
        layout = state.layout
        assert layout is not None and state.origin is not None
        groups = Groups.of(layout, cut.stage.scope, hidden.device, state.separators)
        targets = {key: counts[number] for key, counts in state.targets.items()}

        def embeddings() -> Embeddings:
            assert original is not None  # what no layer reads is not offered
            return self.rows.embeddings(state, index, hidden, original)

        board = SignalBoard(self.bound, state, groups, index, hidden, embeddings)
        with torch.no_grad():
            notes = state.trace.notes
            reduction = self._decide(
                state, cut, lambda: decide(cut, board, layout, targets, state.checks, notes)
            )
        merge = cut.stage.merge
        if reduction is not None and merge is not None and merge.proportional():
            notes.append(
                f"{merge.name!r} at boundary {index}: a decoder's attention counts a merged token "
                "once, whatever its size"
            )
        return self._traced(state, cut, reduction, hidden)

    def _leave_out(self, state: ForwardState, hidden: Tensor) -> Tensor:
        """Remove the placeholders that a smaller image does not fill."""
        layout = state.layout
        assert layout is not None and self.shrinker is not None
        groups = Groups.of(layout, "image", hidden.device, state.separators)
        with torch.no_grad():
            assert state.evidence is not None  # identified at the decoder's entry
            shrinker, evidence = self.shrinker, state.evidence
            reduction = self._decide(
                state,
                self.placed[IMAGE][1],
                lambda: shrinker.reduction(layout, groups, evidence),
            )
        return self._traced(state, self.placed[IMAGE][1], reduction, hidden)

    def _decide(
        self, state: ForwardState, cut: PlacedStage, fresh: Callable[[], Reduction | None]
    ) -> Reduction | None:
        """Once per prompt: a call without a cache runs it again for every token."""
        if state.decided is None or state.layout is None:
            return fresh()
        return state.decided.decide(cut.at, state.layout, fresh)
