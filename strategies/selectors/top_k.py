"""The k best."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokensieve.plugin import Selector, View, top_counts

if TYPE_CHECKING:
    from torch import Tensor


class TopKSelector(Selector):
    """Keep the tokens with the highest importance; equal ones by lowest index."""

    name = "top-k"

    def select(self, scores: Tensor, available: Tensor, counts: list[int], view: View) -> Tensor:
        """``[batch, tokens]`` bool."""
        return top_counts(scores, available, counts)
