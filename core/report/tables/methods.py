"""Tables on methods: against the baselines, against each other, and every number."""

from __future__ import annotations

from collections.abc import Sequence

from tokensieve.core.report.findings.accuracy import (
    accuracy,
    agreement,
    share_of_untouched,
    untouched_accuracy,
)
from tokensieve.core.report.findings.comparing import PairedComparison, PairSummary
from tokensieve.core.report.findings.results import ModelTask, Results
from tokensieve.core.report.tables.table import Table
from tokensieve.core.report.verdicts.wording import UNKNOWN, in_cell, number, p_value

DETAIL = "95 % bootstrap intervals over examples in brackets"
FACTS = (
    "budget",
    "tokens per layer",
    "FLOPs, %",
    "accuracy, %",
    "% of untouched",
    "same answer, %",
)


def baseline_table(
    results: Results, summaries: Sequence[PairSummary], by_cell: Sequence[PairedComparison]
) -> Table:
    """Every method against every baseline, pooled, with wins and losses cell by cell."""
    by_pair = {(summary.method, summary.other): summary for summary in summaries}
    rows = []
    for method in results.candidates:
        row = [method]
        for other in results.baselines:
            summary = by_pair.get((method, other))
            own = [c for c in by_cell if (c.method, c.other) == (method, other)]
            won, lost = (sum(c.outcome == sign for c in own) for sign in (1, -1))
            row += [
                UNKNOWN if summary is None else in_cell(summary.overall.difference),
                UNKNOWN if summary is None else p_value(summary.overall.adjusted),
                f"{won} / {lost} of {len(own)}",
            ]
        rows.append(tuple(row))
    columns = [
        column
        for other in results.baselines
        for column in (f"over {other}, points", "corrected p", "cells won / lost")
    ]
    note = (
        f"Differences in accuracy at equal cost, mean over models ({results.all_label}), tasks and "
        "budgets; "
        f"{DETAIL}. p: exact paired sign-flip test (McNemar's exact test where both sides "
        "answered once), Holm-corrected: the pooled ones for all of this table, the cells for "
        f"{len(by_cell)} comparisons. Random: mean of its seeds."
    )
    return Table("Against the baselines at equal cost", ("method", *columns), tuple(rows), note)


def claim_table(results: Results, summaries: Sequence[PairSummary]) -> Table:
    """Method against method on each model."""
    rows = []
    for summary in summaries:
        on = {comparison.models[0]: comparison for comparison in summary.by_model}
        each = [*(on.get(model) for model in results.models), summary.overall]
        cells = (
            UNKNOWN if c is None else f"{in_cell(c.difference)}, {p_value(c.adjusted)}"
            for c in each
        )
        rows.append((f"{summary.method} - {summary.other}", *cells))
    note = (
        "Points of accuracy at equal cost, tasks and budgets pooled; in brackets 95 % intervals "
        "and Holm-corrected p."
    )
    columns = ("difference", *results.models, results.all_label)
    return Table("Method against method", columns, tuple(rows), note)


def accuracy_tables(results: Results, by_cell: Sequence[PairedComparison]) -> list[Table]:
    """All numbers of each model and task."""
    compared = {(comparison.place, comparison.other): comparison for comparison in by_cell}
    columns = ("method", *FACTS, *(f"over {other}" for other in results.baselines))
    tables = []
    for model in results.models:
        for task in results.tasks:
            on = ModelTask(model, task)
            places = [place for place in results.places() if place.model_task == on]
            if not places:
                continue
            rows: list[tuple[str, ...]] = []
            if on in results.untouched:
                tokens = number(results.untouched[on].tokens)
                whole = in_cell(untouched_accuracy(results, on))
                rows.append(("untouched", "", tokens, "100.0", whole, "", ""))
            for place in places:
                measured = results.measured[place]
                against = []
                for other in results.baselines:
                    found = compared.get((place, other))
                    star = "*" if found is not None and found.outcome else ""
                    against.append("" if found is None else in_cell(found.difference) + star)
                rows.append(
                    (
                        place.method,
                        place.budget,
                        number(measured.tokens),
                        number(100 * measured.flops_share),
                        in_cell(accuracy(results, place)),
                        in_cell(share_of_untouched(results, place)),
                        in_cell(agreement(results, place)),
                        *against,
                    )
                )
            wide = [(*row, *[""] * (len(columns) - len(row))) for row in rows]
            note = f"{len(results.ids[task])} examples; {DETAIL}. An asterisk: see above."
            tables.append(Table(f"{model}, {task}", columns, tuple(wide), note))
    return tables


def trouble_tables(results: Results) -> list[Table]:
    """The cells without a score, and why they have none."""
    tables = []
    if results.unmet:
        note = "Left out of all comparisons: they would not be at equal cost."
        rows = tuple(sorted(results.unmet))
        tables.append(Table("Budgets that could not be met", ("cell", "reason"), rows, note))
    if results.failed:
        rows = tuple(sorted(results.failed))
        tables.append(Table("Failed cells", ("cell", "reason"), rows, "Not counted as 0: missing."))
    return tables
