"""Anchors and their neighbors (HiPrune)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from tokensieve.plugin import Share, View, selection_order, top_counts, torch
from tokensieve.strategies.first_choice import FirstChoiceSelector
from tokensieve.strategies.ordered import top_in_order

if TYPE_CHECKING:
    from torch import Tensor


class DilatedSelector(FirstChoiceSelector):
    """First the best tokens of ``score`` with their neighbors, then the best of the stage's.

    ``round(budget * share / 5)`` anchors bring the tokens left, right, above and below along.
    Neighbors are counted along the raster (one before and after, one row before and after),
    clamped to the image's first and last token; so the left neighbor of a row's first token is
    the end of the row before, as in the release. A token that is no longer there is no neighbor.
    With ``order: selection`` anchors and neighbors are in raster order, the others after
    them, most important first.

    Source: HiPrune, arXiv 2508.00553, and its released code.
    """

    name = "dilated"
    needs = frozenset({"grid"})

    share: Share = Field(default=0.1, description="share of the budget for anchors and neighbors")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        """Shares that give small images an anchor; the stage's own score, and another one."""
        return [{"share": 1.0}, {"share": 0.5, "score": "cls-attention"}]

    def first(self, scores: Tensor, available: Tensor, counts: list[int], view: View) -> Tensor:
        """Turns of anchors and their neighbors, ``[batch, tokens]``."""
        wanted = [round(count * self.share / 5) for count in counts]
        if not any(wanted):
            return torch.zeros_like(available, dtype=torch.long)
        anchors = top_counts(scores, available, wanted)
        chosen = _with_neighbours(anchors & (view.index >= 0), max(wanted), view)
        return top_in_order(chosen.float(), chosen & available, counts)


def _with_neighbours(anchors: Tensor, most: int, view: View) -> Tensor:
    """At most ``most`` anchors and what is next to them, ``[batch, tokens]`` bool."""
    real = view.valid & (view.index >= 0)
    far = torch.iinfo(view.index.dtype).max
    lowest = view.index.masked_fill(~real, far).amin(dim=1, keepdim=True)
    highest = view.index.masked_fill(~real, -1).amax(dim=1, keepdim=True)
    columns = view.grid[..., 1].masked_fill(~real, 0).amax(dim=1, keepdim=True) + 1
    one = torch.ones_like(columns)
    steps = torch.cat([0 * one, -one, one, -columns, columns], dim=1)
    places = selection_order(anchors.float(), anchors).argsort(dim=1)[:, :most]
    around = view.index.gather(1, places)[..., None] + steps[:, None]
    around = around.maximum(lowest[..., None]).minimum(highest[..., None])
    around = around.masked_fill(~anchors.gather(1, places)[..., None], -2).flatten(1)
    return (view.index[:, :, None] == around[:, None]).any(dim=2) & real
