"""Dropped tokens join the kept token that is most like them (VScan)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokensieve.plugin import Merged, Merger, View, unit
from tokensieve.strategies.similarity import nearest

if TYPE_CHECKING:
    from torch import Tensor


class AbsorbMerger(Merger):
    """Replace each kept token by the mean of itself and the dropped tokens that are nearest to it.

    Nearest by cosine of the hidden states at the boundary, ties to the first kept token. With
    ``weigh: true`` tokens count by the original tokens that they already stand for.

    Source: VScan, arXiv 2505.22654, and its released code, at boundary 0 (after the projector).
    """

    name = "absorb"
    needs = frozenset({"hidden"})
    uses = frozenset({"sizes"})

    weigh: bool = False

    def apply(self, kept: Tensor, counts: list[int], view: View) -> Merged:
        """Merge all others into the ``kept`` tokens."""
        hidden, directions = view.hidden, unit(view.hidden)
        dropped = view.valid & ~kept
        joins = nearest(directions, directions, kept) * dropped[..., None]
        sizes = view.sizes if view.has("sizes") else view.valid.float()
        share = (sizes if self.weigh else view.valid).to(hidden.dtype)
        joins = joins.to(hidden.dtype).transpose(1, 2)
        summed = hidden * share[..., None] + joins @ (hidden * share[..., None])
        count = share + (joins @ share[..., None])[..., 0]
        grown = sizes + (joins @ sizes.to(joins.dtype)[..., None])[..., 0]
        targets = kept & dropped.any(dim=1, keepdim=True)
        return Merged(targets, summed / count.clamp(min=1)[..., None], grown)
