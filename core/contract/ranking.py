"""Order by score: ties go to the lowest index."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokensieve.core.contract.tensors import on_device
from tokensieve.core.contract.ties import falling
from tokensieve.core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


def selection_order(scores: Tensor, kept: Tensor) -> Tensor:
    """``[batch, tokens]`` places of the kept tokens by falling score; ties by index."""
    ranked = scores.masked_fill(~kept, float("-inf"))
    return falling(ranked).argsort(dim=1)


def top_counts(scores: Tensor, available: Tensor, counts: list[int] | Tensor) -> Tensor:
    """The ``counts[i]`` highest available tokens of each row; ties go to the lowest index."""
    ranked = scores.masked_fill(~available, float("-inf"))
    order = falling(ranked)
    limit = (on_device(counts, scores.device) if isinstance(counts, list) else counts)[:, None]
    first = torch.arange(scores.shape[1], device=scores.device) < limit
    taken = torch.zeros_like(available).scatter(1, order, first)
    return taken & available
