"""The signals at a boundary of a vision-language model's decoder."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

from tokensieve.core.adapter import BoundModel, MappedLayer, VisionRecord
from tokensieve.core.engine.attention import LayerAttention
from tokensieve.core.engine.board import Board, Readers
from tokensieve.core.engine.masks import join_valid
from tokensieve.core.engine.reduction import Groups
from tokensieve.core.engine.state import INPUT_ROWS, ForwardState
from tokensieve.core.engine.text import TextRows
from tokensieve.core.errors import SignalError
from tokensieve.core.signals import EncoderLayer, TokenStates
from tokensieve.core.tensors import at_least_float32, on_device

if TYPE_CHECKING:
    from torch import Tensor

Embeddings = tuple["Tensor", "Tensor"]
FAR = 1 << 30


class SignalBoard(Board):
    """Everything the view of a boundary of a decoder can be asked for."""

    def __init__(
        self,
        bound: BoundModel,
        state: ForwardState,
        groups: Groups,
        boundary: int,
        hidden: Tensor,
        embeddings: Callable[[], Embeddings],
        vision: VisionRecord | None,
    ) -> None:
        super().__init__(bound, state, groups, boundary, hidden)
        self.bound = bound
        self.embeddings = embeddings
        self.record = vision

    def project(self, vectors: Tensor) -> Tensor:
        """Through the model's own projector."""
        return self.bound.project(vectors)

    def readers(self) -> Readers:
        """What all engines read, text, and the record of the vision encoder."""
        return super().readers() | {
            "normed_states": lambda: self._states(self.hidden, self.bound.final_norm),
            "embeddings": self._embeddings,
            "previous_keys": self._previous_keys,
            "next_attention": self._next_attention,
            "previous_attention": self._previous_attention,
            "vision_attention": lambda: self._encoder_layer(None).attention(),
            "vision_keys": lambda: self._encoder_layer(None).keys(),
            "vision_features": lambda: self._vision(self._record().features),
            "grid": lambda: self._vision(self._record().grid),
            "tile": self._tile,
            "clip_relevance": lambda: self._vision(self._record().clip_relevance),
            "encoder_layers": lambda: self._encoder_layer,
            "cls_feature": self._cls_feature,
        }

    @cached_property
    def text(self) -> TextRows:
        """The text rows of today's sequence."""
        return TextRows.of(self.layout, self.groups)

    def _states(
        self, hidden: Tensor, norm: Callable[[Tensor], Tensor] | None = None
    ) -> TokenStates:
        """Visual and text rows of ``[samples, rows, n]``, optionally normed."""
        return self._token_states(self.groups.take(hidden), hidden, self.text.rows, norm)

    def _token_states(
        self,
        visual: Tensor,
        source: Tensor,
        text_rows: Tensor,
        norm: Callable[[Tensor], Tensor] | None = None,
    ) -> TokenStates:
        text = source[self.groups.sample[:, None], text_rows]
        if norm is not None:
            visual, text = norm(visual), norm(text)
        return TokenStates(
            at_least_float32(visual), at_least_float32(text), self.text.valid, self.text.instruction
        )

    def _embeddings(self) -> TokenStates:
        inputs, rows = self.state.inputs, self.state.carried.get(INPUT_ROWS)
        if inputs is None or rows is None:  # this is layer 0
            return self._states(self.hidden)
        device = self.hidden.device
        inputs, rows = inputs.to(device), rows.to(device)
        sample = self.groups.sample[:, None]
        return self._token_states(
            inputs[sample, self.groups.take(rows)], inputs, rows[sample, self.text.rows]
        )

    def _previous_keys(self) -> TokenStates:
        keys = self._previous_attention().all_keys().transpose(1, 2).flatten(2)
        return self._states(keys[:, -self.hidden.shape[1] :])

    def _next_attention(self) -> LayerAttention:
        cos, sin = self.embeddings()
        cached = self._cache_keys(self.boundary)
        return LayerAttention(
            bound=self.bound,
            layer=self.boundary,
            hidden=self.hidden,
            cos=cos,
            sin=sin,
            keys=None,
            past_keys=cached,
            key_valid=self._key_valid(self.boundary, 0 if cached is None else cached.shape[2]),
            layout=self.layout,
            groups=self.groups,
        )

    def _previous_attention(self) -> LayerAttention:
        previous = self._previous()
        assert previous.angles is not None
        keys = self._cache_keys(previous.layer)
        rows = previous.hidden.shape[1]
        past = 0 if keys is None else keys.shape[2] - rows
        return LayerAttention(
            bound=self.bound,
            layer=previous.layer,
            hidden=previous.hidden,
            cos=previous.angles[0],
            sin=previous.angles[1],
            keys=keys,
            past_keys=None,
            key_valid=self._key_valid(previous.layer, past),
            layout=self.layout,
            groups=self.groups,
        )

    def _cache_keys(self, layer: int) -> Tensor | None:
        cache = self.state.cache
        if cache is None or layer >= len(cache.layers) or not cache.layers[layer].is_initialized:
            return None
        keys: Tensor = cache.layers[layer].keys
        return keys.to(self.hidden.device) if keys.numel() else None

    def _key_valid(self, layer: int, past: int) -> Tensor | None:
        """Which of ``past`` cached and all new keys are real."""
        state = self.state
        stored = state.cache.layers[layer] if past else None
        old = getattr(stored, "valid", state.past_padding if past else None)
        old = None if old is None else old[:, :past]
        new = state.valid if state.columns is not None else state.new_padding
        rows = self.hidden.shape[1]
        return join_valid(old, new, state.batch, past, rows, self.hidden.device)

    def _record(self) -> VisionRecord:
        return self._located()[0]

    def _vision(self, values: Tensor | None) -> Tensor:
        """``[T, ...]`` of the vision record -> ``[batch, tokens, ...]``; zero for extra tokens."""
        assert values is not None  # `provides` says that the adapter fills it in
        _, start = self._located()
        flat = start[self.groups.sample][:, None] + self.index.clamp(min=0)
        picked: Tensor = values[flat.to(values.device)].to(self.index.device)
        real = (self.index >= 0).reshape(*self.index.shape, *[1] * (picked.ndim - 2))
        return picked * real

    def _tile(self) -> Tensor:
        """Counted within each image; the record counts through."""
        tile = self._vision(self._record().tile)
        first = tile.masked_fill(self.index < 0, FAR).amin(dim=1, keepdim=True)
        return (tile - first).clamp(min=0)

    def _encoder_layer(self, depth: float | None) -> EncoderLayer:
        layers = self._record().layers
        if depth not in layers:
            raise SignalError(
                f"the vision-encoder layer at depth {depth} was not captured: declare it in "
                "vision_depths()"
            )
        return MappedLayer(layers[depth], self._vision)

    def _located(self) -> tuple[VisionRecord, Tensor]:
        """The vision record, and where each sample's tokens begin in it."""
        record, state = self.record, self.state
        wanted = [0] * state.batch
        for (sample, _), count in state.original.items():
            wanted[sample] += count
        seen = 0 if record is None else sum(record.images)
        if record is None or seen == 0 or sum(wanted) % seen:
            raise SignalError(
                f"the prompt holds {sum(wanted)} visual tokens but the vision encoder made {seen}: "
                "vision signals need the images to pass through the model's own vision encoder"
            )
        copies = sum(wanted) // seen  # beams and returned sequences repeat every sample
        return record, on_device(_starts(wanted, copies), self.groups.sample.device)

    def _cls_feature(self) -> Tensor:
        record, _ = self._located()
        assert record.cls_features is not None
        images = [0] * self.state.batch
        for sample, _image in self.state.original:
            images[sample] += 1
        starts = _starts(images, sum(images) // len(record.images))
        chosen = [starts[group[0].sample] + group[0].image for group in self.groups.blocks]
        return record.cls_features[chosen][:, None]


def _starts(counts: list[int], copies: int) -> list[int]:
    """Where each sample begins in a record that holds ``copies`` samples in a row only once."""
    starts, total = [], 0
    for sample, count in enumerate(counts):
        starts.append(total)
        if sample % copies == copies - 1:
            total += count
    return starts
