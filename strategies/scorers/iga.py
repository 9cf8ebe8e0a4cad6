"""Instruction-guided attention (TransPrune)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from tokensieve.core.components import Scorer
from tokensieve.core.signals import QueryRows
from tokensieve.core.view import View

if TYPE_CHECKING:
    from torch import Tensor


class IgaScorer(Scorer):
    """Rank visual tokens by the attention that the instruction pays them in the next layer.

    Queries and keys of the layer about to run, on its layer-normalised input, with RoPE at the
    current positions; causal softmax over all keys in float32; mean over heads and over the text
    rows after the last image. If no text follows the image, the last prompt token asks.

    Source: TransPrune, arXiv 2507.20630, eq. 5, and its released code. Deviations: keys of
    grouped-query models are repeated (the release crashes), and a sample may hold several images.
    """

    name = "iga"
    needs = frozenset({"next_attention"})

    rows: QueryRows = Field(
        default="after-image-text",
        description="rows that ask: last prompt token, text after the last image, or all text",
    )

    def score(self, view: View) -> Tensor:
        """``[batch, tokens]`` mean attention."""
        return view.next_attention.received(self.rows).mean(dim=1)
