"""Position ids of reduced rows.

Ids are handled as ``[axes, batch, rows]`` (one axis for RoPE, three for M-RoPE).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def reindexed(
    positions: Tensor, valid: Tensor | None, removed: Tensor, offset: Tensor | None
) -> Tensor:
    """Contiguous ids for the samples that lost rows; the others keep theirs.

    The first real row of a sample keeps its id (less ``offset``), every further one counts up by
    one on all axes. So a one-dimensional id becomes ``id - rows removed before it``, as in
    TransPrune and PyramidDrop, whatever the padding.

    Args:
        positions: ``[axes, batch, rows]`` ids that the model gave these rows.
        valid: ``[batch, rows]`` bool or None.
        removed: ``[batch]`` bool, whether the sample lost rows in this forward.
        offset: ``[batch]`` what earlier turns removed, or None.
    """
    base = positions if offset is None else positions - offset[:, None]
    real = torch.ones_like(positions[0], dtype=torch.bool) if valid is None else valid
    rank = real.long().cumsum(dim=1) - 1
    far = torch.iinfo(base.dtype).max
    first = base.amin(dim=0).masked_fill(~real, far).amin(dim=1, keepdim=True)
    contiguous = (first + rank).clamp(min=0).expand_as(base)
    return torch.where(removed[:, None], contiguous, base)


def next_offset(
    original: Tensor, original_valid: Tensor | None, current: Tensor, valid: Tensor | None
) -> Tensor:
    """``[batch]``: how far the ids of tokens to come have to move.

    ``original`` are the ids of all tokens of the forward (M-RoPE counts on from the largest, be it
    of a dropped token), ``current`` those of the rows that are left.
    """

    def end(ids: Tensor, real: Tensor | None) -> Tensor:
        top = ids.amax(dim=0)
        return (top if real is None else top.masked_fill(~real, -1)).amax(dim=1)

    return end(original, original_valid) - end(current, valid)
