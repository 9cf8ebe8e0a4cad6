"""Dropped tokens come back as clusters (SparseVLM)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from tokensieve.plugin import (
    Merged,
    Merger,
    Share,
    Split,
    View,
    above,
    falling,
    first_max,
    floor_count,
    on_device,
    take_rows,
    top_counts,
    torch,
)

if TYPE_CHECKING:
    from torch import Tensor

PER_CLUSTER = 10


def candidates(pruned: int, share: float) -> int:
    """How many of the pruned tokens are recycled."""
    return min(pruned, floor_count(share * pruned) + 1)


def clusters(pruned: int, share: float) -> int:
    """How many clusters they make."""
    return candidates(pruned, share) // PER_CLUSTER + 1 if pruned else 0


class RecycleMerger(Merger):
    """Let the best of the dropped tokens live on as cluster means, after the kept ones.

    Of ``p`` dropped tokens the ``int(share * p) + 1`` with the highest scores are clustered into a
    tenth as many groups, plus one, by DPC-kNN on their hidden states: distance ``|x - y| /
    sqrt(dim)``, density from the nearest few (as many as there are clusters), centers where
    density times distance to a denser token is largest, everybody to the nearest center. The
    means come after the image's kept tokens, strongest center first, and compete like visual
    tokens at later boundaries. The budget counts them: 309 tokens are 300 kept and 9 clusters.

    Source: SparseVLM, ICML 2025, arXiv 2410.04417 (v1), and its released code. Deviations: the
    release breaks ties of density by random noise of 1e-6; here the first token is the denser.
    Where a budget is too small for its clusters, only the ten best candidates of each are used.
    """

    name = "recycle"
    needs = frozenset({"hidden"})
    uses = frozenset({"sizes"})

    share: Share = Field(default=0.3, description="share of the dropped tokens")

    def split(self, total: int, available: int, has_cls: bool) -> Split:
        """The largest selection that leaves room for its clusters."""
        low, high = 1, total
        while low < high:
            middle = (low + high + 1) // 2
            fits = middle + clusters(available - middle, self.share) <= total
            low, high = (middle, high) if fits else (low, middle - 1)
        return Split(low, total - low, 0)

    def apply(self, kept: Tensor, counts: list[int], view: View) -> Merged:
        """Cluster the best tokens outside ``kept`` into ``counts`` means per image."""
        dropped = view.valid & ~kept
        sizes = view.sizes if view.has("sizes") else view.valid.float()
        if not any(counts):
            return Merged(kept & False, view.hidden, sizes)
        wanted = on_device(counts, kept.device)[:, None]
        most = min(kept.shape[1], PER_CLUSTER * max(counts))
        scores = view.scores if view.scores is not None else dropped.float()
        pruned = dropped.sum(dim=1, keepdim=True)
        count = (self.share * pruned.double() + 1e-9).floor().long() + 1
        limit = count.minimum(PER_CLUSTER * wanted).minimum(pruned)
        chosen = top_counts(scores, dropped, limit[:, 0])
        places = chosen.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices[:, :most]
        real = chosen.gather(1, places)
        hidden = take_rows(view.hidden, places)
        centers, members = _clustered(hidden, real, wanted, max(counts))
        joins = members.to(hidden.dtype).transpose(1, 2)
        mean = joins @ hidden / (joins.sum(dim=2, keepdim=True) + 1e-6)
        grown = (joins @ sizes.gather(1, places).to(hidden.dtype)[..., None])[..., 0]
        where = places.gather(1, centers)
        rank = torch.arange(1, centers.shape[1] + 1, device=kept.device)
        appended = places.new_zeros(kept.shape).scatter(1, where, rank.where(rank <= wanted, 0))
        vectors = view.hidden.scatter(1, where[..., None].expand_as(mean), mean)
        grown = sizes.scatter(1, where, grown.to(sizes.dtype))
        return Merged(appended > 0, vectors, grown, appended)


def _clustered(hidden: Tensor, real: Tensor, wanted: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """DPC-kNN: centers ``[batch, clusters]`` and membership ``[batch, candidates, clusters]``."""
    both = real[:, :, None] & real[:, None]
    place = torch.arange(real.shape[1], device=real.device)
    distance = torch.cdist(hidden, hidden, compute_mode="donot_use_mm_for_euclid_dist")
    distance = distance / hidden.shape[-1] ** 0.5
    worth = _centrality(distance, both, wanted).masked_fill(~real, -1)
    centers = falling(worth)[:, :most]
    is_center = torch.arange(centers.shape[1], device=real.device) < wanted
    to_center = distance.gather(2, centers[:, None].expand(-1, distance.shape[1], -1))
    to_center = to_center.masked_fill(~is_center[:, None], float("inf"))
    own = (place[:, None] == centers[:, None]) & is_center[:, None]
    nearest = first_max(-to_center.masked_fill(own, -1))
    members = torch.zeros_like(own).scatter(2, nearest[..., None], True)
    return centers, members & real[..., None] & is_center[:, None]


def _centrality(distance: Tensor, both: Tensor, nearest: Tensor) -> Tensor:
    """Density times distance to a denser candidate, ``[batch, candidates]``.

    ``distance`` ``[batch, candidates, candidates]`` counts where ``both`` are real; ``nearest``
    ``[batch, 1]`` is how many neighbors, the token itself included, make the density.
    """
    place = torch.arange(distance.shape[1], device=distance.device)
    near = distance.masked_fill(~both, float("inf")).sort(dim=2).values
    counted = (place < nearest[..., None]) & near.isfinite()
    spread = near.masked_fill(~counted, 0).square().sum(dim=2) / counted.sum(dim=2).clamp(min=1)
    density = (-spread).exp()
    denser = above(density[:, None], density[:, :, None])
    tied = ~denser & ~denser.transpose(1, 2) & (place < place[:, None])
    farthest = distance.masked_fill(~both, 0).flatten(1).amax(dim=1)[:, None]
    apart = distance.masked_fill(~((denser | tied) & both), float("inf")).amin(dim=2)
    return density * apart.minimum(farthest)
