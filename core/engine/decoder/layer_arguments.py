"""Arguments of a decoder layer for its current rows: mask, rotary embeddings, a fitting cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from tokensieve.core.contract.adapter import AdaptedVlm
from tokensieve.core.contract.tensors import on_device, take_rows
from tokensieve.core.engine.decoder import masks
from tokensieve.core.engine.decoder.cache import ReducedLayer, reduced_layer
from tokensieve.core.engine.decoder.positions import next_offset, reindexed
from tokensieve.core.engine.decoder.state import DecoderState, Embeddings, LayerArguments
from tokensieve.core.engine.guard import refuse
from tokensieve.core.errors import UnsupportedError

if TYPE_CHECKING:
    from torch import Tensor


REPLACED = frozenset({"attention_mask", "position_embeddings", "position_ids"})
"""Arguments of a decoder layer that are replaced by those of the rows that are left."""


def swapped_cache(
    state: DecoderState, index: int, given: Mapping[str, object]
) -> ReducedLayer | None:
    """The cache of a layer, if its rows are reduced or will be: a plain one is swapped for that.

    Raises:
        GuardError: the layer is ``given`` something with an entry per token.
    """
    moved = state.input_rows is not None
    if moved:
        _refuse_row_arguments(given, state.prompt.length)
    return None if state.cache is None else reduced_layer(state.cache, index, swap=moved)


def _refuse_row_arguments(given: Mapping[str, object], length: int) -> None:
    """An argument with one entry per token that is not known would not fit the rows that stay."""
    for name in given.keys() - REPLACED:
        value = given[name]
        for part in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(part, torch.Tensor) and length in part.shape[1:]:
                raise refuse(f"the decoder layers get {name!r}, which has an entry per token")


def announce_rows(
    state: DecoderState, index: int, stored: ReducedLayer, rows: int, offset: Tensor | None
) -> None:
    """Tell the cache of a layer, and the guard, which ``rows`` it is going to store."""
    state.guard.stored[index] = stored.rows + rows
    stored.position_offset = offset
    if state.rows is None:
        stored.expect(state.prompt.length, None, filled=False)
        return
    filled = state.input_rows is not None and state.rows.layout.ragged()
    stored.expect(state.prompt.length, state.rows.real_input_rows(), filled=filled)
    stored.reductions = (*stored.reductions, *state.rows.reductions)


class RowArguments:
    """Makes anew, for the current rows, what the model computed for all tokens."""

    def __init__(self, bound: AdaptedVlm, *, reindex: bool) -> None:
        self.bound = bound
        self.reindex = reindex

    def fitted(
        self, state: DecoderState, index: int, hidden: Tensor, given: dict[str, Any]
    ) -> dict[str, Any]:
        """The arguments of a layer for the current rows, which its cache then expects."""
        stored = swapped_cache(state, index, given)
        if stored is None and state.input_rows is None:
            return given
        prompt = state.prompt
        if state.other_mask is None and prompt.length > 1:
            size = (prompt.batch, prompt.length, prompt.past + prompt.length)
            real = _on(hidden.device, prompt.padding)
            state.other_mask = masks.differs(given["attention_mask"], real, *size, hidden)
        key = (  # layers with the same rows, current and cached, share their arguments
            () if stored is None else stored.reductions,
            () if state.rows is None else state.rows.reductions,
            str(hidden.device),
        )
        if key not in state.arguments:
            original = given["position_embeddings"]
            state.arguments[key] = self.layer_arguments(state, stored, hidden, original)
        mine = state.arguments[key]
        if stored is not None:
            announce_rows(state, index, stored, hidden.shape[1], mine.position_offset)
        fitting = {"attention_mask": mine.mask, "position_embeddings": mine.embeddings}
        return {**given, **fitting, "position_ids": None}

    def layer_arguments(
        self,
        state: DecoderState,
        stored: ReducedLayer | None,
        hidden: Tensor,
        original: Embeddings,
    ) -> LayerArguments:
        """The arguments for the rows ``hidden`` after those that are ``stored``; changes nothing.

        ``original`` are the rotary embeddings of all tokens of the forward.
        """
        prompt, rows, device = state.prompt, hidden.shape[1], hidden.device
        past = 0 if stored is None else stored.rows
        old = None if stored is None else stored.real(prompt.past_padding, past)
        real = masks.join_valid(old, state.valid, prompt.batch, past, rows, device)
        backend = self.bound.attention_backend
        mask = masks.layer_mask(backend, real, prompt.batch, rows, past + rows, hidden)
        before = None if stored is None else stored.position_offset
        embeddings = self.embeddings(state, before, hidden, original)
        if not self.reindex or state.input_rows is None:
            return LayerArguments(mask, embeddings, before)
        now = _current_ids(state, before)
        padding, valid = _on(now.device, prompt.new_padding), _on(now.device, state.valid)
        after = next_offset(_model_ids(state), padding, now, valid)
        return LayerArguments(mask, embeddings, after)

    def embeddings(
        self, state: DecoderState, offset: Tensor | None, hidden: Tensor, original: Embeddings
    ) -> Embeddings:
        """Rotary embeddings of the current rows, where earlier turns moved positions by an offset.

        Raises:
            UnsupportedError: they did, and this pipeline keeps positions.
        """
        input_rows = state.input_rows
        if offset is not None and not self.reindex:
            raise UnsupportedError(
                "this KV cache was pruned with contiguous positions (reindex): continue it with a "
                "pipeline of the same policy"
            )
        if self.reindex and (input_rows is not None or offset is not None):
            ids = _current_ids(state, offset).to(hidden.device)
            cos, sin = self.bound.rotary.forward(hidden, ids if self.bound.mrope else ids[0])
            return cos, sin
        if input_rows is None:
            return original
        input_rows = input_rows.to(original[0].device)
        cos, sin = (
            take_rows(part.expand(state.prompt.batch, -1, -1), input_rows) for part in original
        )
        return cos, sin


def _current_ids(state: DecoderState, offset: Tensor | None) -> Tensor:
    """``[axes, batch, rows]`` ids of the current rows if they are counted anew."""
    ids = _model_ids(state)
    if state.rows is None or state.rows.input_rows is None:
        # every decode step: ids only follow what earlier turns removed
        return ids if offset is None else ids - offset.to(ids.device)[:, None]
    input_rows = state.rows.input_rows.to(ids.device)
    ids = ids.gather(2, input_rows[None].expand(ids.shape[0], -1, -1))
    lost = on_device(list(state.rows.lost), ids.device)
    return reindexed(ids, _on(ids.device, state.valid), lost, _on(ids.device, offset))


def _model_ids(state: DecoderState) -> Tensor:
    if state.positions is None:
        raise UnsupportedError("the decoder made no rotary positions: cannot reindex")
    return state.positions


def _on(device: torch.device, tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.to(device)
