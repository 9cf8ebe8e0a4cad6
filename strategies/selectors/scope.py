"""Coverage weighted by importance (SCOPE)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from tokensieve.plugin import View, first_max, on_device, rounding, take_rows, torch
from tokensieve.strategies.features import Features, FeatureSelector
from tokensieve.strategies.ordered import with_turn

if TYPE_CHECKING:
    from torch import Tensor


class ScopeSelector(FeatureSelector):
    """Keep tokens that are important and resemble what no token taken before resembles.

    Each step takes the token ``i`` with the largest ``sum over j of max(0, cos(j, i) - c_j) *
    score_i ** alpha``, ties by lowest index. ``j`` runs over all tokens of the image; ``c_j`` is
    the largest cosine of ``j`` with a token that was taken, 0 at the start. With ``alpha: 0`` only
    coverage counts and no score is read. What earlier parts of a ``composite`` took covers already.
    Scores below 0 count as 0; once nothing gains, the tokens left follow by index.

    Source: SCOPE, NeurIPS 2025, and its released code, with ``cls-attention`` as the score and
    ``features: vision_features`` at boundary 0. Deviations: a cosine above ``c_j`` by rounding only
    gains nothing; the release divides its budget by the images of a batch, here each has its own.
    """

    name = "scope"

    features: Features = "vision_features"
    alpha: float = Field(default=1.0, ge=0, le=8, description="exponent of the scores")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        """Scores as they are, less of them, and coverage alone."""
        return [{}, {"alpha": 0.5}, {"alpha": 0.0}]

    def reads_scores(self) -> bool:
        """Unless coverage alone counts."""
        return self.alpha > 0

    def take_in_order(
        self, scores: Tensor, available: Tensor, counts: list[int], view: View
    ) -> Tensor:
        """``[batch, tokens]`` turns; the loop runs over the budget."""
        both = view.valid[:, :, None] & view.valid[:, None]
        similar = self.similarity(view).masked_fill(~both, 0)
        covered = similar.new_zeros(similar.shape[0], 1, similar.shape[2])
        if view.selected is not None:
            taken = view.selected & view.valid
            nearest = similar.masked_fill(~taken[..., None], 0).amax(dim=1, keepdim=True)
            covered = nearest.clamp(min=0)
        weight = scores.masked_fill(~view.valid, 0).clamp(min=0) ** self.alpha
        message = f"{self.name}: scores to the power of {self.alpha:g} are not finite"
        view.check_later(message, ~weight.isfinite().all())
        noise = float(rounding(torch.ones((), dtype=similar.dtype)))
        turns = torch.zeros_like(available, dtype=torch.long)
        wanted = on_device(counts, available.device)[:, None]
        for step in range(max(counts, default=0)):
            more = torch.nn.functional.threshold(similar - covered, noise, 0.0)
            gain = (more.sum(dim=2) * weight).masked_fill(~available | (turns > 0), -torch.inf)
            pick = first_max(gain)[:, None]
            turns = with_turn(turns, pick, step, available & (step < wanted))
            covered = covered.maximum(take_rows(similar, pick))
        return turns
