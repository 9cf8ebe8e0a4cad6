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


def released(
    features: Array, metric: Array, sizes: Array, wanted: int, *, cls: bool
) -> tuple[list[list[int]], Array, Array]:
    """The rule of the released code, which knows no scores and lets tokens change places.

    The list of all tokens, a [CLS] in front of it if there is one, is dealt to even and odd places.
    Even ones give, except the [CLS]. Behind a round the givers that are left come first (without
    a [CLS] the most similar first), then the receivers. A round merges half of the list at most.
    Returns the groups in output order, the first member of each the one that received, their
    vectors and sizes.
    """
    standing = [[token] for token in range(len(features))]
    while len(standing) > wanted:
        row = [None, *standing] if cls else list(standing)
        givers = [group for group in row[0::2] if group is not None]
        receivers = [group for group in row[1::2] if group is not None]
        pairs = []
        for number, giver in enumerate(givers):
            mean = _mean(metric, sizes, giver)
            similar = [cosine(mean, _mean(metric, sizes, other)) for other in receivers]
            best = similar.index(max(similar)) if similar else -1
            pairs.append((-max(similar, default=-2.0), number, best))
        pairs.sort()
        most = min(len(standing) // 2, len(standing) - wanted)
        grown = [list(group) for group in receivers]
        for _, number, best in pairs[:most]:
            grown[best] += givers[number]
        left = [number for _, number, _ in pairs[most:]]
        standing = [givers[number] for number in (sorted(left) if cls else left)] + grown
    vectors = np.array([_mean(features, sizes, group) for group in standing])
    return standing, vectors, np.array([sum(sizes[group]) for group in standing])


def _mean(values: Array, sizes: Array, members: list[int]) -> Array:
    """Mean of all members, each as often as the original tokens that it stands for."""
    weights = sizes[members][:, None]
    mean: Array = (values[members] * weights).sum(axis=0) / weights.sum()
    return mean
