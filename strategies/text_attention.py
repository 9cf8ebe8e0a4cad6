"""Scorers that ask how much the text attends to a visual token: what they share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from tokensieve.plugin import Scorer, Share, TextAttention, View, falling, floor_count, take_rows
from tokensieve.strategies.raters import raters

if TYPE_CHECKING:
    from torch import Tensor

Rows = Literal["last", "after-image-text", "all-text", "raters"]
MEANING = "rows that ask: last prompt token, text after the last image, all text, or its raters"


class TextAttentionScorer(Scorer):
    """Attention from text rows to visual tokens, reduced over rows and heads."""

    rows: Rows = Field(default="after-image-text", description=MEANING)
    heads: Literal["mean", "max"] = Field(default="mean", description="how heads are reduced")
    top_heads: Share = Field(
        default=1.0, description="share of the heads, those with most mass on the image"
    )
    gravity: bool = Field(
        default=False, description="divide by what RoPE alone gives each distance (SparseVLM+)"
    )

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        """The defaults, and half of the heads."""
        return [{}, {"top_heads": 0.5, "gravity": True}]

    def required(self) -> frozenset[str]:
        """Embeddings, if the raters ask."""
        needed = super().required()
        return needed if self.rows == "raters" else needed - {"embeddings"}

    def reduced(self, attention: TextAttention, view: View) -> Tensor:
        """``[batch, tokens]`` attention of the asked rows."""
        rows = raters(view) if self.rows == "raters" else self.rows
        per_head = attention.received(rows, gravity=self.gravity)
        per_head = per_head.masked_fill(~view.valid[:, None], 0)
        kept = max(1, floor_count(self.top_heads * per_head.shape[1]))
        if kept < per_head.shape[1]:
            mass = per_head.sum(dim=2)
            best = falling(mass)[:, :kept]
            per_head = take_rows(per_head, best)
        return per_head.mean(dim=1) if self.heads == "mean" else per_head.amax(dim=1)
