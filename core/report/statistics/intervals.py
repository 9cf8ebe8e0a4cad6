"""Numbers with 95 % intervals, by the bootstrap over examples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

RESAMPLES = 2000
CONFIDENCE = 0.95
ROUNDING = 1e-12
PLACES = 12  # as many decimals


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
    draws are off the value by what noise has already taken from it.
    """
    known = np.asarray(draws, dtype=float)
    known = known[np.isfinite(known)]
    if not len(known):
        return Interval(value, math.nan, math.nan)
    around = percentile_interval(value, known - known.mean() + value)
    return Interval(value, *(min(max(end, low), high) for end in (around.low, around.high)))


def mean_interval(scores: Floats, weights: Floats) -> Interval:
    """Mean of ``scores`` ``[examples]`` in 0..1.

    Where all scores are alike no resample differs: Wilson's interval is taken, so that ten right
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
