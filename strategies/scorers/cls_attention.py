"""Attention of the vision encoder's [CLS] token (VisionZip, FasterVLM)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from tokensieve.plugin import View
from tokensieve.strategies.encoder_attention import EncoderAttentionScorer

if TYPE_CHECKING:
    from torch import Tensor


class ClsAttentionScorer(EncoderAttentionScorer):
    """Rank visual tokens by the attention that the vision encoder's [CLS] token pays them.

    Sum over heads of the [CLS] row in the layer whose output feeds the projector. Where the
    encoder has no [CLS] (SigLIP, Qwen), the attention each patch receives from all patches; where
    a decoder token stands for several patches, their mean. ``depth`` chooses another layer: the
    share of the encoder's layers that have run; in an encoder with windows, the nearest layer that
    sees the whole image. ``joined: true`` takes queries and keys over their full width, as a
    single head (PruMerge).

    Source: VisionZip, CVPR 2025, arXiv 2412.04467; FasterVLM, arXiv 2412.01818, takes the mean
    over heads, which ranks alike.
    """

    name = "cls-attention"

    joined: bool = Field(default=False, description="all heads as one, over the full width")

    def score(self, view: View) -> Tensor:
        """``[batch, tokens]`` attention, summed over heads."""
        return self.layer(view).attention("auto", joined=self.joined).sum(dim=-1)
