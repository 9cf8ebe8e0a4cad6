"""The k worst."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokensieve.plugin import Selector, View, selection_order, top_counts

if TYPE_CHECKING:
    from torch import Tensor


class BottomKSelector(Selector):
    """Keep the tokens with the lowest importance; equal ones by lowest index.

    The control for any scorer: if the worst tokens answer as well as the best, the ranking says
    nothing.
    """

    name = "bottom-k"

    def select(self, scores: Tensor, available: Tensor, counts: list[int], view: View) -> Tensor:
        """``[batch, tokens]`` bool."""
        return top_counts(-scores, available, counts)

    def order(self, scores: Tensor, kept: Tensor, view: View) -> Tensor:
        """Least important first."""
        return selection_order(-scores, kept)
