"""Thinning out duplicates (VisPruner)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokensieve.plugin import View, falling, on_device, selection_order, torch
from tokensieve.strategies.features import Features, FeatureSelector

if TYPE_CHECKING:
    from torch import Tensor

AT_ONCE = 8


class DedupeSelector(FeatureSelector):
    """Remove, again and again, the tokens that most resemble another one, until the budget is met.

    The tokens stand in falling order of score. A round pairs the tokens at even places with those
    at odd places: of the even ones the ``q = min(8, tokens too many)`` whose nearest odd one is
    most similar (cosine) go. The remaining even ones, most similar first, then the odd ones, make
    the order of the next round.

    Source: VisPruner, ICCV 2025, arXiv 2412.01818, second half of its budget (as the last part of
    a ``composite``), and its released code, which fails where the number of tokens is odd. The
    rule is chaotic: in float32 the order of two nearly equal similarities, and so every later
    pairing, depends on rounding. Another backend can keep another set; sizes and quality agree.
    """

    name = "dedupe"

    features: Features = "vision_features"

    def take_in_order(
        self, scores: Tensor, available: Tensor, counts: list[int], view: View
    ) -> Tensor:
        """``[batch, tokens]`` turns; the loop runs over rounds of eight tokens."""
        similarity = self.similarity(view)
        wanted = on_device(counts, available.device)[:, None]
        order = selection_order(scores, available).argsort(dim=1)
        left = available.sum(dim=1, keepdim=True)
        for _ in range(_rounds(available.shape[1], min(counts, default=0))):
            order, left = _thinned(order, left, wanted, similarity)
        place = torch.arange(order.shape[1], device=order.device)
        turns = (place + 1).where(place < left.minimum(wanted), 0)
        return torch.zeros_like(order).scatter(1, order, turns)


def _rounds(tokens: int, count: int) -> int:
    """Rounds that the longest list needs for the smallest budget."""
    rounds = 0
    while tokens > count:
        tokens -= min(AT_ONCE, tokens - count, (tokens + 1) // 2)
        rounds += 1
    return rounds


def _thinned(
    order: Tensor, left: Tensor, wanted: Tensor, similarity: Tensor
) -> tuple[Tensor, Tensor]:
    """One round on the first ``left`` ``[batch, 1]`` entries of ``order`` ``[batch, tokens]``."""
    even, odd = order[:, ::2], order[:, 1::2]
    odd_real = torch.arange(odd.shape[1], device=order.device) < left // 2
    even_count = (left + 1) // 2
    even_place = torch.arange(even.shape[1], device=order.device)
    rows = torch.arange(order.shape[0], device=order.device)[:, None, None]
    pairs = similarity[rows, even[:, :, None], odd[:, None]]
    nearest = pairs.masked_fill(~odd_real[:, None], float("-inf"))
    closest = nearest.amax(dim=2) if odd.shape[1] else nearest.new_full(even.shape, float("-inf"))
    lone = torch.finfo(closest.dtype).min  # a real token without partner, before the filler
    closest = closest.clamp(min=lone).masked_fill(even_place >= even_count, float("-inf"))
    ranked = falling(closest, scale=1)
    drop = (left - wanted).clamp(min=0).clamp(max=AT_ONCE).minimum(even_count)
    far = order.shape[1]
    even_key = (even_place - drop).masked_fill(
        (even_place < drop) | (even_place >= even_count), far
    )
    odd_key = torch.arange(odd.shape[1], device=order.device) + even_count - drop
    keys = torch.cat([even_key, odd_key.masked_fill(~odd_real, far)], dim=1)
    arranged = torch.cat([even.gather(1, ranked), odd], dim=1)
    after = arranged.gather(1, keys.argsort(dim=1, stable=True))
    finished = drop == 0  # the order of a list that is short enough stays as it is
    return torch.where(finished, order, after), left - drop
