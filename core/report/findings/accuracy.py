"""Accuracy with intervals, at one place of the grid, and what pruning at random costs."""

from __future__ import annotations

import numpy as np

from tokensieve.core.report.findings.results import ModelTask, Place, Results
from tokensieve.core.report.statistics.intervals import (
    Interval,
    mean_interval,
    percentile_interval,
)


def accuracy(results: Results, place: Place) -> Interval:
    """Accuracy, seeds pooled."""
    return mean_interval(results.scores(place), results.weights[place.task])


def untouched_accuracy(results: Results, on: ModelTask) -> Interval | None:
    """Accuracy of the untouched model."""
    if on not in results.untouched:
        return None
    scores = results.untouched[on].scores.mean(axis=0)
    return mean_interval(scores, results.weights[on.task])


def share_of_untouched(results: Results, place: Place) -> Interval | None:
    """Accuracy over that of the untouched model on the same examples."""
    whole = results.untouched.get(place.model_task)
    if whole is None or not whole.scores.any():
        return None
    own, full = results.scores(place), whole.scores.mean(axis=0)
    weights = results.weights[place.task]
    with np.errstate(invalid="ignore", divide="ignore"):
        draws = (weights @ own) / (weights @ full)
    return percentile_interval(float(own.mean() / full.mean()), draws)


def agreement(results: Results, place: Place) -> Interval | None:
    """Share of answers that are the untouched model's, right or wrong."""
    agrees = results.measured[place].agrees
    if agrees is None:
        return None
    return mean_interval(agrees.mean(axis=0), results.weights[place.task])


def loss_at_random(results: Results) -> Interval | None:
    """Accuracy that dropping tokens at random costs, mean over all places."""
    losses, draws = [], []
    for place in results.places():
        whole = results.untouched.get(place.model_task)
        if place.method == "random" and whole is not None:
            lost = whole.scores.mean(axis=0) - results.scores(place)
            losses.append(float(lost.mean()))
            draws.append(results.weights[place.task] @ lost)
    if not losses:
        return None
    return percentile_interval(float(np.mean(losses)), np.mean(draws, axis=0))
