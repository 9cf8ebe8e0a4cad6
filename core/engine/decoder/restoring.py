"""Give the caller of a decoder one row per input token back, and only rows that are there."""

from __future__ import annotations

from typing import Any

import torch

from tokensieve.core.engine.call import Call
from tokensieve.core.engine.guard import refuse
from tokensieve.core.engine.state import ForwardState
from tokensieve.core.errors import UnsupportedError


def restored(state: ForwardState, call: Call, output: Any) -> Any:
    """What the decoder's hook returns: rows of dropped tokens are zero.

    Raises:
        UnsupportedError: the caller reads such a row.
    """
    assert state.columns is not None
    state.guard.restored = True
    whole = isinstance(output, tuple)  # with return_dict=False
    hidden = output[0] if whole else output.last_hidden_state
    if hidden.shape[:2] != state.columns.shape:
        raise refuse(
            f"the decoder gave {list(hidden.shape[:2])} rows where {list(state.columns.shape)} "
            "were kept"
        )
    _check_read(state, call)
    columns = state.columns.to(hidden.device)
    if state.layout is not None and state.layout.ragged():
        assert state.valid is not None
        hidden = hidden.masked_fill(~state.valid.to(hidden.device)[..., None], 0)
    full = hidden.new_zeros(hidden.shape[0], state.length, hidden.shape[2])
    index = columns[..., None].expand(*columns.shape, hidden.shape[2])
    full.scatter_(1, index, hidden)
    if whole:
        return (full, *output[1:])
    output.last_hidden_state = full
    return None


def _check_read(state: ForwardState, call: Call) -> None:
    """Rows that the caller is known to read are rows that are there."""
    assert state.columns is not None
    wanted = call.arguments.get("logits_to_keep")
    if wanted is None:
        wanted = 0
    if isinstance(wanted, int):
        last = wanted or int(call.owner == "generate")
        if 0 <= last <= state.tail:  # known without a look at the device
            return
        wanted = slice(-last, None)
    try:
        where = wanted.device if isinstance(wanted, torch.Tensor) else state.columns.device
        rows = torch.arange(state.length, device=where)[wanted]
    except IndexError:  # there is no such row: the model says so itself
        return
    there = torch.zeros(state.batch, state.length, dtype=torch.bool, device=state.columns.device)
    valid = torch.ones_like(state.columns).bool() if state.valid is None else state.valid
    there.scatter_(1, state.columns.to(there.device), valid.to(there.device))
    if state.new_padding is not None:
        there |= ~state.new_padding.to(there.device)
    if not bool(there[:, rows.to(there.device)].all()):
        raise UnsupportedError(
            "logits of removed visual tokens are read (the prompt ends with an image, or "
            "logits_to_keep reaches into one): put text behind the image"
        )
