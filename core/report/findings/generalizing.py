"""Generalization: rankings between models and tasks, a held-out model, the variance split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokensieve.core.names import PRUNING_BASELINES
from tokensieve.core.report.findings.full_grid import FullGrid
from tokensieve.core.report.statistics.intervals import (
    Interval,
    centered_interval,
    percentile_interval,
)
from tokensieve.core.report.statistics.ranks import (
    first_best,
    leave_one_out_choice,
    mean_off_diagonal,
    tau_matrix,
)
from tokensieve.core.report.statistics.variance import variance_split

TWO = 2  # models, tasks or methods: the fewest that can be compared


@dataclass(frozen=True)
class RankAgreement:
    """Kendall's tau-b between the rankings that ``names`` give the methods.

    ``matrix[i][j]`` is the tau of two of them, ``mean`` that of all pairs.
    """

    names: tuple[str, ...]
    matrix: list[list[Interval]]
    mean: Interval


def rank_agreement(grid: FullGrid, axis: int, seed: int = 0) -> RankAgreement | None:
    """Between models (``axis`` 0) or tasks (1); the other axis and the budgets are averaged.

    The bootstrap draws examples and methods: with few methods, rankings agree by chance.
    """
    names = (grid.models, grid.tasks)[axis]
    if len(names) < TWO or len(grid.methods) < TWO + 1:
        return None
    table = grid.table.mean(axis=(1 - axis, 3))
    draws = np.moveaxis(grid.draws.mean(axis=(1 - axis, 3)), -1, 0)
    generator = np.random.default_rng(seed)
    picked = generator.integers(len(grid.methods), size=(len(draws), 1, len(grid.methods)))
    resampled = tau_matrix(np.take_along_axis(draws, picked, axis=2))
    seen = tau_matrix(table)
    matrix = [
        [centered_interval(float(seen[i, j]), resampled[:, i, j], -1, 1) for j in range(len(names))]
        for i in range(len(names))
    ]
    pooled = float(mean_off_diagonal(seen))
    return RankAgreement(
        names, matrix, centered_interval(pooled, mean_off_diagonal(resampled), -1, 1)
    )


@dataclass(frozen=True)
class HeldOut:
    """The method that is best on all other models, tried on the one left out.

    Attributes:
        model: the held-out one.
        choice: best on the others; ``best``: best here.
        loss: accuracy of ``best`` minus that of ``choice``, on the held-out model.
        gain: accuracy of ``choice`` minus that of random dropping; None if that was not measured.
    """

    model: str
    choice: str
    best: str
    loss: Interval
    gain: Interval | None


def leave_one_model_out(grid: FullGrid) -> list[HeldOut]:
    """One entry per model. Baselines cannot be chosen; tasks and budgets are averaged.

    The bootstrap repeats the choice, so the interval of the loss knows that the best method here
    was picked with hindsight.
    """
    candidates = [n for n, method in enumerate(grid.methods) if method not in PRUNING_BASELINES]
    if len(grid.models) < TWO or len(candidates) < TWO:
        return []
    table, draws = grid.table.mean(axis=(1, 3)), grid.draws.mean(axis=(1, 3))
    entries = []
    for number, model in enumerate(grid.models):
        choice = candidates[leave_one_out_choice(table[:, candidates], number)]
        best = candidates[int(first_best(table[number, candidates]))]
        here, here_draws = table[number], draws[number]
        others_draws = np.delete(draws[:, candidates], number, axis=0).mean(axis=0)
        chosen = np.take_along_axis(here_draws[candidates], first_best(others_draws)[None], axis=0)
        loss = percentile_interval(
            float(here[best] - here[choice]), here_draws[candidates].max(axis=0) - chosen[0]
        )
        gain = None
        if "random" in grid.methods:
            at_random = grid.methods.index("random")
            gain = percentile_interval(
                float(here[choice] - here[at_random]), here_draws[choice] - here_draws[at_random]
            )
        entries.append(HeldOut(model, grid.methods[choice], grid.methods[best], loss, gain))
    return entries


def variance_shares(grid: FullGrid) -> dict[str, Interval]:
    """Shares of the variance between cells; see :mod:`tokensieve.core.report.statistics.variance`.

    Terms of something that there is only one of are left out; a single model has none.
    """
    sizes = dict(zip(("model", "task", "method"), grid.table.shape, strict=False))
    if min(sizes["model"], sizes["method"]) < TWO:
        return {}
    alone = {name for name, size in sizes.items() if size < TWO}
    shares = variance_split(grid.table, grid.draws)
    return {name: share for name, share in shares.items() if not alone & set(name.split(" x "))}
