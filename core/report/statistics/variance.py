"""The variance of accuracies: split into models, tasks, methods, interplay, and the draw."""

from __future__ import annotations

import math

import numpy as np

from tokensieve.core.report.statistics.intervals import Floats, Interval, percentile_interval

TERMS: dict[str, tuple[int, ...]] = {
    "model": (0,),
    "task": (1,),
    "method": (2,),
    "model x task": (0, 1),
    "model x method": (0, 2),
    "task x method": (1, 2),
    "model x task x method": (0, 1, 2),
}


def sums_of_squares(table: Floats) -> dict[str, Floats]:
    """ANOVA sums of squares of ``[models, tasks, methods, ...]``; further axes stay."""
    effects: dict[tuple[int, ...], Floats] = {(): table.mean(axis=(0, 1, 2), keepdims=True)}
    result: dict[str, Floats] = {}
    for name, axes in TERMS.items():
        others = tuple(axis for axis in range(3) if axis not in axes)
        effect = table.mean(axis=others, keepdims=True) if others else table.copy()
        for known, lower in effects.items():
            if set(known) < set(axes):
                effect = effect - lower
        effects[axes] = effect
        repeats = math.prod(table.shape[axis] for axis in others)
        result[name] = np.asarray(np.square(effect).sum(axis=(0, 1, 2)) * repeats)
    return result


def variance_split(table: Floats, draws: Floats) -> dict[str, Interval]:
    """Shares of the variance between cells, and the share that drawing examples alone makes.

    Args:
        table: ``[models, tasks, methods, budgets]`` accuracies; budgets are split separately and
            added up.
        draws: ``[models, tasks, methods, budgets, resamples]``.

    A resample adds the noise of drawing examples once more, so what a term gains by resampling is
    what the noise has already put into it; it is taken off and becomes ``drawn examples``.
    """
    seen = {name: float(value.sum()) for name, value in sums_of_squares(table).items()}
    resampled = {name: value.sum(axis=0) for name, value in sums_of_squares(draws).items()}
    total = sum(seen.values())
    if total <= 0:
        return {}
    clean, clean_draws, noise = {}, {}, 0.0
    for name, value in seen.items():
        gained = min(max(float(resampled[name].mean()) - value, 0.0), value)
        clean[name], noise = value - gained, noise + gained
        clean_draws[name] = np.maximum(resampled[name] - 2 * gained, 0.0)
    spread = sum(clean_draws.values()) + noise
    shares = {n: percentile_interval(v / total, clean_draws[n] / spread) for n, v in clean.items()}
    return {**shares, "drawn examples": percentile_interval(noise / total, noise / spread)}
