"""Attention inside a vision encoder, from queries and keys, without an attention map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tokensieve.core.lazy import torch
from tokensieve.core.view import at_least_float32

if TYPE_CHECKING:
    from torch import Tensor

CHUNK_ELEMENTS = 4_000_000  # 16 MB of float32 scores at a time


def feeding_layer(layers: Sequence[Any], index: int) -> Any:
    """The layer whose output is ``hidden_states[index]``; None for 0, the patch embeddings.

    ``hidden_states`` has one entry more than there are layers: -1 is the last layer's output and
    1 the first's.
    """
    number = index if index >= 0 else len(layers) + 1 + index
    return layers[number - 1] if 0 < number <= len(layers) else None


def cls_row(queries: Tensor, keys: Tensor, scale: float) -> Tensor:
    """Attention of the first token to all others.

    ``[images, heads, tokens, head dim]`` -> ``[images, heads, tokens - 1]``: softmax over all
    tokens, [CLS] included, then [CLS]'s own column cut off.
    """
    queries, keys = at_least_float32(queries[:, :, :1]), at_least_float32(keys)
    scores = (queries @ keys.transpose(2, 3)) * scale
    return scores.softmax(dim=-1)[:, :, 0, 1:]


def received(queries: Tensor, keys: Tensor, scale: float) -> Tensor:
    """Attention that each token receives, mean over the queries: ``[images, heads, tokens]``.

    A few query rows at a time; the map is never whole in memory.
    """
    queries, keys = at_least_float32(queries), at_least_float32(keys)
    images, heads, tokens, _ = keys.shape
    step = max(1, CHUNK_ELEMENTS // max(1, images * heads * tokens))
    total = torch.zeros(images, heads, tokens, dtype=keys.dtype, device=keys.device)
    for rows in queries.split(step, dim=2):
        scores = (rows @ keys.transpose(2, 3)).mul_(scale)
        total += scores.softmax(dim=-1).sum(dim=2)
    return total / queries.shape[2]


def raster(rows: int, columns: int, images: int) -> Tensor:
    """``[images * rows * columns, 2]`` row and column of every token, image after image."""
    one: Tensor = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
    repeated: Tensor = one.repeat(images, 1)
    return repeated


def split_heads(states: Tensor, heads: int) -> Tensor:
    """``[images, tokens, dim]`` -> ``[images, heads, tokens, head dim]``."""
    split: Tensor = states.unflatten(-1, (heads, -1)).transpose(1, 2)
    return split
