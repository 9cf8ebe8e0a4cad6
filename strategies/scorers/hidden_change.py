"""Change of a token in a decoder layer (V2Drop)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from tokensieve.plugin import Scorer, View, unit

if TYPE_CHECKING:
    from torch import Tensor


class HiddenChangeScorer(Scorer):
    """Rank visual tokens by how much the layer before the boundary changed their hidden state.

    * ``distance: l2`` is V2Drop: ``|x_after - x_before|``;
    * ``distance: cosine`` (ours) looks at the direction only: ``1 - cos``.

    The closest relative of ``ttv``, which compares input and output of each module instead.

    Source: V2Drop, CVPR 2026, and its released code.
    """

    name = "hidden-change"
    needs = frozenset({"hidden", "previous_hidden"})

    distance: Literal["l2", "cosine"] = "l2"

    def score(self, view: View) -> Tensor:
        """``[batch, tokens]`` change."""
        before, after = view.previous_hidden, view.hidden
        if self.distance == "l2":
            change: Tensor = (after - before).norm(dim=-1)
            return change
        return 1 - (unit(before) * unit(after)).sum(dim=-1)
