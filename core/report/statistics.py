"""The statistics of a study: plain functions of arrays, seeded and vectorized.

Examples are what is drawn at random, so bootstraps resample examples: a resample is a row of
*weights*, how often each example was drawn, and a mean over it is a matrix product. Everything
that was measured on the same examples shares the weights; that is what makes a comparison paired.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

RESAMPLES = 2000
CONFIDENCE = 0.95
LARGEST_UNIT = 240  # differences that are whole multiples of 1/240 or less are tested exactly
ROUNDING = 1e-12
PLACES = 12  # as many decimals
FEW = 16  # differences of which all patterns of signs are counted
EXACT_LENGTH = 2_000_000  # entries of the exact distribution at most


@dataclass(frozen=True)
class Interval:
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 if all of it is above 0, -1 if below, else 0."""
        return int(self.low > 0) - int(self.high < 0)

    def times(self, factor: float) -> Interval:
        """In another unit; a negative factor turns it around."""
        if factor < 0:
            return Interval(self.value * factor, self.high * factor, self.low * factor)
        return Interval(self.value * factor, self.low * factor, self.high * factor)


# ------------------------------------------------------------------ bootstrap


def bootstrap_weights(count: int, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """``[resamples, count]`` how often each example is drawn, divided by ``count``."""
    generator = np.random.default_rng([seed, count])
    drawn = generator.multinomial(count, np.full(count, 1 / count), size=resamples)
    return drawn / count


def percentile_interval(value: float, draws: npt.ArrayLike) -> Interval:
    """``value`` with the middle 95 % of ``draws``; draws that are not numbers are left out."""
    known = np.asarray(draws, dtype=float)
    known = known[np.isfinite(known)]
    if not len(known):
        return Interval(value, math.nan, math.nan)
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(known, [tail, 100 - tail])
    return Interval(value, float(low), float(high))


def centered_interval(
    value: float, draws: npt.ArrayLike, low: float = -math.inf, high: float = math.inf
) -> Interval:
    """As wide as the middle 95 % of ``draws``, but around ``value``; cut to ``low`` .. ``high``.

    For statistics that noise makes smaller, such as correlations: resampling adds noise, so the
    draws lie off the value by what noise has already taken from it.
    """
    known = np.asarray(draws, dtype=float)
    known = known[np.isfinite(known)]
    if not len(known):
        return Interval(value, math.nan, math.nan)
    around = percentile_interval(value, known - known.mean() + value)
    return Interval(value, *(min(max(end, low), high) for end in (around.low, around.high)))


def mean_interval(scores: Floats, weights: Floats) -> Interval:
    """Mean of ``scores`` ``[examples]`` in 0..1.

    Where all scores are alike no resample differs: Wilson's interval stands in, so that ten right
    answers out of ten are no proof of 100 %.
    """
    mean = float(scores.mean())
    if np.ptp(scores) > 0:
        return percentile_interval(mean, weights @ scores)
    return Interval(mean, *wilson(mean, len(scores)))


def difference_interval(differences: Floats, weights: Floats) -> Interval:
    """Mean of paired ``differences`` ``[examples]``.

    Where all are 0, as many as would be overlooked in 95 of 100 studies may still differ.
    """
    mean = float(differences.mean())
    if np.ptp(differences) > 0:
        return percentile_interval(mean, weights @ differences)
    unseen = overlooked(len(differences))
    return Interval(mean, max(mean - unseen, -1.0), min(mean + unseen, 1.0))


def wilson(share: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a share."""
    center = (share + z * z / (2 * count)) / (1 + z * z / count)
    variance = share * (1 - share) / count + z * z / (4 * count * count)
    half = z / (1 + z * z / count) * math.sqrt(variance)
    return max(center - half, 0.0), min(center + half, 1.0)


def overlooked(count: int) -> float:
    """The largest share that shows up in none of ``count`` draws with probability 5 %."""
    return float(1 - (1 - CONFIDENCE) ** (1 / count))


# ------------------------------------------------------------------ tests


def sign_flip_test(differences: npt.ArrayLike) -> float:
    """Two-sided p-value of paired differences: is their sum larger than with random signs?

    Exact for few differences, and where they are multiples of a common unit, as those of right
    and wrong answers are; it then equals McNemar's exact test if both sides answered once.
    Otherwise the normal distribution with the same variance stands in.
    """
    given = np.asarray(differences, dtype=float)
    given = given[np.abs(given) > ROUNDING]
    if not len(given):
        return 1.0
    if len(given) <= FEW:
        return _counted_flip_probability(given)
    steps = _in_whole_steps(given)
    if steps is None or 2 * np.abs(steps).sum() + 1 > EXACT_LENGTH:
        return math.erfc(abs(given.sum()) / math.sqrt(2 * np.square(given).sum()))
    return _exact_flip_probability(steps)


def _counted_flip_probability(differences: Floats) -> float:
    """Over all patterns of signs."""
    sums = np.zeros(1)
    for value in differences:
        sums = np.concatenate([sums + value, sums - value])
    return float(np.mean(np.abs(sums) >= abs(differences.sum()) - ROUNDING))


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


# ------------------------------------------------------------------ rank correlation


def average_ranks(values: npt.ArrayLike) -> Floats:
    """Ranks from 1, along the only axis; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Floats = (last - (counts - 1) / 2)[inverse]
    return ranks


def pearson(one: npt.ArrayLike, two: npt.ArrayLike) -> float:
    """Linear correlation; not a number if one of them is constant."""
    first, second = np.array(one, dtype=float), np.array(two, dtype=float)
    first, second = first - first.mean(), second - second.mean()
    scale = math.sqrt(float(first @ first) * float(second @ second))
    return float(first @ second) / scale if scale > 0 else math.nan


def spearman(one: npt.ArrayLike, two: npt.ArrayLike) -> float:
    """Spearman's rank correlation, ties averaged."""
    return pearson(average_ranks(one), average_ranks(two))


def kendall_tau_b(one: npt.ArrayLike, two: npt.ArrayLike) -> Floats:
    """Kendall's tau-b along the last axis; not a number where one ranking is constant."""
    first, second = (_pair_signs(np.asarray(x, dtype=float)) for x in (one, two))
    agreement = (first * second).sum(axis=-1)
    untied = np.abs(first).sum(axis=-1) * np.abs(second).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(agreement / np.sqrt(untied), dtype=float)


def _pair_signs(values: Floats) -> Floats:
    """``[..., pairs]`` sign of the difference of every pair; rounding decides nothing."""
    left, right = np.triu_indices(values.shape[-1], k=1)
    differences = values[..., left] - values[..., right]
    return np.where(np.abs(differences) < ROUNDING, 0.0, np.sign(differences))


def mean_off_diagonal(matrix: Floats) -> Floats:
    """Mean over pairs of a symmetric ``[..., n, n]``; pairs without a number are left out."""
    pairs = matrix[(..., *np.triu_indices(matrix.shape[-1], k=1))]
    known = np.isfinite(pairs)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, pairs, 0).sum(axis=-1) / known.sum(axis=-1))


def tau_matrix(table: Floats) -> Floats:
    """Tau-b between the rows of ``[..., rows, methods]``: ``[..., rows, rows]``."""
    return kendall_tau_b(table[..., :, None, :], table[..., None, :, :])


# ------------------------------------------------------------------ leaving a model out


def leave_one_out_choice(table: Floats, held_out: int) -> int:
    """The column that is best on average over the other rows; ties go to the first."""
    return int(first_best(np.delete(table, held_out, axis=0).mean(axis=0)))


def first_best(values: Floats) -> npt.NDArray[np.intp]:
    """``[columns, ...]`` -> ``[...]`` the first column that is best.

    Means of the same answers can differ in the last bits (0.87 and 0.8699999999999999), depending
    on the order in which they were added: they are equal.
    """
    return np.asarray((values >= values.max(axis=0) - ROUNDING).argmax(axis=0))
