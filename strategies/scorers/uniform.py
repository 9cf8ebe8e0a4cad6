"""Evenly spread tokens: the other floor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokensieve.plugin import Scorer, View, torch

if TYPE_CHECKING:
    from torch import Tensor

BITS = 12  # grids up to 4096 tokens a side


class UniformScorer(Scorer):
    """Rank visual tokens so that the best k lie evenly over the picture, for every k.

    Tokens are taken in the order of a Bayer (ordered dithering) matrix over rows and columns: the
    first four are a quarter of the picture apart, the next twelve fill the gaps, and so on.
    """

    name = "uniform"
    needs = frozenset({"grid"})

    def score(self, view: View) -> Tensor:
        """``[batch, tokens]`` one minus the place in the order, in (0, 1]."""
        row, column = view.grid.long().unbind(-1)
        order = torch.zeros_like(row)
        for bit in range(BITS):
            pair = (((row >> bit) ^ (column >> bit)) & 1) * 2 + ((row >> bit) & 1)
            order = (order << 2) | pair
        scores: Tensor = (1 - order.double() / 4**BITS).float()
        return scores
