"""Determinantal point process (CDPruner)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from tokensieve.plugin import View, above, first_max, on_device, torch
from tokensieve.strategies.features import FeatureSelector
from tokensieve.strategies.ordered import with_turn

if TYPE_CHECKING:
    from torch import Tensor

SMALL = 1e-6


class DppSelector(FeatureSelector):
    """Keep a set that is important and diverse at once: greedy MAP of a DPP.

    The kernel is ``K = diag(r) S diag(r)``, ``S`` the cosines of the features and ``r`` the
    stage's scores. Each step takes the token that enlarges the determinant of the chosen rows and
    columns most, ties by lowest index, by an incremental Cholesky factor. What earlier parts of a
    ``composite`` took is conditioned on.

    * ``quality: minmax`` is the release, per image: ``(r - min + 1e-6) / (max - min)``, and 1 for
      all tokens where the scores are equal;
    * ``quality: none`` takes the scores as they are.

    Source: CDPruner, NeurIPS 2025, arXiv 2506.10967; the greedy algorithm is that of Chen et al.,
    NeurIPS 2018. Deviations: the release takes minimum and maximum over all images of a call;
    beyond the rank of the features it divides by noise, here the tokens left follow by index.
    """

    name = "dpp"

    quality: Literal["minmax", "none"] = "minmax"

    def take_in_order(
        self, scores: Tensor, available: Tensor, counts: list[int], view: View
    ) -> Tensor:
        """``[batch, tokens]`` turns; the loop runs over the budget."""
        quality = scores
        if self.quality == "minmax":
            low = scores.masked_fill(~view.valid, float("inf")).amin(dim=1, keepdim=True)
            high = scores.masked_fill(~view.valid, float("-inf")).amax(dim=1, keepdim=True)
            differ = above(high, low)
            scaled = (scores - low + SMALL) / torch.where(differ, high - low, 1)
            quality = torch.where(differ, scaled, 1.0)
        quality = quality.masked_fill(~view.valid, 0)
        kernel = quality[:, :, None] * self._similarity(view, quality.dtype) * quality[:, None]
        most, (batch, tokens) = max(counts, default=0), available.shape
        gain = kernel.diagonal(dim1=1, dim2=2)
        factor = kernel.new_zeros(batch, most, tokens)
        turns = torch.zeros_like(available, dtype=torch.long)
        wanted = on_device(counts, available.device)[:, None]
        floor = SMALL * quality.square()
        for step in range(most):
            free = available & (turns == 0)
            worth = gain.where(gain > floor, 0)  # what is left of spanned tokens is rounding
            pick = first_max(worth.masked_fill(~free, float("-inf")))[:, None]
            turns = with_turn(turns, pick, step, available & (step < wanted))
            row = kernel.gather(1, pick[..., None].expand(-1, 1, tokens))[:, 0]
            if step:
                done = factor[:, :step]
                at_pick = done.gather(2, pick[:, None].expand(-1, step, 1))
                row = row - (at_pick.transpose(1, 2) @ done)[:, 0]
            spread = worth.gather(1, pick)
            update = torch.where(spread > 0, row / spread.where(spread > 0, 1).sqrt(), 0)
            factor[:, step] = update
            gain = gain - update.square()
        return turns

    def _similarity(self, view: View, dtype: torch.dtype) -> Tensor:
        """``[batch, tokens, tokens]`` cosines, less what the taken tokens explain of them.

        Their quality has no say in it: it is a factor of their rows and columns.
        """
        similarity = self.similarity(view).to(dtype)
        if view.selected is None:
            return similarity
        taken = view.selected & view.valid
        both = taken[:, :, None] & taken[:, None]
        rest = (~taken).to(dtype) + 4 * torch.finfo(dtype).eps  # copies are no singular block
        block = similarity.masked_fill(~both, 0) + torch.diag_embed(rest)
        rows = similarity.masked_fill(~taken[:, :, None], 0)
        explained: Tensor = torch.linalg.solve(block, rows)
        return similarity - rows.transpose(1, 2) @ explained
