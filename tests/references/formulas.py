"""The formulas of the papers, one sample and one token at a time, in float64 numpy.

Written from the papers (and the released code where the two differ), never from this project's own
code: everything here is meant to be *obviously* right, and may be as slow as it likes. Arrays are
``[tokens]``, ``[rows, dim]`` or ``[rows, heads, head dim]``; there is no batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def cosine(left: Array, right: Array) -> float:
    return float(left @ right) / (math.sqrt(left @ left) * math.sqrt(right @ right))


def length(vector: Array) -> float:
    return math.sqrt(float(vector @ vector))


def ttv_of_module(inputs: Array, outputs: Array, variant: str = "code") -> Array:
    """Magnitude change times softmaxed direction change, for *every* token of the sequence.

    ``inputs`` and ``outputs`` are ``[rows, dim]`` of one module: the normalised input and the
    output before the residual addition. ``code``: direction is ``1 - cos``; ``paper`` (Eq. 2):
    ``1 - |cos|``. The softmax runs over all rows, text included.
    """
    rows = range(len(inputs))
    magnitude, direction = [], []
    for row in rows:
        similarity = cosine(inputs[row], outputs[row])
        if variant == "paper":
            similarity = abs(similarity)
        magnitude.append(length(outputs[row]) / length(inputs[row]))
        direction.append(math.exp(1 - similarity))
    total = sum(direction)
    return np.array([magnitude[row] * direction[row] / total for row in rows])


def ttv_of_block(inputs: Array, outputs: Array) -> Array:
    """Change between a decoder block's input and output: ``||y|/|x| - 1| + (1 - cos)``."""
    return np.array(
        [
            abs(length(y) / length(x) - 1) + (1 - cosine(x, y))
            for x, y in zip(inputs, outputs, strict=True)
        ]
    )


def rotate(vector: Array, cos: Array, sin: Array) -> Array:
    """Rotary embedding of one head vector: pairs are (i, i + half), as in Llama and Qwen."""
    half = len(vector) // 2
    rotated = np.empty_like(vector)
    for i in range(half):
        rotated[i] = vector[i] * cos[i] - vector[i + half] * sin[i]
        rotated[i + half] = vector[i + half] * cos[i + half] + vector[i] * sin[i + half]
    return rotated


def rotate_all(vectors: Array, cos: Array, sin: Array) -> Array:
    """``[rows, heads, head dim]`` rotated row by row with ``cos`` and ``sin`` ``[rows, dim]``."""
    return np.array(
        [[rotate(head, cos[row], sin[row]) for head in vectors[row]] for row in range(len(vectors))]
    )


def softmax(logits: Array) -> Array:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def attention_row(query: Array, keys: Array) -> Array:
    """Attention of one query row ``[heads, head dim]`` to the keys ``[rows, key heads, head dim]``.

    Query head ``h`` reads key head ``h // (heads / key heads)``. Returns ``[heads, rows]``.
    """
    heads, dim = query.shape
    group = heads // keys.shape[1]
    return np.array(
        [softmax(keys[:, head // group] @ query[head] / math.sqrt(dim)) for head in range(heads)]
    )


def causal_attention(
    queries: Array, keys: Array, rows: Sequence[int], columns: Sequence[int]
) -> Array:
    """Mean over ``rows`` and heads of the causal attention to ``columns``.

    The softmax runs over all keys that a row sees, so the columns need not sum to 1.
    """
    total = np.zeros(len(columns))
    for row in rows:
        probabilities = np.zeros((queries.shape[1], len(keys)))
        probabilities[:, : row + 1] = attention_row(queries[row], keys[: row + 1])
        total += probabilities[:, list(columns)].mean(axis=0)
    return total / len(rows)


def received_attention(queries: Array, keys: Array) -> Array:
    """Attention that each key receives: mean over all queries (no mask) -> ``[heads, rows]``."""
    return np.mean([attention_row(query, keys) for query in queries], axis=0)


def normalised(scores: Array) -> Array:
    """L1 normalisation over one image's tokens, as TransPrune's code does it."""
    return scores / (scores.sum() + 1e-8)


def share(tokens: int, ratio: float) -> int:
    """``int(tokens * ratio)`` of the decimal number a person wrote, at least one token."""
    return max(1, math.floor(tokens * Fraction(str(ratio))))


def top_k(scores: Array, count: int) -> list[int]:
    """Indices of the ``count`` largest, in ascending order; a tie goes to the lower index."""
    order = sorted(range(len(scores)), key=lambda token: (-scores[token], token))
    return sorted(order[:count])


def above(scores: Array, limit: float) -> list[int]:
    """Tokens that score more than ``limit``; the best one if there is none."""
    return [j for j in range(len(scores)) if scores[j] > limit] or top_k(scores, 1)


def quantile(scores: Array, at: float) -> float:
    """Linear interpolation between the two nearest order statistics."""
    ordered = sorted(float(score) for score in scores)
    place = at * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def outlier_limit(scores: Array, factor: float = 1.5) -> float:
    """The upper fence of a box plot: ``Q3 + factor (Q3 - Q1)``."""
    lower, upper = quantile(scores, 0.25), quantile(scores, 0.75)
    return upper + factor * (upper - lower)


def in_parts(parts: Sequence[tuple[Array, int]]) -> list[int]:
    """Each part picks its count of best tokens among those that no earlier part took."""
    taken: list[int] = []
    for scores, count in parts:
        free = [token for token in range(len(scores)) if token not in taken]
        free.sort(key=lambda token: (-scores[token], token))
        taken += free[:count]
    return sorted(taken)


def visionzip_plan(
    scores: Array, keys: Array, dominant: int, contextual: int
) -> tuple[list[int], dict[int, list[int]]]:
    """Which patches stay, and which target absorbs each of the others.

    ``scores`` ``[patches]`` is the head-summed [CLS] attention, ``keys`` ``[patches, head dim]``
    the head-mean unscaled keys, ``dominant`` the number of patches (the [CLS] is not among them).
    Returns the dominant patches in raster order, and ``{target: members}`` with the targets in
    raster order; a target is not among its members.
    """
    kept = top_k(scores, dominant)
    rest = [patch for patch in range(len(scores)) if patch not in kept]
    step = max(1, len(rest) // contextual)
    targets = rest[::step][:contextual]
    groups: dict[int, list[int]] = {target: [] for target in targets}
    for patch in rest:
        if patch in groups:
            continue
        similar = [cosine(keys[patch], keys[target]) for target in targets]
        groups[targets[similar.index(max(similar))]].append(patch)
    return kept, groups


def visionzip_merge(features: Array, groups: dict[int, list[int]], rule: str) -> Array:
    """One vector per target: ``[targets, vision dim]``.

    ``target_plus_mean`` (released code): the target plus the mean of its members, 0 if none.
    ``average`` (paper): the mean of the target and its members.
    """
    merged = []
    for target, members in groups.items():
        if rule == "average":
            merged.append(np.mean([features[patch] for patch in [target, *members]], axis=0))
        elif members:
            merged.append(features[target] + np.mean([features[p] for p in members], axis=0))
        else:
            merged.append(features[target])
    return np.array(merged)
