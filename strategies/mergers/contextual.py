"""VisionZip's contextual tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tokensieve.plugin import (
    Merged,
    Merger,
    Share,
    Split,
    TokenCount,
    View,
    at_least_float32,
    floor_count,
    on_device,
    take_rows,
    torch,
    unit,
)
from tokensieve.strategies.similarity import nearest

if TYPE_CHECKING:
    from torch import Tensor


class ContextualMerger(Merger):
    """Merge the tokens that were not selected into evenly spaced ones, by key similarity.

    Of the ``M`` tokens left over (raster order) every ``max(1, M // C)``-th is a target, ``C`` in
    all; each other one joins the target with the most similar vision key (cosine, ties to the
    first target). The merged vectors go through the projector like any other token.

    Source: VisionZip, arXiv 2412.04467, and its released code.

    * ``merge: target_plus_mean`` is the release: target plus the mean of its members, a sum of two
      magnitudes (the target alone if it has no member);
    * ``merge: average`` is the paper: mean of target and members.
    * ``cls: true`` also lets the encoder's [CLS] token through, counted in the budget, where the
      projector can take it (LLaVA); elsewhere one more token is selected instead.
    * ``order: appended`` puts an image's tokens as [CLS], selected, merged (the release);
      ``raster`` leaves every token at its place.
    """

    name = "contextual"
    space: ClassVar[Literal["vision", "decoder"]] = "vision"
    needs = frozenset({"vision_keys", "vision_features"})
    uses = frozenset({"cls_feature"})

    keep: TokenCount | Share = Field(description="merged tokens, or share of the stage's budget")
    merge: Literal["target_plus_mean", "average"] = "target_plus_mean"
    cls: bool = True
    order: Literal["appended", "raster"] = "appended"

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        """A number of merged tokens, and a share of the budget."""
        return [{"keep": 3}, {"keep": 0.3}]

    def split(self, total: int, available: int, has_cls: bool) -> Split:
        """``total`` = selected + merged + [CLS]; at least one token is selected."""
        extra = int(self.cls and has_cls and total > 1)
        wanted = self.keep if isinstance(self.keep, int) else floor_count(self.keep * total)
        merged = min(wanted, total - extra - 1)
        return Split(total - merged - extra, max(merged, 0), extra)

    def apply(self, kept: Tensor, counts: list[int], view: View) -> Merged:
        """Merge the tokens outside ``kept`` into ``counts`` targets per image."""
        rest = view.valid & ~kept
        place = rest.long().cumsum(dim=1) - 1
        wanted = on_device(counts, rest.device)[:, None]
        step = (rest.sum(dim=1, keepdim=True) // wanted.clamp(min=1)).clamp(min=1)
        targets = rest & (place % step == 0) & (place // step < wanted)
        vectors, sizes = self._merged(rest & ~targets, targets, max(counts), view)
        extra = view.cls_feature if self.cls and view.has("cls_feature") else None
        appended = None
        if self.order == "appended":
            appended = torch.arange(1, rest.shape[1] + 1, device=rest.device) * targets
        return Merged(targets, vectors, sizes, appended, extra)

    def _merged(
        self, members: Tensor, targets: Tensor, most: int, view: View
    ) -> tuple[Tensor, Tensor]:
        """Vectors ``[batch, tokens, vision dim]`` and sizes at the targets, at most ``most``."""
        features, sizes = at_least_float32(view.vision_features), targets.float()
        if most == 0:
            return view.vision_features, sizes
        places = targets.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices[:, :most]
        unused = ~targets.gather(1, places)
        keys = unit(view.vision_keys)
        joins = nearest(keys, take_rows(keys, places), ~unused) * members[..., None]
        joins = joins.to(features.dtype).transpose(1, 2)
        count = joins.sum(dim=-1, keepdim=True)
        summed, anchors = joins @ features, take_rows(features, places)
        if self.merge == "average":
            merged = (anchors + summed) / (1 + count)
        else:
            merged = anchors + summed / count.clamp(min=1)
        index = places[..., None].expand_as(merged)
        vectors = features.scatter(1, index, merged).to(view.vision_features.dtype)
        return vectors, sizes.scatter_add(1, places, count[..., 0].float() * ~unused)
