"""Bipartite soft matching (ToMe)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tokensieve.plugin import (
    Merged,
    Merger,
    Split,
    View,
    at_least_float32,
    falling,
    first_max,
    on_device,
    take_rows,
    torch,
    unit,
)

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
    * ``weigh_attention: true`` lets attention after the boundary count a token by its size
      (``+ log size`` on its logits). Encoders only; a decoder's attention counts it once.
    * ``halves: best`` counts from the token that the stage scored highest, which always receives,
      so the half that gives may be the even or the odd one. Survivors stay in raster order, which
      a decoder needs; the stage's scores have no other say.
    * ``halves: even`` is the release without a [CLS] token: places 0, 2, ... give, no matter what
      was scored; then those that are left of them come first, most similar first, and the
      receivers after them, for later rounds and boundaries as well.
    * ``halves: odd`` is the release with a [CLS] token, which is dealt first and protected: the
      image's places 1, 3, ... give; those that are left keep their order, before the
      receivers. In both, a round merges no more than half of the tokens.

    Source: ToMe, ICLR 2023, arXiv 2210.09461; written from the formula. Deviations: the paper
    merges between attention and MLP of every block, here at the boundaries of the stage, after
    whole blocks; by default survivors stay in raster order and the best token receives. With
    ``even`` and ``odd`` a group that the best token gave itself to is under the name of that
    token in the trace, and has its position.
    """

    name = "tome"
    needs = frozenset({"hidden", "vision_keys"})
    uses = frozenset({"sizes"})

    metric: Literal["keys", "hidden"] = Field(default="keys", description="what is compared")
    weigh_attention: bool = Field(default=True, description="count sizes in later attention")
    halves: Literal["best", "even", "odd"] = Field(default="best", description="who gives")

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
        first = first_max(kept.to(torch.uint8))[:, None]
        matching = _Matching(
            halves=self.halves,
            alive=view.valid,
            place=view.valid.long().cumsum(dim=1) - 1,
            best=first,
            sizes=at_least_float32(sizes) * view.valid,
            vectors=at_least_float32(view.hidden),
            metric=at_least_float32(view.vision_keys if self.metric == "keys" else view.hidden),
        )
        wanted = kept.sum(dim=1) + on_device(counts, kept.device)
        most, fewest = kept.shape[1], 1 + min(counts)
        while most > fewest:  # a bound on the rounds that needs no look at the device
            matching.merge((matching.alive.sum(dim=1) - wanted).clamp(min=0))
            most -= most // 2
        if self.halves != "best":
            matching.renamed(first)
        targets = matching.alive & (view.valid & ~matching.alive).any(dim=1, keepdim=True)
        vectors = matching.vectors.to(view.hidden.dtype)
        appended = None if self.halves == "best" else (matching.place + 1) * targets
        return Merged(targets, vectors, matching.sizes, appended)


@dataclass
class _Matching:
    """Rounds of matching.

    ``alive`` ``[batch, tokens]`` is what is left of the tokens, ``place`` their places among
    each other, and ``best`` ``[batch, 1]`` the token that holds what was scored highest.
    """

    halves: Literal["best", "even", "odd"]
    alive: Tensor
    place: Tensor
    best: Tensor
    sizes: Tensor
    vectors: Tensor
    metric: Tensor

    def merge(self, pairs: Tensor) -> None:
        """Merge the ``pairs`` ``[batch]`` most similar pairs, or as many as there are."""
        if self.halves == "best":
            gives = (self.place - self.place.gather(1, self.best)) % 2 == 1
        else:
            gives = self.place % 2 == int(self.halves == "odd")
        givers = self.alive & gives
        similar, partner = self._partners(givers)
        limit = givers.sum(dim=1)
        if self.halves != "best":
            limit = limit.minimum((self.alive & ~givers).sum(dim=1))
        rank = falling(similar.masked_fill(~givers, -torch.inf), scale=1).argsort(dim=1)
        merging = givers & (rank < pairs.minimum(limit)[:, None])
        joins = torch.zeros_like(similar)[..., None].expand(-1, -1, similar.shape[1])
        joins = joins.scatter(2, partner[..., None], 1.0) * merging[..., None]
        joins = joins.to(self.vectors.dtype).transpose(1, 2)
        sizes = self.sizes.to(self.vectors.dtype)
        grown = sizes + (joins @ sizes[..., None])[..., 0]
        changed = grown > sizes
        self.vectors = _mean(self.vectors, sizes, grown, changed, joins)
        self.metric = _mean(self.metric, sizes, grown, changed, joins)
        self.sizes, self.alive = grown, self.alive & ~merging
        self.best = torch.where(
            merging.gather(1, self.best), partner.gather(1, self.best), self.best
        )
        self._arrange(rank, givers, (pairs > 0)[:, None])

    def _arrange(self, rank: Tensor, givers: Tensor, merged: Tensor) -> None:
        """Give the tokens their places after a round, in the rows in which some ``merged``.

        ``rank`` ``[batch, tokens]`` puts the most similar giver first.
        """
        width = self.place.shape[1]
        turn = self.place
        if self.halves != "best":
            first = rank if self.halves == "even" else self.place
            turn = torch.where(givers, first, self.place + width)
        turn = turn.masked_fill(~self.alive, 2 * width)
        place = turn.argsort(dim=1, stable=True).argsort(dim=1)
        self.place = torch.where(merged, place, self.place)

    def renamed(self, name: Tensor) -> None:
        """Let the group that holds the best token stand at its place, ``name`` ``[batch, 1]``."""
        where = name[..., None].expand(-1, 1, self.vectors.shape[2])
        self.vectors = self.vectors.scatter(1, where, take_rows(self.vectors, self.best))
        self.sizes = self.sizes.scatter(1, name, self.sizes.gather(1, self.best))
        self.place = self.place.scatter(1, name, self.place.gather(1, self.best))
        self.alive = self.alive.scatter(1, self.best, False).scatter(1, name, True)

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
