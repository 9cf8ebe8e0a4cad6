"""Comparing tokens with each other: what several strategies share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokensieve.plugin import first_max, torch

if TYPE_CHECKING:
    from torch import Tensor


def nearest(directions: Tensor, targets: Tensor, allowed: Tensor) -> Tensor:
    """Which target each token is most similar to, as rows with a single 1.

    Args:
        directions: ``[batch, tokens, n]`` unit vectors.
        targets: ``[batch, targets, n]`` unit vectors.
        allowed: ``[batch, targets]`` bool; ties go to the first allowed target.

    Returns:
        ``[batch, tokens, targets]``.
    """
    similar = directions @ targets.transpose(1, 2)
    best = first_max(similar.masked_fill(~allowed[:, None], float("-inf")), scale=1)
    return torch.zeros_like(similar).scatter(2, best[..., None], 1.0)
