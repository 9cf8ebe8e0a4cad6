"""Rules of :mod:`references.selections` and :mod:`references.greedy` for hundreds of tokens.

Each remembers what the slow one computes anew; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from references.formulas import Array


def steady(rule: Callable[..., list[int]], *arrays: Array, noise: float = 1e-9) -> list[int]:
    """What the rule picks, once noise far above rounding has been seen not to change it."""
    picked = rule(*arrays)
    generator = np.random.default_rng(len(picked))
    for _ in range(2):
        moved = [a * (1 + noise * generator.uniform(-1, 1, a.shape)) for a in arrays]
        assert rule(*moved) == picked, "a near tie: choose another seed"
    return picked


def _cosines(features: Array) -> Array:
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    return unit @ unit.T


def thinned(features: Array, residual: Sequence[int], count: int) -> list[int]:
    """:func:`selections.thinned`, with all cosines computed once."""
    similar, residual = _cosines(features), list(residual)
    while len(residual) > count:
        dropped = min(8, len(residual) - count)
        even, odd = residual[0::2], residual[1::2]
        worst = similar[np.ix_(even, odd)].max(axis=1)
        residual = [even[at] for at in np.argsort(-worst, kind="stable")[dropped:]] + odd
    return residual


def max_min(features: Array, count: int) -> list[int]:
    """:func:`greedy.max_min`, which remembers the distance to the nearest chosen token."""
    distance = 1 - _cosines(features)
    picked = [int((distance + np.diag([np.inf] * len(distance))).min(axis=0).argmax())]
    nearest = distance[picked[0]].copy()
    while len(picked) < count:
        nearest[picked] = -np.inf
        picked.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, distance[picked[-1]])
    return picked


def dpp(features: Array, quality: Array, count: int) -> list[int]:
    """:func:`greedy.dpp_map` by what a token adds to the determinant.

    It multiplies the determinant by its Schur complement in the kernel of the chosen ones.
    """
    kernel = quality[:, None] * _cosines(features) * quality
    picked: list[int] = []
    for _ in range(count):
        across = kernel[picked]
        explained = across * np.linalg.solve(kernel[np.ix_(picked, picked)], across)
        gain = kernel.diagonal() - explained.sum(axis=0)
        gain[picked] = -np.inf
        picked.append(int(gain.argmax()))
    return picked


def scope(features: Array, scores: Array, count: int) -> list[int]:
    """:func:`greedy.scope`, which remembers the best cosine to a chosen token."""
    similar, picked = _cosines(features), []
    covered = np.zeros(len(features))
    for _ in range(count):
        worth = np.maximum(similar - covered[:, None], 0).sum(axis=0) * scores
        worth[picked] = -np.inf
        picked.append(int(worth.argmax()))
        covered = np.maximum(covered, similar[:, picked[-1]])
    return picked


def coverage(rows: Array, count: int) -> list[int]:
    """:func:`greedy.coverage`, which remembers what the chosen ones cover."""
    covered, picked = np.zeros(len(rows)), []
    for _ in range(count):
        worth = np.maximum(rows, covered[:, None]).sum(axis=0)
        worth[picked] = -np.inf
        picked.append(int(worth.argmax()))
        covered = np.maximum(covered, rows[:, picked[-1]])
    return picked
