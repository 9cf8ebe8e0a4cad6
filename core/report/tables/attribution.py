"""Tables of signal anatomy: every scorer in numbers, and how scorers correlate."""

from __future__ import annotations

from collections.abc import Sequence

from tokensieve.core.report.findings.attribution import Anatomy
from tokensieve.core.report.tables.table import Table
from tokensieve.core.report.verdicts.wording import UNKNOWN, in_cell, number

NOTE = (
    "Means over images with 95 % bootstrap intervals. Truth: rank correlation with the "
    "leave-one-out worth. Top tokens: share of a scorer's highest tokens that lie on the relevant "
    "region, as many as it has tokens. Mass: share of the scores' sum there. Place: rank "
    "correlation with the position in raster order. Sink: mass on the 2 % highest tokens."
)
COLUMNS = (
    "scorer",
    "truth",
    "top tokens there, %",
    "mass there, %",
    "chance, %",
    "place",
    "sink, %",
)


def profile_tables(found: Sequence[Anatomy]) -> list[Table]:
    """One for each model and task, a row for each scorer."""
    tables = []
    for anatomy in found:
        rows = [
            (
                profile.scorer,
                in_cell(profile.truth, 2, 1),
                in_cell(profile.hits),
                in_cell(profile.mass),
                UNKNOWN if profile.chance is None else number(100 * profile.chance),
                in_cell(profile.position, 2, 1),
                in_cell(profile.sink),
            )
            for profile in anatomy.profiles
        ]
        lost = "".join(f" {name} cannot look here: {why}." for name, why in anatomy.missing.items())
        title = f"{anatomy.on.model}, {anatomy.on.task}"
        note = f"{len(anatomy.records)} images, boundary {anatomy.boundary}. {NOTE}{lost}"
        tables.append(Table(title, COLUMNS, tuple(rows), note))
    return tables


def correlation_tables(found: Sequence[Anatomy]) -> list[Table]:
    """Rank correlations of every pair, with intervals; one table per model."""
    return [
        Table(
            f"Rank correlations, {anatomy.on.model}",
            ("", *anatomy.names),
            tuple(
                (name, *("" if i == j else in_cell(v, 2, 1) for j, v in enumerate(line)))
                for i, (name, line) in enumerate(zip(anatomy.names, anatomy.matrix, strict=True))
            ),
            f"Spearman, mean over {len(anatomy.records)} images, 95 % intervals.",
        )
        for anatomy in found
    ]
