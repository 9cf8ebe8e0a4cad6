"""ToMe's bipartite soft matching, one image at a time, in float64 numpy.

Written from the formula, as slow as it likes: every token is dealt to a half by its place, every
giver looks through all receivers, pairs are merged one after the other.
"""

from __future__ import annotations

import numpy as np

from references.formulas import Array, cosine


def match(
    features: Array, metric: Array, sizes: Array, wanted: int, anchor: int
) -> tuple[list[int], Array, Array]:
    """Merge until ``wanted`` tokens are left; ``anchor`` is a token that always receives.

    Returns the places that are left, ascending, their vectors and their sizes.
    """
    groups = {place: [place] for place in range(len(features))}
    while len(groups) > wanted:
        left = sorted(groups)
        parity = left.index(anchor) % 2
        givers = [place for number, place in enumerate(left) if number % 2 != parity]
        receivers = [place for number, place in enumerate(left) if number % 2 == parity]
        means = {place: _mean(metric, sizes, groups[place]) for place in left}
        pairs = []
        for giver in givers:
            similar = [cosine(means[giver], means[receiver]) for receiver in receivers]
            best = similar.index(max(similar))
            pairs.append((-similar[best], giver, receivers[best]))
        for _, giver, receiver in sorted(pairs)[: len(groups) - wanted]:
            groups[receiver] += groups.pop(giver)
    left = sorted(groups)
    vectors = np.array([_mean(features, sizes, groups[place]) for place in left])
    return left, vectors, np.array([sum(sizes[groups[place]]) for place in left])


def _mean(values: Array, sizes: Array, members: list[int]) -> Array:
    """Mean of all members, each as often as the original tokens that it stands for."""
    weights = sizes[members][:, None]
    mean: Array = (values[members] * weights).sum(axis=0) / weights.sum()
    return mean
