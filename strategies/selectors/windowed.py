"""The best of every window first (VScan)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from tokensieve.core.budgets import whole
from tokensieve.core.lazy import torch
from tokensieve.core.tensors import on_device
from tokensieve.core.view import View
from tokensieve.strategies.first_choice import FirstChoiceSelector
from tokensieve.strategies.partitions import best_of_each, members, windows

if TYPE_CHECKING:
    from torch import Tensor

Side = Annotated[int, Field(ge=1)]


class WindowedSelector(FirstChoiceSelector):
    """First the best tokens of every window by ``score``, then the best of the stage's.

    The image is cut into ``windows`` (down, across); ``share`` of the budget, divided by the number
    of windows and rounded down, is taken from each.

    Source: VScan, arXiv 2505.22654, and its released code. Deviations: where the local half does
    not divide evenly the release returns fewer tokens than its budget; here the global half takes
    what is left. A window with fewer tokens gives what it has.
    """

    name = "windowed"
    needs = frozenset({"grid"})

    share: float = Field(default=0.5, gt=0, le=1, description="share of the budget for windows")
    windows: tuple[Side, Side] = Field(default=(4, 4), description="windows down and across")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        """The stage's own score, and another one with other windows."""
        return [{}, {"windows": [1, 3], "share": 0.8, "score": "cls-attention"}]

    def first(self, scores: Tensor, available: Tensor, counts: list[int], view: View) -> Tensor:
        """The best of every window, ``[batch, tokens]`` bool."""
        down, across = self.windows
        belongs = members(windows(view, down, across), down * across, available)
        each = [whole(count * self.share) // (down * across) for count in counts]
        limits = on_device(each, scores.device)[:, None].expand(-1, down * across)
        return best_of_each(scores, belongs, limits) if any(each) else torch.zeros_like(available)
