"""The words of a question that have to do with the image (SparseVLM)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokensieve.plugin import View, above

if TYPE_CHECKING:
    from torch import Tensor


def raters(view: View) -> Tensor:
    """``[batch, text]`` 1 for the text tokens that rate visual tokens, 0 for the others.

    ``M = softmax over the instruction's tokens of image embedding . text embedding``, mean over
    the image's tokens; a token rates if its ``M`` is above the mean. They are chosen once, at the
    first boundary that asks, from what entered the decoder, and remembered. If nobody rates, also
    because no text follows the image, the last prompt token asks.

    Source: SparseVLM, ICML 2025, arXiv 2410.04417, eq. 4-5, and its released code.
    """
    known = view.recall("raters", per="text")
    if known is not None:
        return known
    states = view.embeddings
    asked = states.valid & states.instruction
    logits = states.visual @ states.text.transpose(1, 2)
    shares = logits.masked_fill(~asked[:, None], float("-inf")).softmax(dim=2)
    weight = shares.masked_fill(~view.valid[..., None], 0).sum(dim=1)
    weight = weight / view.valid.sum(dim=1, keepdim=True)
    mean = weight.sum(dim=1, keepdim=True) / asked.sum(dim=1, keepdim=True)
    chosen = (above(weight, mean) & asked).to(weight.dtype)
    view.remember("raters", chosen, per="text")
    return chosen
