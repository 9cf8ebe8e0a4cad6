"""What the papers do with dropped tokens, one image at a time, in float64 numpy.

Companion of :mod:`references.formulas`, in the same manner: written from the papers and as slow as
it likes. A tie always goes to the first candidate, in an order that each docstring states.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from references.formulas import Array, cosine, length, top_k


def not_in(kept: Sequence[int], tokens: int) -> list[int]:
    """The other tokens, in ascending order."""
    return [token for token in range(tokens) if token not in kept]


def absorb(features: Array, kept: Sequence[int]) -> Array:
    """VScan: a dropped token joins the kept token it resembles most; groups are averaged.

    Returns ``[len(kept), dim]`` in the order of ``kept``, which also decides ties.
    """
    groups = [[token] for token in kept]
    for token in not_in(kept, len(features)):
        similar = [cosine(features[token], features[anchor]) for anchor in kept]
        groups[similar.index(max(similar))].append(token)
    return np.array([sum(features[token] for token in group) / len(group) for group in groups])


def knn_weighted(
    features: Array, keys: Array, attention: Array, kept: Sequence[int], neighbours: int = 32
) -> tuple[Array, Array]:
    """PruMerge: each kept token plus its nearest neighbours, weighted by their [CLS] attention.

    Neighbours are the nearest by key cosine among *all* other tokens, fewer if there are fewer; a
    tie goes to the kept ones, in the order of ``kept``, then to the lowest index. The weights are
    not normalised and every sum reads the original features. Returns ``[len(kept), dim]`` and the
    extra token ``[dim]``: the weighted sum of all the tokens that were not kept.
    """
    dropped = not_in(kept, len(features))
    merged = []
    for token in kept:
        others = [other for other in [*kept, *dropped] if other != token]
        similar = [cosine(keys[token], keys[other]) for other in others]
        places = sorted(range(len(others)), key=lambda place: (-similar[place], place))
        vector = features[token].copy()
        for place in places[:neighbours]:
            vector += attention[others[place]] * features[others[place]]
        merged.append(vector)
    extra = np.zeros(features.shape[1])
    for token in dropped:
        extra += attention[token] * features[token]
    return np.array(merged), extra


def candidate_count(pruned: int, share: float = 0.3) -> int:
    """SparseVLM v1: how many of the pruned tokens are recycled, ``int(share * pruned) + 1``.

    ``share`` is the decimal number a person wrote; there are never more than were pruned.
    """
    return min(pruned, math.floor(pruned * Fraction(str(share))) + 1)


def cluster_count(candidates: int) -> int:
    """SparseVLM v1: how many clusters they make, ``int(candidates / 10) + 1``, if there are any."""
    return min(candidates, candidates // 10 + 1)


def centrality(gaps: Array, nearest: int) -> list[float]:
    """DPC-kNN: density times distance to the nearest denser point, from pairwise distances.

    The ``nearest`` points of the density include the point itself. Of equally dense points the
    first counts as denser. The one point without a denser one gets the largest of all distances.
    """
    points = range(len(gaps))
    density = []
    for point in points:
        squares = [gap**2 for gap in sorted(gaps[point])[:nearest]]
        density.append(math.exp(-sum(squares) / len(squares)))
    values = []
    for point in points:
        rank = (-density[point], point)
        to_denser = [gaps[point, other] for other in points if (-density[other], other) < rank]
        values.append(density[point] * min(to_denser, default=gaps.max()))
    return values


def recycle(
    hidden: Array, scores: Array, kept: Sequence[int], share: float = 0.3
) -> tuple[list[int], Array]:
    """SparseVLM v1: the best of the pruned tokens come back as cluster means.

    ``hidden`` ``[tokens, dim]`` and ``scores`` ``[tokens]`` cover kept and pruned tokens. The
    candidates stand in ascending token order, and a tie goes to the first; between centres, to the
    more central one. Without the 1e-6 noise of the released code. Returns the centres' token
    indices, most central first, and one vector per centre.
    """
    pruned = not_in(kept, len(hidden))
    best = top_k(scores[pruned], candidate_count(len(pruned), share))
    candidates = [pruned[place] for place in best]
    if not candidates:
        return [], hidden[:0]
    points, places = hidden[candidates], range(len(candidates))
    width = math.sqrt(hidden.shape[1])
    gaps = np.array([[length(one - other) / width for other in points] for one in points])
    clusters = cluster_count(len(candidates))
    central = centrality(gaps, clusters)
    centres = sorted(places, key=lambda place: (-central[place], place))[:clusters]
    members: dict[int, list[int]] = {centre: [centre] for centre in centres}
    for place in places:
        if place not in centres:
            members[min(centres, key=lambda centre: gaps[place, centre])].append(place)
    vectors = [points[group].sum(axis=0) / (len(group) + 1e-6) for group in members.values()]
    return [candidates[centre] for centre in centres], np.array(vectors)


def plan(available: int, total: int) -> tuple[int, int]:
    """Split a budget of ``total`` tokens into selected and recycled ones (SparseVLM v1).

    The most that can be selected, such that they and the clusters made of the rest fit in. Where
    the clusters alone would fill the budget, one token is selected and clusters get what is left.
    """
    for selected in range(available, 0, -1):
        merged = cluster_count(candidate_count(available - selected))
        if selected + merged <= total:
            return selected, merged
    return 1, total - 1


def recycled_count(kept_from: int, total: int) -> int:
    """How many of ``total`` tokens are recycled clusters when ``kept_from`` are there before."""
    return plan(kept_from, total)[1]
