"""Scorers that look at attention inside the vision encoder: what they share."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from tokensieve.plugin import EncoderLayer, Scorer, Share, View


class EncoderAttentionScorer(Scorer):
    """Attention in a layer of the vision encoder."""

    needs = frozenset({"encoder_layers"})

    depth: Share | None = Field(
        default=None,
        description="share of the encoder's layers that have run; default: those that feed the "
        "projector",
    )

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        """The layer that feeds the projector, and an earlier one."""
        return [{}, {"depth": 0.25}]

    def vision_depths(self) -> frozenset[float]:
        """The chosen layer."""
        return frozenset() if self.depth is None else frozenset({self.depth})

    def layer(self, view: View) -> EncoderLayer:
        """The chosen layer."""
        return view.encoder_layer(self.depth)
