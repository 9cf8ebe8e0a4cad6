"""Selectors that take a set by a score of their own, and fill the budget by the stage's."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tokensieve.core.components import Selector
from tokensieve.core.scoring import combined_scores, top_counts
from tokensieve.core.stage import ScoreTerms
from tokensieve.core.view import View

if TYPE_CHECKING:
    from torch import Tensor


class FirstChoiceSelector(Selector):
    """First some tokens by ``score`` (default: the stage's), then the best of the stage's scores.

    The first set may be smaller than its share: what it leaves goes to the others, so that the
    budget is always met.
    """

    score: ScoreTerms = ()

    def terms(self) -> list[Any]:
        """The scorers of the first set."""
        return list(self.score)

    def rescaled(self, boundary: Callable[[int], int]) -> FirstChoiceSelector:
        """Rescale the own scorers."""
        score = tuple(term.rescaled(boundary) for term in self.score)
        return self.model_copy(update={"score": score})

    def select(self, scores: Tensor, available: Tensor, counts: list[int], view: View) -> Tensor:
        """``[batch, tokens]`` bool."""
        own = combined_scores(self.score, view) if self.score else scores
        first = self.first(own, available, counts, view) & available
        return top_counts(scores.masked_fill(first, float("inf")), available, counts)

    @abstractmethod
    def first(self, scores: Tensor, available: Tensor, counts: list[int], view: View) -> Tensor:
        """The first set, ``[batch, tokens]`` bool, at most ``counts`` tokens."""
