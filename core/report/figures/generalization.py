"""Figures of generalization: agreement of rankings, and where the variance comes from."""

from __future__ import annotations

from collections.abc import Sequence

from tokensieve.core.report.figures.plotting import (
    OKABE_ITO,
    ROW,
    Picture,
    draw_interval,
    draw_matrix,
    finish,
    name_matrix,
    name_room,
    new_figure,
    styled,
)
from tokensieve.core.report.findings.generalizing import RankAgreement
from tokensieve.core.report.statistics.intervals import Interval
from tokensieve.core.report.verdicts.wording import number


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
