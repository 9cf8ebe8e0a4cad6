"""Figures of methods: accuracy against cost, and points above a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tokensieve.core.names import PRUNING_BASELINES
from tokensieve.core.report.figures.plotting import (
    BASELINE_DASHES,
    GRID,
    INK,
    MARKERS,
    OKABE_ITO,
    ROW,
    SOFT,
    Picture,
    draw_matrix,
    finish,
    labeled,
    legend_columns,
    legend_entries,
    name_matrix,
    name_room,
    new_figure,
    styled,
)
from tokensieve.core.report.findings.accuracy import accuracy, untouched_accuracy
from tokensieve.core.report.findings.comparing import PairSummary
from tokensieve.core.report.findings.results import ModelTask, Place, Results
from tokensieve.core.report.verdicts.wording import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANEL_WIDTH, PANEL_HEIGHT = 3.8, 2.8
COLORED = 6  # methods that get a color of their own; more cannot be told apart in a talk
NARROWEST = 6.5
TALLEST_BAR = 4.0


def curves(results: Results) -> Picture | None:
    """Accuracy against cost, a panel for each task (rows) and model (columns)."""
    if not results.measured:
        return None
    asked = {place.model_task for place in results.measured} | results.untouched.keys()
    rows, columns = len(results.tasks), len(results.models)
    width = max(PANEL_WIDTH * columns + 0.4, NARROWEST)
    with styled():
        figure, grid = new_figure(
            width,
            PANEL_HEIGHT * rows + 0.9,
            rows,
            columns,
            sharex=True,
            sharey="row",
        )
        for column, model in enumerate(results.models):
            filled = []
            for row, task in enumerate(results.tasks):
                if ModelTask(model, task) in asked:
                    _draw_curves(grid[row][column], results, ModelTask(model, task))
                    grid[row][column].set_title(f"{model}: {task}")
                    filled.append(grid[row][column])
                else:
                    grid[row][column].set_axis_off()
            if filled:
                filled[-1].tick_params(labelbottom=True)
                filled[-1].set_xlabel("visual tokens per layer, % of all")
        for line in grid:
            first = next((axes for axes in line if axes.axison), None)
            if first is not None:
                first.tick_params(labelleft=True)
                first.set_ylabel("accuracy, %")
        handles = legend_entries(panel for line in grid for panel in line)
        names = ["untouched", *_highlighted(results), "other methods", *results.baselines]
        order = [name for name in names if name in handles]
        figure.legend(
            [handles[name] for name in order],
            order,
            loc="outside upper center",
            ncols=legend_columns(figure, order),
        )
        return finish(
            figure,
            f"Accuracy against the share of visual tokens kept, by model and task: "
            f"{', '.join(order)}.",
            "Accuracy at equal cost. Bands: 95 % bootstrap over examples. Random pruning is the "
            "mean of its seeds. The further left a curve stays high, the better.",
        )


def _highlighted(results: Results) -> tuple[str, ...]:
    """The methods of claims, then the best."""
    claimed = [method for method in results.candidates if method in results.claimed]
    return tuple(dict.fromkeys([*claimed, *results.candidates]))[:COLORED]


def _draw_curves(axes: Axes, results: Results, on: ModelTask) -> None:
    """The panel of one model and task: a curve for each method, the worst at the bottom."""
    whole = untouched_accuracy(results, on)
    if whole is not None:
        axes.axhspan(100 * whole.low, 100 * whole.high, color=GRID, alpha=0.6, linewidth=0)
        axes.axhline(100 * whole.value, color=INK, linewidth=1.2, label=labeled("untouched"))
    highlighted, ticks = _highlighted(results), list[float]()
    for method in reversed(results.methods):
        places = [Place(*on, budget, method) for budget in results.budgets]
        known = [place for place in places if place in results.measured]
        known.sort(key=lambda place: results.measured[place].token_share)
        x = [100 * results.measured[place].token_share for place in known]
        intervals = [accuracy(results, place).times(100) for place in known]
        y = [interval.value for interval in intervals]
        ticks = max(ticks, x, key=len)
        if not known:
            continue
        if method in PRUNING_BASELINES:
            dashes, label = BASELINE_DASHES[method], labeled(method)
            axes.plot(x, y, color=SOFT, linestyle=dashes, linewidth=1.8, marker=".", label=label)
        elif method not in highlighted:
            label = labeled("other methods")
            axes.plot(x, y, color="#c3c9d0", linewidth=0.9, zorder=1, label=label)
        else:
            rank = highlighted.index(method)
            low, high = [i.low for i in intervals], [i.high for i in intervals]
            axes.fill_between(x, low, high, color=OKABE_ITO[rank], alpha=0.1, linewidth=0)
            axes.plot(
                x,
                y,
                color=OKABE_ITO[rank],
                linewidth=2,
                marker=MARKERS[rank],
                markersize=6,
                label=labeled(method),
            )
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks])


def heat_map(results: Results, summaries: Sequence[PairSummary], baseline: str) -> Picture | None:
    """Methods against one baseline, model by model: points of accuracy at equal cost."""
    ranked = sorted(
        (summary for summary in summaries if summary.other == baseline),
        key=lambda summary: -summary.overall.difference.value,
    )
    if not ranked:
        return None
    columns = [*results.models, *([results.all_label] if len(results.models) > 1 else [])]
    values, texts = [], []
    for summary in ranked:
        by_model = {own.models[0]: own for own in summary.by_model}
        line = [*(by_model.get(model) for model in results.models), summary.overall][: len(columns)]
        values.append([float("nan") if c is None else 100 * c.difference.value for c in line])
        texts.append([""] * len(line))
        for column, comparison in enumerate(line):
            if comparison is not None:
                hundred, star = comparison.difference.times(100), "*" if comparison.outcome else ""
                ends = f"{number(hundred.low)} to {number(hundred.high)}"
                texts[-1][column] = f"{number(hundred.value, plus=True)}{star} ({ends})"
    limit = max(1.0, float(np.nanmax(np.abs(values))))
    with styled():
        names = [summary.method for summary in ranked]
        height = 1.0 + ROW * len(ranked)
        figure, grid = new_figure(1.2 + name_room(names) + 1.95 * len(columns), height)
        axes = grid[0][0]
        image = draw_matrix(axes, values, texts, limit)
        name_matrix(axes, names, columns, letters=20)
        axes.xaxis.tick_top()
        axes.axvline(len(results.models) - 0.5, color="white", linewidth=5)
        bar = figure.colorbar(image, ax=axes, shrink=min(0.9, TALLEST_BAR / height), aspect=16)
        bar.set_label("points")
        axes.set_title(f"above {baseline}", loc="left")
        return finish(
            figure,
            f"Difference in accuracy from {baseline} for {len(ranked)} methods on "
            f"{len(results.models)} models.",
            f"Accuracy minus that of {baseline} at equal cost, points, mean over tasks and "
            "budgets, with 95 % intervals. Orange: better, violet: worse. An asterisk: interval "
            "and Holm-corrected test agree that it differs.",
        )
