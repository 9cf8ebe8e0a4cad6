"""What a decoder layer gets for its reduced rows: mask, rotary embeddings, an armed cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from tokensieve.core.contract.adapter import AdaptedVlm
from tokensieve.core.engine.decoder import masks
from tokensieve.core.engine.decoder.cache import ReducedLayer, cache_layer
from tokensieve.core.engine.decoder.positions import next_shift, reindexed
from tokensieve.core.engine.decoder.signals import Embeddings
from tokensieve.core.engine.guard import refuse
from tokensieve.core.engine.state import ForwardState
from tokensieve.core.errors import UnsupportedError

if TYPE_CHECKING:
    from torch import Tensor


REPLACED = frozenset({"attention_mask", "position_embeddings", "position_ids"})
"""Arguments of a decoder layer that are replaced by those of the rows that are left."""


class RowSubstitution:
    """Replaces the keyword arguments that the model computed for all tokens."""

    def __init__(self, bound: AdaptedVlm, *, reindex: bool) -> None:
        self.bound = bound
        self.reindex = reindex

    def substitute(
        self, state: ForwardState, index: int, hidden: Tensor, kwargs: dict[str, Any]
    ) -> None:
        """Replace what the model computed for all tokens by what holds for the rows here."""
        cache = state.cache
        stored = None if cache is None else cache_layer(cache, index)
        if state.columns is None and not isinstance(stored, ReducedLayer):
            return
        _refuse_row_arguments(state, kwargs)
        if stored is not None and not isinstance(stored, ReducedLayer):
            stored = cache.layers[index] = ReducedLayer.take_over(stored)
        if state.odd_mask is None and state.length > 1:
            size = (state.batch, state.length, state.past + state.length)
            real = None if state.padding is None else state.padding.to(hidden.device)
            state.odd_mask = masks.differs(kwargs["attention_mask"], real, *size, hidden)
        valid = state.valid if state.columns is not None else state.new_padding
        past = 0 if stored is None else stored.rows
        key = (stored.lineage if stored is not None else (), state.lineage, str(hidden.device))
        if key not in state.substitutes:
            old = None if stored is None else stored.real(state.past_padding, past)
            rows = hidden.shape[1]
            real = masks.join_valid(old, valid, state.batch, past, rows, hidden.device)
            backend = self.bound.attention_backend
            mask = masks.layer_mask(backend, real, state.batch, rows, past + rows, hidden)
            embeddings = self.embeddings(state, index, hidden, kwargs["position_embeddings"])
            state.substitutes[key] = (mask, embeddings, self._shift(state, stored))
        mask, embeddings, shift = state.substitutes[key]
        kwargs.update(attention_mask=mask, position_embeddings=embeddings, position_ids=None)
        if stored is not None:
            columns, filled = state.stored_columns()
            stored.arm(state.length, columns, filled=filled)
            state.guard.stored[index] = past + hidden.shape[1]
            stored.shift = shift
            stored.lineage = (*stored.lineage, *state.lineage)

    def embeddings(
        self, state: ForwardState, index: int, hidden: Tensor, original: Embeddings
    ) -> Embeddings:
        """Rotary embeddings of today's rows."""
        shift = self._stored_shift(state, index)
        if state.columns is None and shift is None:
            return original
        if shift is not None and not self.reindex:
            raise UnsupportedError(
                "this KV cache was pruned with contiguous positions (reindex): continue it with a "
                "pipeline of the same policy"
            )
        if not self.reindex or (state.removed is None and shift is None):
            return self._gathered(state, original)
        ids = self._current_ids(state, shift).to(hidden.device)
        cos, sin = self.bound.rotary.forward(hidden, ids if self.bound.mrope else ids[0])
        return cos, sin

    def _gathered(self, state: ForwardState, original: Embeddings) -> Embeddings:
        if state.columns is None:
            return original
        columns = state.columns.to(original[0].device)
        cos, sin = (
            part.expand(state.batch, -1, -1).gather(
                1, columns[..., None].expand(*columns.shape, part.shape[-1])
            )
            for part in original
        )
        return cos, sin

    def _current_ids(self, state: ForwardState, shift: Tensor | None) -> Tensor:
        """``[axes, batch, rows]`` ids of today's rows under the reindex policy."""
        ids = self._model_ids(state)
        if state.columns is not None:
            columns = state.columns.to(ids.device)
            ids = ids.gather(2, columns[None].expand(ids.shape[0], -1, -1))
        if state.removed is None:  # every decode step: ids only follow what earlier turns removed
            return ids if shift is None else ids - shift.to(ids.device)[:, None]
        valid = state.valid if state.columns is not None else state.new_padding
        return reindexed(
            ids,
            None if valid is None else valid.to(ids.device),
            state.removed.to(ids.device),
            None if shift is None else shift.to(ids.device),
        )

    def _model_ids(self, state: ForwardState) -> Tensor:
        if state.positions is None:
            raise UnsupportedError("the decoder made no rotary positions: cannot reindex")
        return state.positions

    def _stored_shift(self, state: ForwardState, index: int) -> Tensor | None:
        cache = state.cache
        if cache is None or index >= len(cache.layers):
            return None
        shift: Tensor | None = getattr(cache.layers[index], "shift", None)
        return shift

    def _shift(self, state: ForwardState, stored: ReducedLayer | None) -> Tensor | None:
        """What ids of later tokens have to move by in this layer."""
        before = None if stored is None else stored.shift
        if not self.reindex or state.columns is None:
            return before
        full, padding = self._model_ids(state), state.new_padding
        real = None if padding is None else padding.to(full.device)
        now = None if state.valid is None else state.valid.to(full.device)
        return next_shift(full, real, self._current_ids(state, before), now)


def _refuse_row_arguments(state: ForwardState, kwargs: dict[str, Any]) -> None:
    """An argument with one entry per token that is not known would not fit the rows that stay."""
    if state.columns is None:
        return
    for name in kwargs.keys() - REPLACED:
        value = kwargs[name]
        for part in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(part, torch.Tensor) and state.length in part.shape[1:]:
                raise refuse(f"the decoder layers get {name!r}, which has an entry per token")
