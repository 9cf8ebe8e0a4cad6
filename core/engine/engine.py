"""The hooks that reduce a running model, and nothing the model could notice besides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from tokensieve.core.adapter import BoundModel, VisionRecord
from tokensieve.core.calls import Call
from tokensieve.core.engine import masks
from tokensieve.core.engine.base import BaseEngine
from tokensieve.core.engine.cache import check_cache, find_cache
from tokensieve.core.engine.decision import decide
from tokensieve.core.engine.guard import refuse
from tokensieve.core.engine.prompt import INNER_ARGUMENTS, begin_forward, image_sizes
from tokensieve.core.engine.reduction import Groups
from tokensieve.core.engine.rows import REPLACED, RowSubstitution
from tokensieve.core.engine.shrinker import Shrinker
from tokensieve.core.engine.signals import Embeddings, SignalBoard
from tokensieve.core.engine.state import INPUT_ROWS, ForwardState, LayerInput
from tokensieve.core.errors import AttachError, UnsupportedError
from tokensieve.core.pipeline import Pipeline
from tokensieve.core.shrinking import Grid
from tokensieve.core.stage import IMAGE

if TYPE_CHECKING:
    from torch import Tensor, nn


class Engine(BaseEngine):
    """Runs one pipeline on one vision-language model."""

    def __init__(self, bound: BoundModel, pipeline: Pipeline, seed: int) -> None:
        super().__init__(bound, pipeline, seed)
        self.bound = bound
        self.shrinker = Shrinker() if IMAGE in self.cuts else None
        policy = pipeline.positions
        if bound.mrope and pipeline.mrope_positions is not None:
            policy = pipeline.mrope_positions
        self.rows = RowSubstitution(bound, reindex=policy == "reindex")
        self.vision: VisionRecord | None = None
        self.prompt: Tensor | None = None
        if not bound.placeholder_ids:
            raise AttachError(
                f"adapter {bound.name} names no placeholder_ids: no token would be a visual one"
            )
        self._model_call = Call.of(bound.model, ["labels"])
        self._inner_call = Call.of(bound.inner, INNER_ARGUMENTS)
        self._rotary_call = Call.of(bound.rotary, ["position_ids"])
        kinds = {type(layer): layer for layer in bound.layers}
        self._layer_calls = {kind: Call.of(layer, REPLACED) for kind, layer in kinds.items()}

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
        signals = self.needs.signals & bound.provides
        self._handles += bound.watch_vision(signals, self.needs.depths, self._see)

    def remove(self) -> None:
        """Take every hook away and forget all tensors."""
        super().remove()
        self.vision = None

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
        self.state, self.called = None, True
        masks.check_backend(self.bound.attention_backend)
        given = self._inner_call.named(args, kwargs)
        self.state = begin_forward(
            self.bound, self.schedule, given, self.notes, self.seed, self._new_guard()
        )
        state, prompt = self.state, self.prompt
        if state is not None and prompt is not None and state.past == 0:
            _check_whole(state.length, prompt.shape[1])

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
        state, self.state = self.state, None
        if state is None:
            return
        if state.layout is not None:
            self.vision = None
        if output is None:  # the forward raised
            return
        state.guard.check(output, state.cache, state.past + state.length)
        if state.layout is not None:
            self._conclude(state)
            return
        self.forwards += 1
        if state.past == 0 and state.length > 1:  # a new prompt without images, no decode step
            state.trace.visual_tokens = [0] * state.batch
            state.trace.per_layer = [[0] * self.bound.dims.layers for _ in range(state.batch)]
            self.trace = state.trace

    def _restore_length(
        self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any
    ) -> Any:
        """Give the caller one row per input token back; rows of dropped tokens are zero."""
        state = self.state
        if state is None or state.columns is None:
            return None
        state.guard.restored = True
        whole = isinstance(output, tuple)  # with return_dict=False
        hidden = output[0] if whole else output.last_hidden_state
        if hidden.shape[:2] != state.columns.shape:
            raise refuse(
                f"the decoder gave {list(hidden.shape[:2])} rows where {list(state.columns.shape)} "
                "were kept"
            )
        columns = state.columns.to(hidden.device)
        if state.layout is not None and state.layout.ragged():
            assert state.valid is not None
            hidden = hidden * state.valid.to(hidden.device)[..., None]
        full = hidden.new_zeros(hidden.shape[0], state.length, hidden.shape[2])
        index = columns[..., None].expand(*columns.shape, hidden.shape[2])
        full.scatter_(1, index, hidden)
        if whole:
            return (full, *output[1:])
        output.last_hidden_state = full
        return None

    def _see(self, record: VisionRecord) -> None:
        self.vision = record if self.shrinker is None else self.shrinker.spread(record)

    def _shrunk(self, grids: list[Grid], *, square: bool = False) -> list[Grid]:
        """The grids that the images of this forward are to have."""
        assert self.shrinker is not None
        original: dict[tuple[int, int], int] = {}
        if self.state is not None:
            original = self.state.original
        elif self.prompt is not None:
            original = image_sizes(self.bound, self.prompt)
        if not original:  # nothing is known of the prompt: every grid is an image
            original = {(0, n): rows * columns for n, (rows, columns) in enumerate(grids)}
        number, _ = self.cuts[IMAGE]
        targets = {key: self.schedule.counts(size)[number] for key, size in original.items()}
        return self.shrinker.plan(grids, original, targets, square=square)

    @contextmanager
    def expecting(self, prompt: Any) -> Iterator[None]:
        """Remember the ids that ``generate`` is called with, for images encoded before them."""
        self.prompt = prompt if isinstance(prompt, torch.Tensor) and prompt.ndim > 1 else None
        try:
            yield
        finally:
            self.prompt = None

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
                if index in self.cuts:
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

    def _cut(self, state: ForwardState, index: int, hidden: Tensor, original: Embeddings) -> Tensor:
        number, cut = self.cuts[index]
        layout = state.layout
        assert layout is not None and state.origin is not None
        groups = Groups.of(layout, cut.stage.scope, hidden.device)
        targets = {key: counts[number] for key, counts in state.targets.items()}
        board = SignalBoard(
            self.bound, state, groups, index, hidden,
            lambda: self.rows.embeddings(state, index, hidden, original), self.vision,
        )  # fmt: skip
        with torch.no_grad():
            notes = state.trace.notes
            reduction = decide(cut, board, layout, targets, state.checks, notes)
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
        groups = Groups.of(layout, "image", hidden.device)
        with torch.no_grad():
            reduction = self.shrinker.reduction(layout, groups)
        return self._traced(state, self.cuts[IMAGE][1], reduction, hidden)


def _check_whole(rows: int, tokens: int) -> None:
    """The first forward of ``generate`` runs all of the prompt."""
    if rows < tokens:
        raise UnsupportedError(
            f"the prompt of {tokens} tokens is run in parts, the first of {rows}: chunked prefill "
            "is not supported while pruning: leave it out or detach"
        )
