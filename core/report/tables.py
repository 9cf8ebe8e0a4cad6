"""Tables: the same rows for HTML, Markdown and CSV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokensieve.core.output.markdown import escaped, paragraph, pipe_table
from tokensieve.core.report.comparing import (
    Contest,
    accuracy,
    agreement,
    share_of_untouched,
    untouched_accuracy,
)
from tokensieve.core.report.generalizing import HeldOut, RankAgreement
from tokensieve.core.report.results import UNTOUCHED, Ground, Place, Results
from tokensieve.core.report.spreadsheets import spreadsheet
from tokensieve.core.report.statistics import Interval
from tokensieve.core.report.verdicts import Tally
from tokensieve.core.report.wording import UNKNOWN, in_cell, number, p_value

DETAIL = "95 % bootstrap intervals over examples in brackets"


@dataclass(frozen=True)
class Table:
    """Texts in rows; the first column names the row. ``note`` explains the numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def markdown(self) -> str:
        """A pipe table below its title."""
        lines = [f"### {escaped(self.title)}", "", pipe_table(self.columns, self.rows), ""]
        return "\n".join([*lines, paragraph(self.note), ""] if self.note else lines)


def floor_table(results: Results, held: Sequence[Tally], cells: Sequence[Contest]) -> Table:
    """Every method against every baseline, pooled, with wins and losses cell by cell."""
    floors = results.floors
    by_pair = {(tally.method, tally.other): tally for tally in held}
    rows = []
    for method in results.rivals:
        row = [method]
        for floor in floors:
            tally = by_pair.get((method, floor))
            own = [c for c in cells if (c.method, c.other) == (method, floor)]
            won, lost = (sum(c.outcome == sign for c in own) for sign in (1, -1))
            row += [
                UNKNOWN if tally is None else in_cell(tally.overall.difference),
                UNKNOWN if tally is None else p_value(tally.overall.adjusted),
                f"{won} / {lost} of {len(own)}",
            ]
        rows.append(tuple(row))
    columns = [c for f in floors for c in (f"over {f}, points", "corrected p", "cells won / lost")]
    note = (
        f"Differences in accuracy at equal cost, mean over models ({results.all_label}), tasks and "
        "budgets; "
        f"{DETAIL}. p: exact paired sign-flip test (McNemar's exact test where both sides "
        "answered once), Holm-corrected: the pooled ones for all of this table, the cells for "
        f"{len(cells)} comparisons. Random: mean of its seeds."
    )
    return Table("Against the baselines at equal cost", ("method", *columns), tuple(rows), note)


def claim_table(results: Results, held: Sequence[Tally]) -> Table:
    """Method against method on each model."""
    rows = []
    for tally in held:
        on = {contest.models[0]: contest for contest in tally.by_model}
        each = [_contest(on[model]) if model in on else UNKNOWN for model in results.models]
        rows.append((f"{tally.method} - {tally.other}", *each, _contest(tally.overall)))
    note = (
        "Points of accuracy at equal cost, tasks and budgets pooled; in brackets 95 % intervals "
        "and Holm-corrected p."
    )
    columns = ("difference", *results.models, results.all_label)
    return Table("Method against method", columns, tuple(rows), note)


def _contest(contest: Contest) -> str:
    return f"{in_cell(contest.difference)}, {p_value(contest.adjusted)}"


def accuracy_tables(results: Results, cells: Sequence[Contest]) -> list[Table]:
    """All numbers of each model and task."""
    by_place = {(c.place, c.other): c for c in cells}
    tables = []
    for model in results.models:
        for task in results.tasks:
            ground = Ground(model, task)
            places = [p for p in results.places() if (p.model, p.task) == ground]
            if not places:
                continue
            rows = [_untouched_row(results, ground)] if ground in results.untouched else []
            rows += [_place_row(results, place, by_place) for place in places]
            columns = ("method", *FACTS, *(f"over {floor}" for floor in results.floors))
            wide = [(*row, *[""] * (len(columns) - len(row))) for row in rows]
            note = f"{len(results.ids[task])} examples; {DETAIL}. An asterisk: see above."
            tables.append(Table(f"{model}, {task}", columns, tuple(wide), note))
    return tables


FACTS = (
    "budget",
    "tokens per layer",
    "FLOPs, %",
    "accuracy, %",
    "% of untouched",
    "same answer, %",
)


def _untouched_row(results: Results, ground: Ground) -> tuple[str, ...]:
    tokens = number(results.untouched[ground].tokens)
    return ("untouched", "", tokens, "100.0", in_cell(untouched_accuracy(results, ground)), "", "")


def _place_row(
    results: Results, place: Place, by_place: dict[tuple[Place | None, str], Contest]
) -> tuple[str, ...]:
    measured = results.measured[place]
    against = []
    for floor in results.floors:
        contest = by_place.get((place, floor))
        star = "*" if contest is not None and contest.outcome else ""
        against.append("" if contest is None else in_cell(contest.difference) + star)
    return (
        place.method,
        place.budget,
        number(measured.tokens),
        number(100 * measured.flops_share),
        in_cell(accuracy(results, place)),
        in_cell(share_of_untouched(results, place)),
        in_cell(agreement(results, place)),
        *against,
    )


def held_out_table(entries: Sequence[HeldOut]) -> Table:
    """Leave one model out."""
    rows = tuple((e.model, e.choice, e.best, in_cell(e.loss), in_cell(e.gain)) for e in entries)
    note = (
        "Points of accuracy, mean over tasks and budgets. The best method here is known with "
        "hindsight only, so the loss cannot be negative; its interval repeats the choice."
    )
    columns = ("held-out model", "best on the others", "best here", "loss", "gain over random")
    return Table("Leave one model out", columns, rows, note)


def rank_table(found: Sequence[tuple[str, RankAgreement]]) -> Table:
    """Kendall's tau, mean over pairs."""
    rows = tuple(
        (f"between {between}s", ", ".join(a.names), in_cell(a.mean, 2, 1)) for between, a in found
    )
    return Table("Agreement of rankings", ("rankings", "of", "Kendall's tau-b, mean"), rows)


def variance_table(shares: dict[str, Interval]) -> Table:
    """Sums of squares as shares."""
    rows = tuple((name, in_cell(share)) for name, share in shares.items())
    note = (
        "Sums of squares of cell accuracies at each budget, added up. What drawing other examples "
        "would change is estimated by the bootstrap and taken off the other terms."
    )
    return Table("Where the variance lies", ("term", "% of variance"), rows, note)


def trouble_tables(results: Results) -> list[Table]:
    """Cells without a score."""
    tables = []
    if results.unmet:
        note = "Left out of all comparisons: they would not be at equal cost."
        rows = tuple(sorted(results.unmet))
        tables.append(Table("Budgets that could not be met", ("cell", "reason"), rows, note))
    if results.failed:
        rows = tuple(sorted(results.failed))
        tables.append(Table("Failed cells", ("cell", "reason"), rows, "Not counted as 0: missing."))
    return tables


CSV_COLUMNS = (
    "model,task,budget,method,seeds,examples,tokens_per_layer,token_share,flops_share,"
    "accuracy,accuracy_low,accuracy_high,of_untouched,of_untouched_low,of_untouched_high,"
    "agreement,agreement_low,agreement_high"
).split(",")


def csv_text(results: Results, cells: Sequence[Contest]) -> str:
    """Every cell in a row, as plain numbers; shares are 0..1."""
    ends = ("", "_low", "_high", "_p", "_p_corrected")
    floors = [f"over_{floor}{end}" for floor in results.floors for end in ends]
    rows: list[Sequence[object]] = [[*CSV_COLUMNS, *floors]]
    by_place = {(c.place, c.other): c for c in cells}
    for ground in results.untouched:
        rows.append(_csv_row(results, Place(*ground, "", UNTOUCHED), []))
    for place in results.places():
        against: list[object] = []
        for floor in results.floors:
            contest = by_place.get((place, floor))
            numbers = ("",) * len(ends)
            against += numbers if contest is None else _csv_contest(contest)
        rows.append(_csv_row(results, place, against))
    return spreadsheet(rows)


def _csv_contest(contest: Contest) -> list[object]:
    return [*_numbers(contest.difference), f"{contest.p:.3g}", f"{contest.adjusted:.3g}"]


def _csv_row(results: Results, place: Place, against: Sequence[object]) -> list[object]:
    ground = Ground(place.model, place.task)
    whole = place.method == UNTOUCHED
    measured = results.untouched[ground] if whole else results.measured[place]
    own = untouched_accuracy(results, ground) if whole else accuracy(results, place)
    others = (
        [None, None] if whole else [share_of_untouched(results, place), agreement(results, place)]
    )
    return [
        *place,
        *measured.scores.shape,
        f"{measured.tokens:.6g}",
        f"{measured.token_share:.6g}",
        f"{measured.flops_share:.6g}",
        *_numbers(own),
        *(value for interval in others for value in _numbers(interval)),
        *against,
    ]


def _numbers(interval: Interval | None) -> list[str]:
    if interval is None:
        return ["", "", ""]
    return [f"{value:.6g}" for value in (interval.value, interval.low, interval.high)]
