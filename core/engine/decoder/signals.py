"""The signals at a boundary of a vision-language model's decoder."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from transformers.cache_utils import DynamicLayer

from tokensieve.core.contract.adapter import AdaptedVlm
from tokensieve.core.contract.signals import EncoderLayer, TokenStates
from tokensieve.core.contract.tensors import at_least_float32
from tokensieve.core.contract.vision_record import MappedLayer
from tokensieve.core.engine.boundary_signals import BoundarySignals, Readers
from tokensieve.core.engine.decoder.attention import LayerAttention, LayerInputs
from tokensieve.core.engine.decoder.cache import ReducedLayer
from tokensieve.core.engine.decoder.masks import join_valid
from tokensieve.core.engine.decoder.state import DecoderState, Embeddings
from tokensieve.core.engine.decoder.text import TextRows
from tokensieve.core.engine.matched_records import UNKNOWN, MatchedRecords
from tokensieve.core.engine.reduction import Groups
from tokensieve.core.engine.rows import Rows
from tokensieve.core.errors import SignalError

if TYPE_CHECKING:
    from torch import Tensor

FAR = 1 << 30
INPUT_ROWS = "rows of the inputs"
"""Name of the row tensor that says where the current rows were in what entered layer 0."""


class DecoderSignals(BoundarySignals):
    """Everything the view of a boundary of a decoder can be asked for.

    Attributes:
        embeddings: computes the rotary embeddings of the current rows.
    """

    def __init__(
        self,
        bound: AdaptedVlm,
        state: DecoderState,
        rows: Rows,
        groups: Groups,
        boundary: int,
        hidden: Tensor,
        embeddings: Callable[[], Embeddings],
    ) -> None:
        super().__init__(bound, state, rows, groups, boundary, hidden)
        self.bound = bound
        self.decoder = state
        self.embeddings = embeddings

    def project(self, vectors: Tensor) -> Tensor:
        """Through the model's own projector."""
        return self.bound.project(vectors)

    def readers(self) -> Readers:
        """What all engines read, text, and the record of the vision encoder."""
        return super().readers() | {
            "normed_states": lambda: self._states(self.hidden, self.bound.final_norm),
            "embeddings": self._embeddings,
            "previous_keys": lambda: self._states(
                self._previous_inputs()[1].keys[:, :, -self.hidden.shape[1] :]
                .transpose(1, 2).flatten(2)
            ),
            "next_attention": self._next_attention,
            "previous_attention": lambda: self._attention(*self._previous_inputs()),
            "vision_attention": lambda: self._encoder_layer(None).attention(),
            "vision_keys": lambda: self._encoder_layer(None).keys(),
            "vision_features": lambda: self._field("features"),
            "grid": lambda: self._field("grid"),
            "tile": self._tile,
            "clip_relevance": lambda: self._field("clip_relevance"),
            "encoder_layers": lambda: self._encoder_layer,
            "cls_feature": self._cls_feature,
        }  # fmt: skip

    @cached_property
    def text(self) -> TextRows:
        """The text among the current rows."""
        return TextRows.of(self.rows.layout, self.groups)

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
        inputs, rows = self.state.captures.inputs, self.rows.row_tensors.get(INPUT_ROWS)
        if inputs is None or rows is None:  # this is layer 0
            return self._states(self.hidden)
        device = self.hidden.device
        inputs, rows = inputs.to(device), rows.to(device)
        sample = self.groups.sample[:, None]
        return self._token_states(
            inputs[sample, self.groups.take(rows)], inputs, rows[sample, self.text.rows]
        )

    def _next_attention(self) -> LayerAttention:
        """Of the layer about to run: its keys are not in its cache yet."""
        layer, hidden, angles = self.boundary, self.hidden, self.embeddings()
        keys = self.bound.rotate(self.bound.keys(layer, hidden), *angles)
        cached = self._cache_keys(layer)
        if cached is not None:
            keys = torch.cat([cached.to(keys.device), keys], dim=2)
        return self._attention(layer, self._inputs(layer, hidden, angles, keys))

    def _previous_inputs(self) -> tuple[int, LayerInputs]:
        """The layer that has run, and what it computed attention from."""
        previous = self.previous()
        assert previous.angles is not None  # a decoder has some
        layer, hidden, angles = previous.layer, previous.hidden, previous.angles
        keys = self._cache_keys(layer)
        if keys is None:
            keys = self.bound.rotate(self.bound.keys(layer, hidden), *angles)
        return layer, self._inputs(layer, hidden, angles, keys)

    def _attention(self, layer: int, inputs: LayerInputs) -> LayerAttention:
        return LayerAttention(self.bound, layer, inputs, self.rows.layout, self.groups)

    def _inputs(self, layer: int, hidden: Tensor, angles: Embeddings, keys: Tensor) -> LayerInputs:
        """With the keys that are real: what the cache says of old ones, and the current rows."""
        rows, state = self.hidden.shape[1], self.decoder
        past = keys.shape[2] - rows
        old = state.prompt.past_padding if past else None
        stored = state.cache.layers[layer] if past and state.cache is not None else None
        if isinstance(stored, ReducedLayer):
            old = stored.real(old, past)
        batch, device = state.prompt.batch, self.hidden.device
        return LayerInputs(
            hidden, angles, keys, join_valid(old, state.valid, batch, past, rows, device)
        )

    def _cache_keys(self, layer: int) -> Tensor | None:
        layers = [] if self.decoder.cache is None else self.decoder.cache.layers
        stored = layers[layer] if layer < len(layers) else None
        if not isinstance(stored, DynamicLayer) or stored.keys is None:
            return None
        return stored.keys.to(self.hidden.device) if stored.keys.numel() else None

    def _evidence(self) -> MatchedRecords:
        evidence = self.decoder.evidence
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
