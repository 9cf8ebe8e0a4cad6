"""Formulas of attention inside an encoder: from queries and keys, without a map in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

CHUNK_ELEMENTS = 4_000_000  # 16 MB of float32 scores at a time


def joined_heads(states: Tensor) -> Tensor:
    """All heads as one over the full width: ``[images, heads, rows, head dim]`` ->
    ``[images, 1, rows, heads * head dim]``."""
    return states.transpose(1, 2).flatten(2)[:, None]


def paid_attention(
    queries: Tensor, keys: Tensor, scale: float, mask: Tensor | None = None
) -> Tensor:
    """Attention that the asking rows pay: ``[images, heads, asking rows, rows]``.

    Args:
        queries: ``[images, heads, asking rows, head dim]``, in the precision of the result.
        keys: ``[images, heads, rows, head dim]``; the softmax runs over all of them.
        scale: the factor on query-key products.
        mask: addends of the products, ``[images, 1, 1, rows]``; None for nothing.
    """
    scores = (queries @ keys.transpose(2, 3)).mul_(scale)
    return (scores if mask is None else scores + mask).softmax(dim=-1)


def received_attention(
    queries: Tensor,
    keys: Tensor,
    scale: float,
    mask: Tensor | None = None,
    asks: Tensor | None = None,
) -> Tensor:
    """Attention that each row receives, mean over the rows that ask: ``[images, heads, rows]``.

    A few asking rows at a time, so that the map is never whole in memory.

    Args:
        queries: ``[images, heads, rows, head dim]``, in the precision of the result.
        keys: as ``queries``.
        scale: the factor on query-key products.
        mask: as for :func:`paid_attention`.
        asks: ``[images, rows]`` bool, the rows that ask; None for all.
    """
    images, heads, rows, _ = keys.shape
    step = max(1, CHUNK_ELEMENTS // max(1, images * heads * rows))
    total = keys.new_zeros(images, heads, rows)
    counted = None if asks is None else asks.to(keys.dtype)[:, None, :, None]
    for start in range(0, rows, step):
        span = slice(start, start + step)
        paid = paid_attention(queries[:, :, span], keys, scale, mask)
        total += (paid if counted is None else paid * counted[:, :, span]).sum(dim=2)
    return total / (rows if counted is None else counted.sum(dim=2))
