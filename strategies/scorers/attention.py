"""Text attention of the layer that just ran (FastV, SparseVLM)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from tokensieve.plugin import View
from tokensieve.strategies.text_attention import MEANING, Rows, TextAttentionScorer

if TYPE_CHECKING:
    from torch import Tensor


class AttentionScorer(TextAttentionScorer):
    """Rank visual tokens by the attention they received from text in the layer before.

    ``s_j = mean over heads and rows of A[row, j]``, softmax over all keys.

    * ``rows: last`` is FastV: only the last prompt token asks.
    * ``rows: raters`` is SparseVLM: the words whose embeddings resemble the image's ask.
    * ``gravity: true`` with ``top_heads: 0.4375`` is SparseVLM+ (v2): each probability is divided
      by the product of all-ones query and key under RoPE, over the square root of the head width;
      then the heads with most mass on the image are averaged (14 of 32). The divisor turns
      negative far away (from 1,707 positions on at a head width of 128).

    Source: FastV, ECCV 2024, arXiv 2403.06764; SparseVLM, ICML 2025, arXiv 2410.04417, and their
    released code. Deviations: the rows are recomputed from queries and keys, so no attention map
    is needed and SDPA stays on; works on batches and on any prompt (the releases hard-code the
    system prompt's length).
    """

    name = "attention"
    needs = frozenset({"previous_attention", "embeddings"})

    rows: Rows = Field(default="last", description=MEANING)

    def score(self, view: View) -> Tensor:
        """``[batch, tokens]`` attention."""
        return self.reduced(view.previous_attention, view)
