"""Kept tokens gather their neighbors, weighted by attention (PruMerge)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tokensieve.plugin import (
    Merged,
    Merger,
    Share,
    Split,
    TokenCount,
    View,
    at_least_float32,
    falling,
    selection_order,
    take_rows,
    torch,
    unit,
)

if TYPE_CHECKING:
    from torch import Tensor


class KnnWeightedMerger(Merger):
    """Add to each kept token its nearest neighbors, weighted by [CLS] attention.

    ``x_i + sum over the k nearest of a_j x_j``: neighbors among *all* other tokens, kept ones
    included, by the cosine of the encoder's last keys over their full width; ``a`` is the single
    -head attention of ``cls-attention`` with ``joined: true``. The sum is not normalized, and one
    token may flow into several. ``extra: true`` appends one more token, the weighted sum of all
    dropped ones. Of equally near neighbors kept ones come first, the most important before.

    Source: LLaVA-PruMerge, ICCV 2025, arXiv 2403.15388, and its released code.
    """

    name = "knn-weighted"
    space: ClassVar[Literal["vision", "decoder"]] = "vision"
    needs = frozenset({"vision_features", "encoder_layers"})

    neighbours: TokenCount = Field(default=32, description="tokens that flow into each kept one")
    extra: bool = Field(default=True, description="whether the dropped ones make one more token")
    depth: Share = Field(
        default=1.0, description="encoder layer of keys and weights, as share of depth"
    )

    def vision_depths(self) -> frozenset[float]:
        """The layer of keys and weights."""
        return frozenset({self.depth})

    def split(self, total: int, available: int, has_cls: bool) -> Split:
        """One token of the budget is the extra one."""
        extra = int(self.extra and total > 1)
        return Split(total - extra, 0, extra)

    def apply(self, kept: Tensor, counts: list[int], view: View) -> Merged:
        """Gather neighbors at the ``kept`` tokens."""
        layer = view.encoder_layer(self.depth)
        features = at_least_float32(view.vision_features)
        attention = layer.attention("auto", joined=True)[..., 0].to(features.dtype)
        attention = attention.masked_fill(~view.valid, 0)
        near = self._neighbours(unit(layer.keys(joined=True)), kept, view)
        vectors = features + (near.to(features.dtype) * attention[:, None]) @ features
        others = view.valid & ~kept
        dropped = (attention * others)[:, None] @ features
        dtype = view.vision_features.dtype
        return Merged(
            targets=kept & others.any(dim=1, keepdim=True),
            vectors=vectors.to(dtype),
            sizes=1 + near.sum(dim=2).float(),
            extra=dropped.to(dtype) if self.extra else None,
            extra_last=True,
        )

    def _neighbours(self, directions: Tensor, kept: Tensor, view: View) -> Tensor:
        """``[batch, tokens, tokens]`` bool: the nearest of every token."""
        width = kept.shape[1]
        scores = view.scores if view.scores is not None else kept.float()
        places = torch.arange(width, device=kept.device)
        order = torch.where(kept, selection_order(scores, kept), width + places).argsort(dim=1)
        similar = directions @ take_rows(directions, order).transpose(1, 2)
        itself = places[:, None] == order[:, None]
        absent = ~view.valid.gather(1, order)[:, None]
        ranked = similar.masked_fill(itself | absent, float("-inf"))
        nearest = falling(ranked, scale=1)[..., : self.neighbours]
        chosen = order[:, None].expand(-1, width, -1).gather(2, nearest)
        real = ranked.gather(2, nearest) > float("-inf")
        return torch.zeros_like(itself).scatter(2, chosen, real)
