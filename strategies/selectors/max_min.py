"""Max-min diversity (DivPrune)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokensieve.plugin import View, first_max, on_device, take_rows, torch
from tokensieve.strategies.features import FeatureSelector
from tokensieve.strategies.ordered import with_turn

if TYPE_CHECKING:
    from torch import Tensor


class MaxMinSelector(FeatureSelector):
    """Keep tokens that lie far apart: each one as far as possible from all that were taken.

    Distance is ``1 - cos``. The first token is the one whose nearest neighbor is farthest away;
    then, again and again, the token whose nearest *taken* token is farthest away, ties by lowest
    index. Scores are not read. What earlier parts of a ``composite`` took counts as taken.

    Source: DivPrune, CVPR 2025, arXiv 2503.02175, with ``features: hidden`` at boundary 0. The
    released code rounds the count to the nearest whole number; here counts are rounded down.
    """

    name = "max-min"

    def reads_scores(self) -> bool:
        """Diversity alone."""
        return False

    def take_in_order(
        self, scores: Tensor, available: Tensor, counts: list[int], view: View
    ) -> Tensor:
        """``[batch, tokens]`` turns; the loop runs over the budget."""
        distance = 1 - self.similarity(view)
        own = torch.eye(available.shape[1], dtype=torch.bool, device=available.device)
        others = available[:, None] & ~own
        # the first pick is far from all others, or, if something is taken, from that
        reach = distance.masked_fill(~others, float("inf")).amin(dim=2)
        begun = torch.zeros_like(available[:, :1])
        if view.selected is not None:
            taken = view.selected & view.valid
            begun = taken.any(dim=1, keepdim=True)
            nearest = distance.masked_fill(~taken[:, None], float("inf")).amin(dim=2)
            reach = torch.where(begun, nearest, reach)
        turns = torch.zeros_like(available, dtype=torch.long)
        wanted = on_device(counts, available.device)[:, None]
        for step in range(max(counts, default=0)):
            free = available & (turns == 0)
            pick = first_max(reach.masked_fill(~free, float("-inf")), scale=1)[:, None]
            turns = with_turn(turns, pick, step, available & (step < wanted))
            to_pick = take_rows(distance, pick)[:, 0]
            reach = torch.where(begun, reach.minimum(to_pick), to_pick)
            begun = torch.ones_like(begun)
        return turns
