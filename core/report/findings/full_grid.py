"""The largest part of a study without holes: what rankings and variance splits are made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokensieve.core.report.findings.results import Place, Results
from tokensieve.core.report.statistics.intervals import PLACES, Floats

AXES = ("model", "task", "method", "budget")
METHODS = AXES.index("method")


@dataclass(frozen=True)
class FullGrid:
    """Accuracies of methods that every model has at every task and budget.

    Attributes:
        table: ``[models, tasks, methods, budgets]``.
        draws: ``[models, tasks, methods, budgets, resamples]``.
        left_out: names that lack a cell, with their kind: ``method x``.
    """

    models: tuple[str, ...]
    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    budgets: tuple[str, ...]
    table: Floats
    draws: Floats
    left_out: tuple[str, ...]


def full_grid(results: Results) -> FullGrid | None:
    """Names that lack most cells are left out until no cell lacks; None if little remains."""
    names = [results.models, results.tasks, results.methods, results.budgets]
    shape = [len(axis) for axis in names]
    present = np.zeros(shape, dtype=bool)
    for index in np.ndindex(*shape):
        present[index] = _place(names, index) in results.measured
    kept, left_out = _without_holes(present, names)
    model, task, method, budget = kept
    if not (model and task and budget) or len(method) < 2:  # noqa: PLR2004 - nothing to rank
        return None
    resamples = len(next(iter(results.weights.values())))
    sizes = tuple(len(axis) for axis in kept)
    table, draws = np.empty(sizes), np.empty((*sizes, resamples))
    for index in np.ndindex(*sizes):
        place = _place(names, [axis[i] for axis, i in zip(kept, index, strict=True)])
        scores = results.scores(place)
        table[index] = scores.mean()
        draws[index] = results.weights[place.task] @ scores
    models, tasks, methods, budgets = (
        tuple(own[i] for i in axis) for own, axis in zip(names, kept, strict=True)
    )
    return FullGrid(models, tasks, methods, budgets, table, draws, left_out)


def _place(names: list[tuple[str, ...]], index: list[int] | tuple[int, ...]) -> Place:
    model, task, method, budget = (own[i] for own, i in zip(names, index, strict=True))
    return Place(model, task, budget, method)


def _without_holes(
    present: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], names: list[tuple[str, ...]]
) -> tuple[list[list[int]], tuple[str, ...]]:
    """Indices to keep along each axis; a method goes before a model, task or budget does."""
    kept = [list(range(size)) for size in present.shape]
    left_out: list[str] = []
    while all(kept):
        part = present[np.ix_(*kept)]
        if part.all():
            break
        worst = (-1.0, 0, 0)
        for axis in range(4):
            others = tuple(other for other in range(4) if other != axis)
            lacking = (1 - part.mean(axis=others)).round(PLACES)
            position = int(lacking.argmax())
            share = float(lacking[position]) + (1e-9 if axis == METHODS else 0)
            worst = max(worst, (share, axis, position))
        _, axis, position = worst
        left_out.append(f"{AXES[axis]} {names[axis][kept[axis].pop(position)]}")
    return kept, tuple(left_out)
