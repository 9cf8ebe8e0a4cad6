"""Selectors that take a set by a score of their own, and fill the budget by the stage's."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tokensieve.plugin import ScoreTerms, View, combined_scores, on_device
from tokensieve.strategies.ordered import OrderedSelector, then, top_in_order

if TYPE_CHECKING:
    from torch import Tensor


class FirstChoiceSelector(OrderedSelector):
    """First some tokens by ``score`` (default: the stage's), then the best of the stage's scores.

    The first set may be smaller than its share: what it leaves goes to the others, so that the
    budget is always met. With ``order: selection`` the first set comes first, then the others,
    most important first.
    """

    score: ScoreTerms = ()

    def terms(self) -> list[Any]:
        """The scorers of the first set."""
        return list(self.score)

    def rescaled(self, boundary: Callable[[int], int]) -> FirstChoiceSelector:
        """Rescale the own scorers."""
        score = tuple(term.rescaled(boundary) for term in self.score)
        return self.model_copy(update={"score": score})

    def take_in_order(
        self, scores: Tensor, available: Tensor, counts: list[int], view: View
    ) -> Tensor:
        """``[batch, tokens]`` turns."""
        own = combined_scores(self.score, view) if self.score else scores
        first = self.first(own, available, counts, view)
        chosen = first > 0
        left = self.fill(counts, chosen.sum(dim=1))
        return then(first, top_in_order(scores, available & ~chosen, left))

    def fill(self, counts: list[int], first: Tensor) -> Tensor:
        """``[batch]`` how many tokens follow the ``first`` ``[batch]`` ones."""
        return on_device(counts, first.device) - first

    @abstractmethod
    def first(self, scores: Tensor, available: Tensor, counts: list[int], view: View) -> Tensor:
        """Turns of the first set, ``[batch, tokens]``: at most ``counts`` available tokens."""
