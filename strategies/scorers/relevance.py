"""Relevance of a token for the question (CDPruner)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from tokensieve.plugin import Scorer, View, unit

if TYPE_CHECKING:
    from torch import Tensor


class RelevanceScorer(Scorer):
    """Rank visual tokens by how much they have to do with the question.

    With a CLIP text tower: *minus* the cosine of patch and question in CLIP's joint space, whose
    polarity for single patches is inverted. Without one the decoder's embeddings stand in: mean
    cosine of the token with the instruction's tokens at the decoder's input; the trace notes it.
    ``clip: false`` always takes the embeddings.

    Source: CDPruner, NeurIPS 2025, arXiv 2506.10967, and its released code. Deviations: none of the
    built-in families has CLIP's text tower in its checkpoint, so the embeddings stand in there.
    """

    name = "relevance"
    needs = frozenset({"embeddings"})
    uses = frozenset({"clip_relevance"})

    clip: bool = Field(default=True, description="take CLIP's text tower where there is one")

    def score(self, view: View) -> Tensor:
        """``[batch, tokens]`` relevance."""
        states = view.embeddings
        if self.clip and view.has("clip_relevance"):
            return -view.clip_relevance
        if self.clip:
            view.note("the model has no CLIP text tower: the decoder's embeddings stand in")
        asked = states.question.to(states.text.dtype)
        question = (unit(states.text) * asked[..., None]).sum(dim=1)
        question = question / asked.sum(dim=1, keepdim=True).clamp(min=1)
        relevance: Tensor = (unit(states.visual) @ question[..., None])[..., 0]
        return relevance
