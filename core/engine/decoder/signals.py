"""The signals at a boundary of a vision-language model's decoder."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

from tokensieve.core.contract.adapter import AdaptedVlm
from tokensieve.core.contract.signals import EncoderLayer, TokenStates
from tokensieve.core.contract.tensors import at_least_float32
from tokensieve.core.contract.vision_record import MappedLayer
from tokensieve.core.engine.board import BoundarySignals, Readers
from tokensieve.core.engine.decoder.attention import LayerAttention
from tokensieve.core.engine.decoder.cache import ReducedLayer
from tokensieve.core.engine.decoder.masks import join_valid
from tokensieve.core.engine.decoder.text import TextRows
from tokensieve.core.engine.evidence import UNKNOWN, Evidence
from tokensieve.core.engine.reduction import Groups
from tokensieve.core.engine.state import INPUT_ROWS, ForwardState
from tokensieve.core.errors import SignalError

if TYPE_CHECKING:
    from torch import Tensor

Embeddings = tuple["Tensor", "Tensor"]
FAR = 1 << 30


class SignalBoard(BoundarySignals):
    """Everything the view of a boundary of a decoder can be asked for."""

    def __init__(
        self,
        bound: AdaptedVlm,
        state: ForwardState,
        groups: Groups,
        boundary: int,
        hidden: Tensor,
        embeddings: Callable[[], Embeddings],
    ) -> None:
        super().__init__(bound, state, groups, boundary, hidden)
        self.bound = bound
        self.embeddings = embeddings

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
            "vision_features": lambda: self._field("features"),
            "grid": lambda: self._field("grid"),
            "tile": self._tile,
            "clip_relevance": lambda: self._field("clip_relevance"),
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
        old = state.past_padding if past else None
        if isinstance(stored, ReducedLayer):
            old = stored.real(old, past)
        new = state.valid if state.columns is not None else state.new_padding
        rows = self.hidden.shape[1]
        return join_valid(old, new, state.batch, past, rows, self.hidden.device)

    def _evidence(self) -> Evidence:
        evidence = self.state.evidence
        if evidence is None:
            raise SignalError(f"no vision encoder ran: {UNKNOWN}")
        return evidence

    def _field(self, name: str) -> Tensor:
        return self._vision(self._evidence().field(name))

    def _vision(self, values: Tensor) -> Tensor:
        """``[T, ...]`` of the used records -> ``[batch, tokens, ...]``; zero for extra tokens."""
        places = self._evidence().places[self.groups.sample]
        flat = places.gather(1, self.index.clamp(min=0))
        picked: Tensor = values[flat.to(values.device)].to(self.index.device)
        real = (self.index >= 0).reshape(*self.index.shape, *[1] * (picked.ndim - 2))
        return picked * real

    def _tile(self) -> Tensor:
        """Counted within each image; the record counts through."""
        tile = self._field("tile")
        first = tile.masked_fill(self.index < 0, FAR).amin(dim=1, keepdim=True)
        return (tile - first).clamp(min=0)

    def _encoder_layer(self, depth: float | None) -> EncoderLayer:
        evidence = self._evidence()
        if any(depth not in record.layers for record in evidence.records):
            raise SignalError(
                f"the vision-encoder layer at depth {depth} was not captured: declare it in "
                "vision_depths()"
            )
        return MappedLayer(evidence.layer(depth), self._vision)

    def _cls_feature(self) -> Tensor:
        keys = [(group[0].sample, group[0].image) for group in self.groups.blocks]
        return self._evidence().cls_features(keys)[:, None]
