"""The best of every window first (VScan)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from tokensieve.plugin import Share, View, floor_count, on_device, selection_order
from tokensieve.strategies.falls_short import FallsShort
from tokensieve.strategies.first_choice import FirstChoiceSelector
from tokensieve.strategies.partitions import best_of_each, members, windows

if TYPE_CHECKING:
    from torch import Tensor

Side = Annotated[int, Field(ge=1, le=32)]  # 32 x 32: every window looks at every token


class WindowedSelector(FirstChoiceSelector):
    """First the best tokens of every window by ``score``, then the best of the stage's.

    The image is cut into ``windows`` (down, across); ``share`` of the budget, divided by the number
    of windows and rounded down, is taken from each. A window with fewer tokens gives what it has.

    * ``rest: global`` gives what the windows leave of their share to the global part, so that the
      budget is met;
    * ``rest: drop`` is the release: the global part takes its own share only, and where the windows
      do not divide theirs evenly fewer tokens stay (68 of 72).

    With ``order: selection`` the tokens come window by window, then the global ones, the most
    important first in each.

    Source: VScan, arXiv 2505.22654, and its released code. Deviations: where the local half does
    not divide evenly the release returns fewer tokens than its budget; here the global half takes
    what is left, unless ``rest: drop`` says otherwise.
    """

    name = "windowed"
    needs = frozenset({"grid"})

    share: Share = Field(default=0.5, description="share of the budget for windows")
    windows: tuple[Side, Side] = Field(default=(4, 4), description="windows down and across")
    rest: Literal["global", "drop"] = Field(
        default="global", description="who gets what the windows leave of their share"
    )
    adaptive_count = FallsShort()

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        """The stage's own score, and another one with other windows."""
        return [{}, {"windows": [1, 3], "share": 0.8, "score": "cls-attention"}]

    def falls_short(self) -> bool:
        """If the rest is dropped."""
        return self.rest == "drop"

    def fill(self, counts: list[int], first: Tensor) -> Tensor:
        """All that is left, or the global share."""
        if self.rest == "global":
            return super().fill(counts, first)
        own = [count - floor_count(count * self.share) for count in counts]
        return on_device(own, first.device)

    def first(self, scores: Tensor, available: Tensor, counts: list[int], view: View) -> Tensor:
        """Turns of the best of every window, ``[batch, tokens]``."""
        down, across = self.windows
        labels = windows(view, down, across)
        belongs = members(labels, down * across, available)
        each = [floor_count(count * self.share) // (down * across) for count in counts]
        limits = on_device(each, scores.device)[:, None].expand(-1, down * across)
        chosen = best_of_each(scores, belongs, limits)
        turns = labels * scores.shape[1] + selection_order(scores, chosen) + 1
        return turns.masked_fill(~chosen, 0)
