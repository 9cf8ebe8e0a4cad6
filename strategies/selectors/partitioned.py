"""A budget of its own for every part of the image (HoloV)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from tokensieve.plugin import View, selection_order, torch
from tokensieve.strategies.falls_short import FallsShort
from tokensieve.strategies.ordered import OrderedSelector
from tokensieve.strategies.partitions import (
    MOST_PARTS,
    best_of_each,
    divided,
    members,
    slices,
    windows,
)

if TYPE_CHECKING:
    from torch import Tensor


class PartitionedSelector(OrderedSelector):
    """Divide the budget among parts of the image by their mean score; take the best of each part.

    ``divide: slices`` cuts the raster into ``parts`` runs of tokens, ``divide: windows`` the
    picture into ``parts`` rectangles (the squarest that multiply to it). A part's share of the
    budget is that of its mean score, rounded down; the rest goes to the heaviest parts, one each.
    ``allocate: equal`` gives every part the same.

    * ``overflow: others`` deals out what a part has no room for to those that have: the budget is
      met, with tokens;
    * ``overflow: drop`` keeps the tokens that the release keeps. It leaves the rest of the budget
      to vectors of zeros after them, which hold no image: here fewer tokens stay.

    With ``order: selection`` the tokens come part by part, most important first, those of a part
    that is kept whole in raster order.

    Source: HoloV, NeurIPS 2025, arXiv 2510.02912, and its released code, where the variance term
    of a part's weight cancels out of its mean, so that attention alone decides. Deviations: the
    release fills overflow with zero vectors up to the budget; here other parts take it, or with
    ``overflow: drop`` nobody.
    """

    name = "partitioned"
    needs = frozenset({"grid"})

    parts: int = Field(default=16, ge=1, le=MOST_PARTS, description="number of parts")
    divide: Literal["slices", "windows"] = "slices"
    allocate: Literal["proportional", "equal"] = "proportional"
    overflow: Literal["others", "drop"] = Field(
        default="others", description="who gets what a part has no room for"
    )
    adaptive_count = FallsShort()

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        """More parts than small images have tokens, and few."""
        return [{}, {"parts": 3}]

    def required(self) -> frozenset[str]:
        """The grid, for windows."""
        return frozenset({"grid"} if self.divide == "windows" else ())

    def falls_short(self) -> bool:
        """If overflow is dropped."""
        return self.overflow == "drop"

    def positional(self) -> bool:
        """Parts are places."""
        return True

    def take_in_order(
        self, scores: Tensor, available: Tensor, counts: list[int], view: View
    ) -> Tensor:
        """``[batch, tokens]`` turns."""
        if self.divide == "slices":
            labels = slices(view, self.parts)
        else:
            down = max(n for n in range(1, int(self.parts**0.5) + 1) if self.parts % n == 0)
            labels = windows(view, down, self.parts // down)
        belongs = members(labels, self.parts, available)
        room = belongs.sum(dim=2)
        if self.allocate == "equal":
            weights = (room > 0).to(scores.dtype)
        else:  # mean scores; negative ones count as nothing
            inside = scores[:, None].expand(belongs.shape).masked_fill(~belongs, 0)
            weights = inside.sum(dim=2) / room.clamp(min=1)
        share = divided(weights, room, counts, refill=self.overflow == "others")
        kept = best_of_each(scores, belongs, share)
        width = kept.shape[1]
        raster = torch.arange(width, device=kept.device).expand(kept.shape)
        whole = (share == room).gather(1, labels)
        place = torch.where(whole, raster, selection_order(scores, kept))
        return (labels * width + place + 1).masked_fill(~kept, 0)
