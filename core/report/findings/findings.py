"""Everything that a report says, computed once from the results."""

from __future__ import annotations

from dataclasses import dataclass

from tokensieve.core.report.findings.attribution import Anatomy, anatomies
from tokensieve.core.report.findings.comparing import (
    PairedComparison,
    Pairs,
    PairSummary,
    comparisons_by_cell,
    default_pairs,
    summarize_pairs,
)
from tokensieve.core.report.findings.full_grid import FullGrid, full_grid
from tokensieve.core.report.findings.generalizing import (
    HeldOut,
    RankAgreement,
    leave_one_model_out,
    rank_agreement,
    variance_shares,
)
from tokensieve.core.report.findings.results import Results
from tokensieve.core.report.statistics.intervals import Interval


@dataclass(frozen=True)
class Findings:
    """The numbers that all sections are made from.

    Attributes:
        by_cell: every method against every baseline, cell by cell.
        baselines: every method against every baseline, summed up.
        claims: the pairs that somebody named, or those that a report chooses.
        ranks: agreement of rankings between the models, and between the tasks.
        shares: of the variance between cells; empty if there is too little to split.
        wanted: the pairs that somebody named, of scorers too.
    """

    results: Results
    by_cell: tuple[PairedComparison, ...]
    baselines: tuple[PairSummary, ...]
    claims: tuple[PairSummary, ...]
    grid: FullGrid | None
    ranks: tuple[tuple[str, RankAgreement], ...]
    held_out: tuple[HeldOut, ...]
    shares: dict[str, Interval]
    anatomies: tuple[Anatomy, ...]
    wanted: tuple[tuple[str, str], ...]


def find(results: Results, wanted: Pairs = ()) -> Findings:
    """Compute; ``wanted`` are pairs of methods (or scorers) to compare."""
    against = [(method, other) for other in results.baselines for method in results.candidates]
    methods = set(results.methods)
    pairs = [pair for pair in wanted if set(pair) <= methods] or default_pairs(results)
    grid = full_grid(results)
    ranks = [
        (name, agreement)
        for axis, name in enumerate(("model", "task"))
        if grid is not None and (agreement := rank_agreement(grid, axis)) is not None
    ]
    return Findings(
        results=results,
        by_cell=tuple(comparisons_by_cell(results)),
        baselines=tuple(summarize_pairs(results, against)),
        claims=tuple(summarize_pairs(results, pairs)),
        grid=grid,
        ranks=tuple(ranks),
        held_out=tuple(leave_one_model_out(grid)) if grid is not None else (),
        shares=variance_shares(grid) if grid is not None else {},
        anatomies=tuple(anatomies(results)),
        wanted=tuple(wanted),
    )
