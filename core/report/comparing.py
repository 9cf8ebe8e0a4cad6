"""Numbers with intervals, from the arrays of a study: accuracy, and method against method."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tokensieve.core.report.results import Ground, Place, Results
from tokensieve.core.report.statistics import (
    Floats,
    Interval,
    difference_interval,
    holm,
    mean_interval,
    percentile_interval,
    sign_flip_test,
)

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Contest:
    """One method against another at equal cost.

    Attributes:
        models: where; one, or several pooled.
        difference: in accuracy, positive if ``method`` is better.
        p: of the exact sign-flip test; ``adjusted`` after Holm's correction for the contests that
            were held together.
        cells: (model, task, budget) that went into it.
    """

    method: str
    other: str
    models: tuple[str, ...]
    difference: Interval
    p: float
    cells: int
    adjusted: float = 1.0
    place: Place | None = None

    @property
    def outcome(self) -> int:
        """1 won, -1 lost, 0 no evidence: interval and corrected test have to agree."""
        return self.difference.sign if self.adjusted < SIGNIFICANT else 0


def accuracy(results: Results, place: Place) -> Interval:
    """Accuracy, seeds pooled."""
    return mean_interval(results.scores(place), results.weights[place.task])


def untouched_accuracy(results: Results, ground: Ground) -> Interval | None:
    """Accuracy of the untouched model."""
    if ground not in results.untouched:
        return None
    scores = results.untouched[ground].scores.mean(axis=0)
    return mean_interval(scores, results.weights[ground.task])


def share_of_untouched(results: Results, place: Place) -> Interval | None:
    """Accuracy over that of the untouched model on the same examples."""
    whole = results.untouched.get(Ground(place.model, place.task))
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


def contests_by_cell(results: Results) -> list[Contest]:
    """Every method against every baseline, cell by cell; corrected for their number."""
    held = []
    for place in results.places():
        for other in results.floors:
            against = place._replace(method=other)
            if place.method in results.floors or against not in results.measured:
                continue
            differences = results.scores(place) - results.scores(against)
            interval = difference_interval(differences, results.weights[place.task])
            held.append(
                Contest(
                    place.method, other, (place.model,), interval, sign_flip_test(differences), 1,
                    place=place,
                )
            )  # fmt: skip
    return corrected(held)


def corrected(contests: Sequence[Contest]) -> list[Contest]:
    """The same contests with p-values corrected for their number."""
    adjusted = holm([contest.p for contest in contests])
    return [replace(c, adjusted=p) for c, p in zip(contests, adjusted, strict=True)]


def pooled_contest(
    results: Results, method: str, other: str, models: Iterable[str]
) -> Contest | None:
    """Over all tasks and budgets that both have; every task weighs the same."""
    models = tuple(models)
    by_task, cells = {}, 0
    for task in results.tasks:
        rows = _differences(results, method, other, models, task)
        if rows:
            by_task[task] = np.mean(rows, axis=0)
            cells += len(rows)
    if not by_task:
        return None
    value = float(np.mean([row.mean() for row in by_task.values()]))
    draws = np.mean([results.weights[task] @ row for task, row in by_task.items()], axis=0)
    flipped = np.concatenate([row / len(row) for row in by_task.values()])
    interval = percentile_interval(value, draws)
    if not flipped.any():
        interval = difference_interval(flipped, np.zeros((1, len(flipped))))
    return Contest(method, other, models, interval, sign_flip_test(flipped), cells)


def _differences(
    results: Results, method: str, other: str, models: Sequence[str], task: str
) -> list[Floats]:
    """One row of examples for each model and budget."""
    rows = []
    for model in models:
        for budget in results.budgets:
            one, two = (Place(model, task, budget, name) for name in (method, other))
            if one in results.measured and two in results.measured:
                rows.append(results.scores(one) - results.scores(two))
    return rows


def contests_by_model(results: Results, pairs: Sequence[tuple[str, str]]) -> list[Contest]:
    """Each pair on each model, tasks and budgets pooled; corrected for their number."""
    held = [
        contest
        for method, other in pairs
        for model in results.models
        if (contest := pooled_contest(results, method, other, [model])) is not None
    ]
    return corrected(held)
