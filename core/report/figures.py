"""Figures of accuracy: curves, the heat map, rankings, the variance split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tokensieve.core.report.comparing import accuracy, untouched_accuracy
from tokensieve.core.report.generalizing import RankAgreement
from tokensieve.core.report.plotting import (
    FLOOR_DASHES,
    GRID,
    INK,
    MARKERS,
    OKABE_ITO,
    SOFT,
    Picture,
    draw_interval,
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
from tokensieve.core.report.results import BASELINES, Ground, Place, Results
from tokensieve.core.report.statistics import Interval
from tokensieve.core.report.verdicts import Tally
from tokensieve.core.report.wording import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANEL_WIDTH, PANEL_HEIGHT = 3.8, 2.8
COLORED = 6  # methods that get a color of their own; more cannot be told apart in a talk
NARROWEST = 6.5
ROW = 0.36
TALLEST_BAR = 4.0


def curves(results: Results) -> Picture | None:
    """Accuracy against cost, a panel for each task (rows) and model (columns)."""
    if not results.measured:
        return None
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
                if _measured_at(results, Ground(model, task)):
                    _curve_panel(grid[row][column], results, Ground(model, task))
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
        order = [name for name in _legend_order(results) if name in handles]
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


def _measured_at(results: Results, ground: Ground) -> bool:
    """Whether the model was asked the task; a study may keep some from it."""
    return any(place[:2] == ground for place in results.measured) or ground in results.untouched


def _highlighted(results: Results) -> tuple[str, ...]:
    """The methods of claims, then the best."""
    claimed = [method for method in results.rivals if method in results.claimed]
    return tuple(dict.fromkeys([*claimed, *results.rivals]))[:COLORED]


def _legend_order(results: Results) -> list[str]:
    return ["untouched", *_highlighted(results), "other methods", *results.floors]


def _curve_panel(axes: Axes, results: Results, ground: Ground) -> None:
    whole = untouched_accuracy(results, ground)
    if whole is not None:
        axes.axhspan(100 * whole.low, 100 * whole.high, color=GRID, alpha=0.6, linewidth=0)
        axes.axhline(100 * whole.value, color=INK, linewidth=1.2, label=labeled("untouched"))
    ticks: list[float] = []
    for method in reversed(results.methods):
        points = _points(results, ground, method)
        if points:
            ticks = max(ticks, [x for x, _ in points], key=len)
            _curve(axes, results, method, points)
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks])


def _points(results: Results, ground: Ground, method: str) -> list[tuple[float, Interval]]:
    """Cost in percent and accuracy, from cheap to dear."""
    places = [Place(ground.model, ground.task, budget, method) for budget in results.budgets]
    known = [place for place in places if place in results.measured]
    return sorted(
        ((100 * results.measured[p].token_share, accuracy(results, p).times(100)) for p in known),
        key=lambda point: point[0],
    )


def _curve(
    axes: Axes, results: Results, method: str, points: Sequence[tuple[float, Interval]]
) -> None:
    x, y = [cost for cost, _ in points], [interval.value for _, interval in points]
    low, high = [i.low for _, i in points], [i.high for _, i in points]
    if method in BASELINES:
        dashes, label = FLOOR_DASHES[method], labeled(method)
        axes.plot(x, y, color=SOFT, linestyle=dashes, linewidth=1.8, marker=".", label=label)
        return
    if method not in _highlighted(results):
        axes.plot(x, y, color="#c3c9d0", linewidth=0.9, zorder=1, label=labeled("other methods"))
        return
    number_ = _highlighted(results).index(method)
    color = OKABE_ITO[number_]
    axes.fill_between(x, low, high, color=color, alpha=0.1, linewidth=0)
    marker, label = MARKERS[number_], labeled(method)
    axes.plot(x, y, color=color, linewidth=2, marker=marker, markersize=6, label=label)


def heat_map(results: Results, held: Sequence[Tally], floor: str) -> Picture | None:
    """Methods against one baseline, model by model: points of accuracy at equal cost."""
    own = sorted(
        (tally for tally in held if tally.other == floor),
        key=lambda tally: -tally.overall.difference.value,
    )
    if not own:
        return None
    columns = [*results.models, *([results.all_label] if len(results.models) > 1 else [])]
    values, texts = [], []
    for tally in own:
        by_model = {contest.models[0]: contest for contest in tally.by_model}
        line = [*(by_model.get(model) for model in results.models), tally.overall][: len(columns)]
        values.append([100 * c.difference.value if c else float("nan") for c in line])
        texts.append([_mark(c.difference, c.outcome) if c else "" for c in line])
    limit = max(1.0, float(np.nanmax(np.abs(values))))
    with styled():
        names = [tally.method for tally in own]
        height = 1.0 + ROW * len(own)
        figure, grid = new_figure(1.2 + name_room(names) + 1.95 * len(columns), height)
        axes = grid[0][0]
        image = draw_matrix(axes, values, texts, limit)
        name_matrix(axes, names, columns, letters=20)
        axes.xaxis.tick_top()
        axes.axvline(len(results.models) - 0.5, color="white", linewidth=5)
        bar = figure.colorbar(image, ax=axes, shrink=min(0.9, TALLEST_BAR / height), aspect=16)
        bar.set_label("points")
        axes.set_title(f"above {floor}", loc="left")
        return finish(
            figure,
            f"Difference in accuracy from {floor} for {len(own)} methods on {len(results.models)} "
            "models.",
            f"Accuracy minus that of {floor} at equal cost, points, mean over tasks and budgets, "
            "with 95 % intervals. Orange: better, violet: worse. An asterisk: interval and "
            "Holm-corrected test agree that it differs.",
        )


def _mark(interval: Interval, outcome: int) -> str:
    hundred = interval.times(100)
    value = number(hundred.value, plus=True)
    ends = f"{number(hundred.low)} to {number(hundred.high)}"
    return f"{value}{'*' if outcome else ''} ({ends})"


def tau_matrices(found: Sequence[tuple[str, RankAgreement]]) -> Picture | None:
    """Kendall's tau between rankings: one matrix for models, one for tasks."""
    if not found:
        return None
    sizes = [len(agreement.names) for _, agreement in found]
    with styled():
        figure, grid = new_figure(
            sum(name_room(a.names) + 1.35 * len(a.names) for _, a in found),
            1.5 + 0.62 * max(sizes),
            1,
            len(found),
            width_ratios=sizes,
        )
        for axes, (between, agreement) in zip(grid[0], found, strict=True):
            values = [[interval.value for interval in line] for line in agreement.matrix]
            texts = [
                [
                    ""
                    if i == j
                    else f"{number(v.value, 2)}\n({number(v.low, 2)} to {number(v.high, 2)})"
                    for j, v in enumerate(line)
                ]
                for i, line in enumerate(agreement.matrix)
            ]
            for i in range(len(values)):
                values[i][i] = float("nan")
            draw_matrix(axes, values, texts, 1.0)
            name_matrix(axes, agreement.names, agreement.names, letters=14)
            axes.set_title(f"between {between}s")
        return finish(
            figure,
            "Kendall's tau of method rankings between models and between tasks.",
            "Kendall's tau-b of method rankings, with 95 % intervals of a bootstrap over examples "
            "and methods: 1 the same order, 0 unrelated, -1 reversed. Baselines are ranked along.",
        )


def variance_bars(shares: dict[str, Interval]) -> Picture | None:
    """Shares of the variance between cells."""
    if not shares:
        return None
    with styled():
        figure, grid = new_figure(7.2, 0.9 + ROW * len(shares))
        axes = grid[0][0]
        for row, (name, share) in enumerate(shares.items()):
            color = OKABE_ITO[1] if "method" in name else OKABE_ITO[0]
            color = "#9aa2ab" if name == "drawn examples" else color
            axes.barh(row, 100 * share.value, color=color, alpha=0.35, height=0.7)
            draw_interval(axes, share.times(100), row, color, "o")
        axes.set_yticks(range(len(shares)), list(shares))
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        axes.set_xlabel("% of the variance between cells at equal cost")
        axes.grid(visible=False, axis="y")
        return finish(
            figure,
            "Shares of variance of model, task, method and their interplay.",
            "What accuracies at equal cost differ by. Orange: terms with the method. Gray: what "
            "drawing other examples would change. Lines: 95 % intervals.",
        )
