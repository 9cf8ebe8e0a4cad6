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

    The tokens are in falling order of score. A round pairs the tokens at even places with those
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
        longest, fewest = available.shape[1], max(1, min(counts, default=1))
        while longest > fewest:  # a bound on the rounds that needs no look at the device
            order, left = _thinned(order, left, wanted, similarity)
            longest -= min(AT_ONCE, longest - fewest, (longest + 1) // 2)
        place = torch.arange(order.shape[1], device=order.device)
        turns = (place + 1).where(place < left.minimum(wanted), 0)
        return torch.zeros_like(order).scatter(1, order, turns)


def _thinned(
    order: Tensor, left: Tensor, wanted: Tensor, similarity: Tensor
) -> tuple[Tensor, Tensor]:
    """One round on the first ``left`` ``[batch, 1]`` entries of ``order`` ``[batch, tokens]``."""
    even, odd = order[:, ::2], order[:, 1::2]
    place = torch.arange(even.shape[1], device=order.device)
    even_real, odd_real = place < (left + 1) // 2, place[: odd.shape[1]] < left // 2
    rows = torch.arange(order.shape[0], device=order.device)[:, None, None]
    pairs = similarity[rows, even[:, :, None], odd[:, None]]
    closest = pairs.masked_fill(~odd_real[:, None], float("-inf")).amax(dim=2)
    ranked = falling(closest.masked_fill(~even_real, float("-inf")), scale=1)
    drop = (left - wanted).clamp(min=0, max=AT_ONCE).minimum((left + 1) // 2)
    arranged = torch.cat([even.gather(1, ranked), odd], dim=1)
    stays = torch.cat([even_real & (place >= drop), odd_real], dim=1)
    after = arranged.gather(1, (~stays).to(torch.uint8).argsort(dim=1, stable=True))
    return torch.where(drop > 0, after, order), left - drop  # a short enough list stays as it is
