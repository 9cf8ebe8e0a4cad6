"""Every cell of a study in a row, as plain numbers."""

from __future__ import annotations

from collections.abc import Sequence

from tokensieve.core.names import UNTOUCHED
from tokensieve.core.report.findings.accuracy import (
    accuracy,
    agreement,
    share_of_untouched,
    untouched_accuracy,
)
from tokensieve.core.report.findings.comparing import PairedComparison
from tokensieve.core.report.findings.results import Place, Results
from tokensieve.core.report.statistics.intervals import Interval
from tokensieve.core.report.tables.spreadsheets import spreadsheet

COLUMNS = (
    "model,task,budget,method,seeds,examples,tokens_per_layer,token_share,flops_share,"
    "accuracy,accuracy_low,accuracy_high,of_untouched,of_untouched_low,of_untouched_high,"
    "agreement,agreement_low,agreement_high"
).split(",")
ENDS = ("", "_low", "_high", "_p", "_p_corrected")


def csv_text(results: Results, by_cell: Sequence[PairedComparison]) -> str:
    """The file's text; shares are 0..1."""
    against = [f"over_{other}{end}" for other in results.baselines for end in ENDS]
    rows: list[Sequence[object]] = [[*COLUMNS, *against]]
    compared = {(comparison.place, comparison.other): comparison for comparison in by_cell}
    for on in results.untouched:
        rows.append(_row(results, Place(*on, "", UNTOUCHED)))
    for place in results.places():
        row = _row(results, place)
        for other in results.baselines:
            comparison = compared.get((place, other))
            if comparison is None:
                row += [""] * len(ENDS)
            else:
                row += _numbers(comparison.difference)
                row += [f"{comparison.p:.3g}", f"{comparison.adjusted:.3g}"]
        rows.append(row)
    return spreadsheet(rows)


def _row(results: Results, place: Place) -> list[object]:
    """A cell without its comparisons."""
    shares: tuple[Interval | None, ...]
    if place.method == UNTOUCHED:
        measured = results.untouched[place.model_task]
        shares = (untouched_accuracy(results, place.model_task), None, None)
    else:
        measured = results.measured[place]
        share, same = share_of_untouched(results, place), agreement(results, place)
        shares = (accuracy(results, place), share, same)
    return [
        *place,
        *measured.scores.shape,
        f"{measured.tokens:.6g}",
        f"{measured.token_share:.6g}",
        f"{measured.flops_share:.6g}",
        *(value for interval in shares for value in _numbers(interval)),
    ]


def _numbers(interval: Interval | None) -> list[str]:
    """Value, low and high; empty where nobody knows."""
    if interval is None:
        return ["", "", ""]
    return [f"{value:.6g}" for value in (interval.value, interval.low, interval.high)]
