"""Rules of the papers in which the worth of a token depends on the tokens already chosen.

One image, float64 numpy, ``[tokens]`` or ``[tokens, dim]``. Every rule adds the best free token,
the lowest index among equals, and evaluates its whole objective anew for each candidate. A count
above the number of free tokens means all of them. Vectors must not be zero.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from references.formulas import Array, cosine, softmax


def cosines(left: Array, right: Array) -> Array:
    """Cosine of each row of ``left`` with each row of ``right``."""
    return np.array([[cosine(x, y) for y in right] for x in left])


def grow(
    worth: Callable[[list[int], int], float], tokens: int, count: int, selected: Sequence[int]
) -> list[int]:
    """``count`` times the free token with the largest ``worth(chosen, token)``, in that order."""
    chosen = list(selected)
    for _ in range(count):
        free = [token for token in range(tokens) if token not in chosen]
        if not free:
            break
        worths = [worth(chosen, token) for token in free]
        chosen.append(free[worths.index(max(worths))])
    return chosen[len(selected) :]


def max_min(features: Array, count: int, selected: Sequence[int] = ()) -> list[int]:
    """DivPrune: the token farthest (``1 - cos``) from its nearest chosen token, again and again.

    With nothing chosen yet the token farthest from its nearest other token starts. In order of
    selection; ``selected`` tokens count as chosen and are not returned.
    """
    tokens = range(len(features))
    distance = 1 - cosines(features, features)

    def nearest(chosen: list[int], token: int) -> float:
        others = chosen or [other for other in tokens if other != token]
        return min((float(distance[other, token]) for other in others), default=0.0)

    return grow(nearest, len(features), count, selected)


def minmax_quality(relevance: Array) -> Array:
    """CDPruner: ``(r - min + 1e-6) / (max - min)`` over one image; ones where all are equal.

    The best value is slightly above 1, the worst slightly above 0.
    """
    low, high = relevance.min(), relevance.max()
    if low == high:
        return np.ones(len(relevance))
    return np.array([(value - low + 1e-6) / (high - low) for value in relevance])


def dpp_kernel(features: Array, quality: Array) -> Array:
    """``diag(quality) S diag(quality)`` with ``S`` the cosines of the features."""
    return np.diag(quality) @ cosines(features, features) @ np.diag(quality)


def log_determinant(kernel: Array, subset: Sequence[int]) -> float:
    """Of the rows and columns in ``subset``; minus infinity where the determinant is not positive.

    A determinant that is zero on paper may come out slightly negative.
    """
    sign, value = np.linalg.slogdet(kernel[np.ix_(subset, subset)])
    return float(value) if sign > 0 else -math.inf


def dpp_map(features: Array, quality: Array, count: int, selected: Sequence[int] = ()) -> list[int]:
    """CDPruner: the token that makes the determinant of the chosen kernel largest, in order.

    Beyond the rank of the features every determinant is zero on paper, and rounding decides: no
    comparison makes sense there.
    """
    kernel = dpp_kernel(features, quality)
    return grow(
        lambda chosen, token: log_determinant(kernel, [*chosen, token]),
        len(features),
        count,
        selected,
    )


def best_subset(features: Array, quality: Array, count: int) -> list[int]:
    """The subset with the largest determinant of all, ascending; the first one among equals.

    Tries every subset, so for a handful of tokens only (8 at most).
    """
    kernel = dpp_kernel(features, quality)
    subsets = [list(subset) for subset in itertools.combinations(range(len(features)), count)]
    values = [log_determinant(kernel, subset) for subset in subsets]
    return subsets[values.index(max(values))]


def mmtok_rows(
    text: Array,
    projected: Array,
    features: Array,
    alpha: float = 0.5,
    text_temperature: float = 0.02,
    vision_temperature: float = 0.2,
) -> Array:
    """MMTok: what each token covers of each text token, and ``alpha`` times of each visual token.

    ``text`` ``[text, dim]`` and ``projected`` ``[tokens, dim]`` share a space, ``features``
    ``[tokens, vision dim]`` have their own. Each block of ``[text + tokens, tokens]`` is a softmax
    over the row, divided by the number of rows of the block. Without text only the second remains.
    """
    said = [softmax(row / text_temperature) / len(text) for row in cosines(text, projected)]
    seen = cosines(features, features)
    return np.array(
        said + [alpha * softmax(row / vision_temperature) / len(features) for row in seen]
    )


def scope(
    features: Array, scores: Array, count: int, selected: Sequence[int] = (), alpha: float = 1.0
) -> list[int]:
    """SCOPE: ``sum over tokens of max(0, cos to the candidate - best cos to a chosen one)``.

    Times ``score ** alpha`` of the candidate. Nothing chosen is worth 0, so that negative cosines
    never count. In order of selection; ``selected`` tokens cover and are not returned. Two tokens
    that resemble nothing else gain the same on paper: gains are compared to 12 digits, cosines to
    14.
    """
    cosine_of = cosines(features, features)

    def gain(chosen: list[int], token: int) -> float:
        total = []
        for seen in range(len(features)):
            covered = max((cosine_of[seen, other] for other in chosen), default=0.0)
            more = float(cosine_of[seen, token] - max(0.0, covered))
            total.append(more if more > 1e-14 else 0.0)
        return round(float(math.fsum(total) * scores[token] ** alpha), 12)

    return grow(gain, len(features), count, selected)


def coverage(rows: Array, count: int, selected: Sequence[int] = ()) -> list[int]:
    """The token that makes ``sum over rows of max over chosen of rows[row, token]`` largest.

    ``rows`` ``[rows, tokens]`` is not negative, and nothing chosen is worth 0. In order of
    selection. The sum is exact (``math.fsum``): equal terms in any order tie.
    """

    def covered(chosen: list[int], token: int) -> float:
        return math.fsum(rows[:, [*chosen, token]].max(axis=1).tolist())

    return grow(covered, rows.shape[1], count, selected)
