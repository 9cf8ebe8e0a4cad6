"""Tables on generalization: rankings, a model held out, and where the variance comes from."""

from __future__ import annotations

from collections.abc import Sequence

from tokensieve.core.report.findings.generalizing import HeldOut, RankAgreement
from tokensieve.core.report.statistics.intervals import Interval
from tokensieve.core.report.tables.table import Table
from tokensieve.core.report.verdicts.wording import in_cell


def held_out_table(entries: Sequence[HeldOut]) -> Table:
    """The method that the other models would choose, on each model."""
    rows = tuple((e.model, e.choice, e.best, in_cell(e.loss), in_cell(e.gain)) for e in entries)
    note = (
        "Points of accuracy, mean over tasks and budgets. The best method here is known with "
        "hindsight only, so the loss cannot be negative; its interval repeats the choice."
    )
    columns = ("held-out model", "best on the others", "best here", "loss", "gain over random")
    return Table("Leave one model out", columns, rows, note)


def rank_table(found: Sequence[tuple[str, RankAgreement]]) -> Table:
    """Kendall's tau between models and between tasks, mean over pairs."""
    rows = tuple(
        (f"between {between}s", ", ".join(a.names), in_cell(a.mean, 2, 1)) for between, a in found
    )
    return Table("Agreement of rankings", ("rankings", "of", "Kendall's tau-b, mean"), rows)


def variance_table(shares: dict[str, Interval]) -> Table:
    """Shares of the variance between cells."""
    rows = tuple((name, in_cell(share)) for name, share in shares.items())
    note = (
        "Sums of squares of cell accuracies at each budget, added up. What drawing other examples "
        "would change is estimated by the bootstrap and taken off the other terms."
    )
    return Table("Where the variance lies", ("term", "% of variance"), rows, note)
