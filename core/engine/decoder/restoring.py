"""Give the caller of a decoder one row per input token back, and only rows that are there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from tokensieve.core.engine.call import Call
from tokensieve.core.engine.guard import refuse
from tokensieve.core.engine.rows import Rows
from tokensieve.core.engine.state import ForwardState, Prompt
from tokensieve.core.errors import UnsupportedError

if TYPE_CHECKING:
    from torch import Tensor


def restored(
    state: ForwardState, call: Call, rows: Rows, input_rows: Tensor, output: Any
) -> object:
    """What the decoder's hook returns: rows of dropped tokens are zero.

    Raises:
        UnsupportedError: the caller reads such a row.
    """
    state.guard.restored = True
    whole = isinstance(output, tuple)  # with return_dict=False
    hidden: Tensor = output[0] if whole else output.last_hidden_state
    if hidden.shape[:2] != input_rows.shape:
        raise refuse(
            f"the decoder gave {list(hidden.shape[:2])} rows where {list(input_rows.shape)} "
            "were kept"
        )
    _check_read(state.prompt, call, rows, input_rows)
    if rows.layout.ragged() and rows.valid is not None:
        hidden = hidden.masked_fill(~rows.valid.to(hidden.device)[..., None], 0)
    full = hidden.new_zeros(hidden.shape[0], state.prompt.length, hidden.shape[2])
    index = input_rows.to(hidden.device)[..., None].expand(*input_rows.shape, hidden.shape[2])
    full.scatter_(1, index, hidden)
    if whole:
        return (full, *output[1:])
    output.last_hidden_state = full
    return None


def _check_read(prompt: Prompt, call: Call, rows: Rows, input_rows: Tensor) -> None:
    """Rows that the caller is known to read are rows that are there."""
    wanted: Any = call.arguments.get("logits_to_keep")
    if wanted is None:
        wanted = 0
    device = input_rows.device
    where = wanted.device if isinstance(wanted, torch.Tensor) else device
    if isinstance(wanted, int):
        last = wanted or int(call.owner == "generate")
        if 0 <= last <= prompt.tail:  # known without a look at the device
            return
        wanted = slice(-last, None)
    try:
        read = torch.arange(prompt.length, device=where)[wanted]
    except IndexError:  # there is no such row: the model says so itself
        return
    there = torch.zeros(prompt.batch, prompt.length, dtype=torch.bool, device=device)
    valid = torch.ones_like(input_rows).bool() if rows.valid is None else rows.valid
    there.scatter_(1, input_rows, valid.to(device))
    if prompt.new_padding is not None:
        there |= ~prompt.new_padding.to(device)
    if not bool(there[:, read.to(device)].all()):
        raise UnsupportedError(
            "logits of removed visual tokens are read (the prompt ends with an image, or "
            "logits_to_keep reaches into one): put text behind the image"
        )
