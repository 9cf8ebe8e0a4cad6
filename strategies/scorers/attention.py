"""Text attention of the layer that just ran (FastV)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from tokensieve.core.components import Scorer
from tokensieve.core.signals import QueryRows
from tokensieve.core.view import View

if TYPE_CHECKING:
    from torch import Tensor


class AttentionScorer(Scorer):
    """Rank visual tokens by the attention they received from text in the layer before.

    ``s_j = mean over heads and rows of A[row, j]``, softmax over all keys. ``rows: last`` is
    FastV: only the last prompt token asks.

    Source: FastV, arXiv 2403.06764, and its released code. Deviations: the rows are recomputed from
    queries and keys, so no attention map is needed and SDPA stays on; works on batches and on any
    prompt (the release hard-codes the system prompt's length).
    """

    name = "attention"
    needs = frozenset({"previous_attention"})

    rows: QueryRows = Field(
        default="last",
        description="rows that ask: last prompt token, text after the last image, or all text",
    )

    def score(self, view: View) -> Tensor:
        """``[batch, tokens]`` mean attention."""
        return view.previous_attention.received(self.rows).mean(dim=1)
