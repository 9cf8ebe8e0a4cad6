"""Attention that a patch receives from all others (HiPrune)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokensieve.plugin import View
from tokensieve.strategies.encoder_attention import EncoderAttentionScorer

if TYPE_CHECKING:
    from torch import Tensor


class ReceivedAttentionScorer(EncoderAttentionScorer):
    """Rank visual tokens by the attention that all patches of the vision encoder pay them.

    Mean over heads and queries; a [CLS] token asks like any other, and is no key. ``depth``
    chooses the layer by the share of the encoder's layers that have run (HiPrune: 0.375, the
    ninth of 24, for objects; the layer that feeds the projector for registers); in an encoder with
    windows, the nearest layer that sees the whole image.

    Source: HiPrune, arXiv 2508.00553, and its released code.
    """

    name = "received-attention"

    def score(self, view: View) -> Tensor:
        """``[batch, tokens]`` attention, mean over heads."""
        return self.layer(view).attention("received").mean(dim=-1)
