"""Turn score terms into one importance per token: normalize per image, weight, add."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from tokensieve.core.contract.ties import above, falling
from tokensieve.core.contract.view import View
from tokensieve.core.gate.selection import asked_scores, check_finite
from tokensieve.core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from tokensieve.core.pipeline.stage import ScoreTerm

_EPSILON = 1e-8


def combined_scores(terms: Iterable[ScoreTerm], view: View) -> Tensor:
    """``sum_i weight_i * normalize_i(score_i)``, ``[batch, tokens]``, at least float32.

    Raises:
        PluginError: a scorer returned something that is not one finite number per token.
    """
    total: Tensor | None = None
    for term in terms:
        scores = asked_scores(term.scorer, view)
        weighted = NORMALIZERS[term.normalize](scores, view.valid) * term.weight
        total = weighted if total is None else total + weighted
    if total is None:
        return torch.zeros(view.valid.shape, device=view.valid.device)
    check_finite(f"the weighted scores at {view.place}", total, view)
    return total


def _none(scores: Tensor, valid: Tensor) -> Tensor:
    return scores


def _sum(scores: Tensor, valid: Tensor) -> Tensor:
    """``s / (sum |s| + 1e-8)`` over the image's tokens.

    TransPrune's released code divides by the sum; its scores are never negative. Absolute values
    keep the ranking of scores that are.
    """
    return scores / (scores.masked_fill(~valid, 0).abs().sum(dim=1, keepdim=True) + _EPSILON)


def extremes(scores: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest and highest score of each image, ``[batch, 1]`` each."""
    low = scores.masked_fill(~valid, float("inf")).amin(dim=1, keepdim=True)
    return low, scores.masked_fill(~valid, float("-inf")).amax(dim=1, keepdim=True)


def _minmax(scores: Tensor, valid: Tensor) -> Tensor:
    low, high = extremes(scores, valid)
    scaled = (scores - low) / (high - low + _EPSILON)
    return torch.where(above(high, low), scaled, 0)  # alike: rounding would be stretched to 0 to 1


def _rank(scores: Tensor, valid: Tensor) -> Tensor:
    """0 for the lowest, 1 for the highest; equal scores rank by index, lowest index highest."""
    order = falling(scores.masked_fill(~valid, float("-inf")))
    place = order.argsort(dim=1).to(scores.dtype)
    return 1 - place / (valid.sum(dim=1, keepdim=True) - 1).clamp(min=1)


def _zscore(scores: Tensor, valid: Tensor) -> Tensor:
    count = valid.sum(dim=1, keepdim=True)
    mean = scores.masked_fill(~valid, 0).sum(dim=1, keepdim=True) / count
    spread = (scores - mean).masked_fill(~valid, 0).square().sum(dim=1, keepdim=True) / count
    standard = (scores - mean) / (spread.sqrt() + _EPSILON)
    low, high = extremes(scores, valid)
    return torch.where(above(high, low), standard, 0)


NORMALIZERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "none": _none,
    "sum": _sum,
    "minmax": _minmax,
    "rank": _rank,
    "zscore": _zscore,
}
