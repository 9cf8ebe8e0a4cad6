"""Bipartite soft matching (ToMe)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tokensieve.core.components import Merged, Merger, Split
from tokensieve.core.lazy import torch
from tokensieve.core.scoring import top_counts
from tokensieve.core.tensors import at_least_float32, on_device, unit
from tokensieve.core.ties import first_max
from tokensieve.core.view import View

if TYPE_CHECKING:
    from torch import Tensor


class TomeMerger(Merger):
    """Merge the most similar pairs between two halves of an image, until the budget is met.

    A round deals the tokens alternately to a giving and a receiving half, finds for each giver the
    receiver with the most similar metric (cosine, ties to the first), and merges the ``r`` best
    pairs (ties to the first giver) into the mean of all that come together, weighted by the
    original tokens that each stands for. No round can merge more than one half, so budgets below it
    take several.

    * ``metric: keys`` compares keys, mean over heads: in an encoder those of the block that just
      ran, in a vision-language model those that ``vision_keys`` gives. ``hidden`` compares hidden
      states. Merged tokens have the same weighted mean of their metrics.
    * ``weigh_attention: true`` lets attention behind the boundary count a token by its size
      (``+ log size`` on its logits). Encoders only; a decoder's attention counts it once.

    Source: ToMe, ICLR 2023, arXiv 2210.09461; written from the formula. Deviations: the paper
    merges between attention and MLP of every block, here at the boundaries of the stage, behind
    whole blocks; survivors stay in raster order; the token that the stage scored highest is always
    a receiver, so the half that gives may be the even or the odd one; the stage's scores have no
    other say.
    """

    name = "tome"
    needs = frozenset({"hidden", "vision_keys"})
    uses = frozenset({"sizes"})

    metric: Literal["keys", "hidden"] = Field(default="keys", description="what is compared")
    weigh_attention: bool = Field(default=True, description="count sizes in later attention")

    def required(self) -> frozenset[str]:
        """Keys, unless hidden states are compared."""
        return self.needs if self.metric == "keys" else frozenset({"hidden"})

    def proportional(self) -> bool:
        """As the parameter says."""
        return self.weigh_attention

    def split(self, total: int, available: int, has_cls: bool) -> Split:
        """One token is selected, the matching decides about all others."""
        return Split(1, total - 1, 0)

    def apply(self, kept: Tensor, counts: list[int], view: View) -> Merged:
        """Match and merge until ``counts`` tokens are left besides the kept ones."""
        sizes = view.sizes if view.has("sizes") else view.valid.float()
        matching = _Matching(
            alive=view.valid,
            kept=kept,
            sizes=at_least_float32(sizes) * view.valid,
            vectors=at_least_float32(view.hidden),
            metric=at_least_float32(view.vision_keys if self.metric == "keys" else view.hidden),
        )
        wanted = kept.sum(dim=1) + on_device(counts, kept.device)
        most, fewest = kept.shape[1], 1 + min(counts)
        while most > fewest:  # a bound on the rounds that needs no look at the device
            matching.merge((matching.alive.sum(dim=1) - wanted).clamp(min=0))
            most -= most // 2
        fewer = (view.valid & ~matching.alive).any(dim=1, keepdim=True)
        vectors = matching.vectors.to(view.hidden.dtype)
        return Merged(matching.alive & fewer, vectors, matching.sizes)


@dataclass
class _Matching:
    """Rounds of matching; ``alive`` ``[batch, tokens]`` is what is left of the tokens."""

    alive: Tensor
    kept: Tensor
    sizes: Tensor
    vectors: Tensor
    metric: Tensor

    def merge(self, pairs: Tensor) -> None:
        """Merge the ``pairs`` ``[batch]`` most similar pairs, or as many as there are."""
        givers = self._givers()
        best, partner = self._partners(givers)
        merging = top_counts(best, givers, pairs.minimum(givers.sum(dim=1)))
        joins = torch.zeros_like(best)[..., None].expand(-1, -1, best.shape[1])
        joins = joins.scatter(2, partner[..., None], 1.0) * merging[..., None]
        joins = joins.to(self.vectors.dtype).transpose(1, 2)
        sizes = self.sizes.to(self.vectors.dtype)
        grown = sizes + (joins @ sizes[..., None])[..., 0]
        changed = grown > sizes
        self.vectors = _mean(self.vectors, sizes, grown, changed, joins)
        self.metric = _mean(self.metric, sizes, grown, changed, joins)
        self.sizes, self.alive = grown, self.alive & ~merging

    def _givers(self) -> Tensor:
        """Every second token, but none of those that were kept."""
        place = self.alive.long().cumsum(dim=1)
        first = first_max(self.kept.to(torch.uint8))[:, None]
        return self.alive & ~self.kept & ((place - place.gather(1, first)) % 2 != 0)

    def _partners(self, givers: Tensor) -> tuple[Tensor, Tensor]:
        """The most similar receiver of every token: cosine and place, each ``[batch, tokens]``."""
        directions = unit(self.metric)
        similar = directions @ directions.transpose(1, 2)
        similar = similar.masked_fill(~(self.alive & ~givers)[:, None], float("-inf"))
        partner = first_max(similar, scale=1)
        return similar.gather(2, partner[..., None])[..., 0], partner


def _mean(values: Tensor, sizes: Tensor, grown: Tensor, changed: Tensor, joins: Tensor) -> Tensor:
    """Size-weighted mean of each token and those that join it; the others are left alone."""
    weighted = values * sizes[..., None].to(values.dtype)
    summed = weighted + joins.to(values.dtype) @ weighted
    merged = summed / grown.clamp(min=1)[..., None].to(values.dtype)
    return torch.where(changed[..., None], merged, values)
