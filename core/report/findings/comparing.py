"""Method against method at equal cost, example by example."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from tokensieve.core.report.findings.results import Place, Results
from tokensieve.core.report.statistics.intervals import (
    Interval,
    difference_interval,
    percentile_interval,
)
from tokensieve.core.report.statistics.significance import SIGNIFICANT, holm, sign_flip_test

ALL_PAIRS_UP_TO = 5  # candidates that are all compared with each other; of more, the best with all
Pairs = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class PairedComparison:
    """One method against another at equal cost.

    Attributes:
        models: where; one, or several pooled.
        difference: in accuracy, positive if ``method`` is better.
        p: of the exact sign-flip test; ``adjusted`` after Holm's correction for the comparisons
            that were made together.
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


@dataclass(frozen=True)
class PairSummary:
    """One method against another, over all models and on each."""

    method: str
    other: str
    overall: PairedComparison
    by_model: tuple[PairedComparison, ...]

    @property
    def won(self) -> int:
        """Models on which it is better."""
        return sum(comparison.outcome > 0 for comparison in self.by_model)

    @property
    def lost(self) -> int:
        """Models on which it is worse."""
        return sum(comparison.outcome < 0 for comparison in self.by_model)


def corrected(comparisons: Sequence[PairedComparison]) -> list[PairedComparison]:
    """The same comparisons with p-values corrected for their number."""
    adjusted = holm([comparison.p for comparison in comparisons])
    return [replace(c, adjusted=p) for c, p in zip(comparisons, adjusted, strict=True)]


def comparisons_by_cell(results: Results) -> list[PairedComparison]:
    """Every method against every baseline, cell by cell; corrected for their number."""
    made = []
    for place in results.places():
        for other in results.baselines:
            against = place._replace(method=other)
            if place.method in results.baselines or against not in results.measured:
                continue
            differences = results.scores(place) - results.scores(against)
            interval = difference_interval(differences, results.weights[place.task])
            p = sign_flip_test(differences)
            made.append(
                PairedComparison(place.method, other, (place.model,), interval, p, 1, place=place)
            )
    return corrected(made)


def pooled_comparison(
    results: Results, method: str, other: str, models: Iterable[str]
) -> PairedComparison | None:
    """Over all tasks and budgets that both have; every task weighs the same."""
    models = tuple(models)
    by_task, cells = {}, 0
    for task in results.tasks:
        rows = []  # of examples, one for each model and budget
        for model in models:
            for budget in results.budgets:
                one, two = (Place(model, task, budget, name) for name in (method, other))
                if one in results.measured and two in results.measured:
                    rows.append(results.scores(one) - results.scores(two))
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
    return PairedComparison(method, other, models, interval, sign_flip_test(flipped), cells)


def summarize_pairs(results: Results, pairs: Pairs) -> list[PairSummary]:
    """Each pair that was measured; p-values are corrected for all of them together."""
    by_model = corrected(
        [
            comparison
            for method, other in pairs
            for model in results.models
            if (comparison := pooled_comparison(results, method, other, [model])) is not None
        ]
    )
    pooled = [
        pooled_comparison(results, *pair, results.pooled)
        or pooled_comparison(results, *pair, results.models)
        for pair in pairs
    ]
    overall = {
        (comparison.method, comparison.other): comparison
        for comparison in corrected([found for found in pooled if found is not None])
    }
    return [
        PairSummary(
            *pair,
            overall[pair],
            tuple(c for c in by_model if (c.method, c.other) == pair),
        )
        for pair in pairs
        if pair in overall
    ]


def default_pairs(results: Results) -> Pairs:
    """Pairs to compare where nobody named any: the better method comes first."""
    candidates = results.candidates
    if len(candidates) <= ALL_PAIRS_UP_TO:
        return list(combinations(candidates, 2))
    return [(candidates[0], other) for other in candidates[1:]]
