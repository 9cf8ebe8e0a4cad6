"""Tests of paired differences, and the correction for how many there are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tokensieve.core.report.statistics.intervals import ROUNDING, Floats

SIGNIFICANT = 0.05
LARGEST_UNIT = 240  # differences that are whole multiples of 1/240 or less are tested exactly
FEW = 16  # differences of which all patterns of signs are counted
EXACT_LENGTH = 2_000_000  # entries of the exact distribution at most


def sign_flip_test(differences: npt.ArrayLike) -> float:
    """Two-sided p-value of paired differences: is their sum larger than with random signs?

    Exact for few differences, and where they are multiples of a common unit, as those of right
    and wrong answers are; it then equals McNemar's exact test if both sides answered once.
    Otherwise the normal distribution with the same variance is taken.
    """
    given = np.asarray(differences, dtype=float)
    given = given[np.abs(given) > ROUNDING]
    if not len(given):
        return 1.0
    if len(given) <= FEW:
        sums = np.zeros(1)  # of all patterns of signs
        for value in given:
            sums = np.concatenate([sums + value, sums - value])
        return float(np.mean(np.abs(sums) >= abs(given.sum()) - ROUNDING))
    steps = _in_whole_steps(given)
    if steps is None or 2 * np.abs(steps).sum() + 1 > EXACT_LENGTH:
        return math.erfc(abs(given.sum()) / math.sqrt(2 * np.square(given).sum()))
    return _exact_flip_probability(steps)


def _in_whole_steps(values: Floats) -> npt.NDArray[np.int64] | None:
    """The values as multiples of their common unit; None if there is none worth the name."""
    scaled = values / np.abs(values).max()
    for unit in range(1, LARGEST_UNIT + 1):
        whole: Floats = np.rint(scaled * unit)
        if np.allclose(scaled * unit, whole, rtol=0, atol=1e-6):
            steps: npt.NDArray[np.int64] = whole.astype(np.int64)
            return steps
    return None


def _exact_flip_probability(steps: npt.NDArray[np.int64]) -> float:
    """P(|sum of +-steps| >= |sum of steps|): sizes are binomial, and their sums convolve."""
    distribution = np.ones(1)
    for size, count in zip(*np.unique(np.abs(steps), return_counts=True), strict=True):
        spread = np.zeros(2 * size * count + 1)
        spread[:: 2 * size] = binomial_half(int(count))
        distribution = np.convolve(distribution, spread)
    sums = np.abs(np.arange(len(distribution)) - np.abs(steps).sum())
    return min(1.0, float(distribution[sums >= abs(int(steps.sum()))].sum()))


def binomial_half(count: int) -> Floats:
    """Probabilities of 0 .. ``count`` heads of a fair coin."""
    logs = [
        math.lgamma(count + 1) - math.lgamma(heads + 1) - math.lgamma(count - heads + 1)
        for heads in range(count + 1)
    ]
    return np.exp(np.array(logs) - count * math.log(2))


def holm(probabilities: Sequence[float]) -> list[float]:
    """Holm's correction of p-values for their number."""
    given = np.asarray(probabilities, dtype=float)
    order = np.argsort(given, kind="stable")
    factors = len(given) - np.arange(len(given))
    raised = np.minimum(1.0, np.maximum.accumulate(given[order] * factors))
    adjusted = np.empty(len(given))
    adjusted[order] = raised
    return [float(value) for value in adjusted]
