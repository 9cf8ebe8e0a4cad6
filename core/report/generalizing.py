"""Does a ranking of methods carry over: between models, between tasks, to a model not seen?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokensieve.core.report.full_grid import FullGrid
from tokensieve.core.report.results import BASELINES
from tokensieve.core.report.statistics import (
    Floats,
    Interval,
    centered_interval,
    first_best,
    leave_one_out_choice,
    mean_off_diagonal,
    percentile_interval,
    tau_matrix,
)
from tokensieve.core.report.variance import variance_split

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
    """What becomes of the method that is best on all other models.

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
    rivals = [n for n, method in enumerate(grid.methods) if method not in BASELINES]
    if len(grid.models) < TWO or len(rivals) < TWO:
        return []
    table, draws = grid.table.mean(axis=(1, 3)), grid.draws.mean(axis=(1, 3))
    entries = []
    for number, model in enumerate(grid.models):
        choice = rivals[leave_one_out_choice(table[:, rivals], number)]
        best = rivals[int(first_best(table[number, rivals]))]
        here, here_draws = table[number], draws[number]
        loss = percentile_interval(
            float(here[best] - here[choice]), _resampled_loss(draws[:, rivals], number)
        )
        gain = None
        if "random" in grid.methods:
            floor = grid.methods.index("random")
            gain = percentile_interval(
                float(here[choice] - here[floor]), here_draws[choice] - here_draws[floor]
            )
        entries.append(HeldOut(model, grid.methods[choice], grid.methods[best], loss, gain))
    return entries


def _resampled_loss(draws: Floats, held_out: int) -> Floats:
    """``[resamples]``: choose on the other models' resamples, lose on this one's."""
    others = np.delete(draws, held_out, axis=0).mean(axis=0)
    here = draws[held_out]
    chosen = np.take_along_axis(here, first_best(others)[None], axis=0)[0]
    return np.asarray(here.max(axis=0) - chosen)


def split(grid: FullGrid) -> dict[str, Interval]:
    """Shares of the variance between cells; see :mod:`tokensieve.core.report.variance`.

    Terms of something that there is only one of are left out; a single model has none.
    """
    sizes = dict(zip(("model", "task", "method"), grid.table.shape, strict=False))
    if min(sizes["model"], sizes["method"]) < TWO:
        return {}
    alone = {name for name, size in sizes.items() if size < TWO}
    shares = variance_split(grid.table, grid.draws)
    return {name: share for name, share in shares.items() if not alone & set(name.split(" x "))}
