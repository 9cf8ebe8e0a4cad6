"""Instruction-guided attention (TransPrune)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokensieve.plugin import View
from tokensieve.strategies.text_attention import TextAttentionScorer

if TYPE_CHECKING:
    from torch import Tensor


class IgaScorer(TextAttentionScorer):
    """Rank visual tokens by the attention that the instruction pays them in the next layer.

    Queries and keys of the layer about to run, on its layer-normalized input, with RoPE at the
    current positions; causal softmax over all keys in float32; mean over heads and over the text
    rows after the last image. If no text follows the image, the last prompt token asks.

    * ``rows: last`` is PyramidDrop: the last token of the instruction asks.

    Source: TransPrune, CVPR 2026, arXiv 2507.20630, eq. 5; PyramidDrop, CVPR 2025, arXiv
    2410.17247, and their released code. Deviations: keys of grouped-query models are repeated (the
    releases crash), and a sample may hold several images.
    """

    name = "iga"
    needs = frozenset({"next_attention", "embeddings"})

    def score(self, view: View) -> Tensor:
        """``[batch, tokens]`` attention."""
        return self.reduced(view.next_attention, view)
