"""Attention inside the vision encoder (VisionZip, FasterVLM)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokensieve.core.components import Scorer
from tokensieve.core.view import View

if TYPE_CHECKING:
    from torch import Tensor


class ClsAttentionScorer(Scorer):
    """Rank visual tokens by the attention that the vision encoder's [CLS] token pays them.

    Sum over heads of the [CLS] row in the layer whose output feeds the projector. Where the
    encoder has no [CLS] (SigLIP, Qwen), the attention each patch receives from all patches; where
    a decoder token stands for several patches, their mean.

    Source: VisionZip, arXiv 2412.04467; FasterVLM takes the mean over heads, which ranks alike.
    """

    name = "cls-attention"
    needs = frozenset({"vision_attention"})

    def score(self, view: View) -> Tensor:
        """``[batch, tokens]`` attention, summed over heads."""
        return view.vision_attention.sum(dim=-1)
