"""Figures of signal anatomy: who agrees with whom, the truth, the region, the place."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tokensieve.core.contract.panel import Panel
from tokensieve.core.report.cells import Record
from tokensieve.core.report.plotting import (
    INK,
    MARKERS,
    OKABE_ITO,
    SEQUENTIAL,
    SOFT,
    Picture,
    draw_interval,
    draw_matrix,
    finish,
    labeled,
    legend_columns,
    legend_entries,
    name_matrix,
    new_figure,
    styled,
)
from tokensieve.core.report.signals import BINS, TRUTH, Anatomy, Profile, values_of
from tokensieve.core.report.statistics import Floats, Interval, average_ranks
from tokensieve.core.report.wording import number
from tokensieve.core.run.overlay import divide_into_sheets

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW, DODGE = 0.5, 0.2
MOST_COLUMNS = 7
FAINT = 0.25  # how much the lowest rank covers of the picture; the highest covers it all


def agreement_matrices(found: Sequence[Anatomy]) -> Picture | None:
    """Rank correlations of scorers with each other and with the truth, a matrix per model."""
    if not found:
        return None
    names = list(dict.fromkeys(name for anatomy in found for name in anatomy.names))
    side = 1.3 + 0.62 * len(names)
    with styled():
        figure, grid = new_figure((side + 0.4) * len(found) + 1, side * 0.8, 1, len(found))
        for number_, (axes, anatomy) in enumerate(zip(grid[0], found, strict=True)):
            values = [[interval.value for interval in line] for line in anatomy.matrix]
            texts = [[number(value, 2) for value in line] for line in values]
            for i in range(len(values)):
                values[i][i], texts[i][i] = float("nan"), ""
            draw_matrix(axes, values, texts, 1.0, size=9)
            name_matrix(axes, anatomy.names if number_ == 0 else [""] * len(values), anatomy.names)
            axes.set_title(anatomy.ground.model)
            axes.axhline(len(values) - 1.5, color="white", linewidth=4)
            axes.axvline(len(values) - 1.5, color="white", linewidth=4)
        return finish(
            figure,
            "Rank correlations between scorers, and with the leave-one-out worth of tokens.",
            "Spearman's rank correlation of token scores, mean over images (intervals in the "
            f"table). Last row: {TRUTH}, what the answer's likelihood loses without a token.",
        )


def dots(
    found: Sequence[Anatomy],
    columns: Sequence[tuple[str, Callable[[Profile], Interval | None], float]],
    caption: str,
    chance: Callable[[Profile], float | None] = lambda profile: None,
) -> Picture | None:
    """Scorers (rows) and models (colors); a panel for each quantity, dots with intervals."""
    drawn = [column for column in columns if _known(found, column[1])]
    shown = (p for a in found for p in a.profiles if any(pick(p) for _, pick, _ in drawn))
    names = list(dict.fromkeys(profile.scorer for profile in shown))
    if not drawn:
        return None
    height = 1.5 + ROW * len(names) * (0.6 + DODGE * len(found))
    with styled():
        figure, grid = new_figure(2 + 3.4 * len(drawn), height, 1, len(drawn), sharey=True)
        for axes, (title, pick, factor) in zip(grid[0], drawn, strict=True):
            _dot_panel(axes, found, names, lambda p, k=pick, f=factor: _scaled(k(p), f))
            axes.set_title(title)
        lines = [
            100 * share
            for anatomy in found
            for profile in anatomy.profiles[:1]
            if (share := chance(profile)) is not None
        ]
        for axes in grid[0]:
            at = float(np.mean(lines)) if lines else 0.0
            axes.axvline(at, color=INK, linewidth=1.2, linestyle=(0, (4, 2)))
        grid[0][0].set_ylim(len(names) - 0.5, -0.5)
        if len(found) > 1:
            entries = legend_entries([grid[0][0]])
            figure.legend(entries.values(), entries, loc="outside lower center", ncols=len(found))
        return finish(figure, f"Dots with intervals: {', '.join(t for t, *_ in drawn)}.", caption)


def _scaled(interval: Interval | None, factor: float) -> Interval | None:
    return None if interval is None else interval.times(factor)


def _known(found: Sequence[Anatomy], pick: Callable[[Profile], Interval | None]) -> bool:
    return any(pick(profile) is not None for anatomy in found for profile in anatomy.profiles)


def _dot_panel(axes: Axes, found: Sequence[Anatomy], names: Sequence[str], pick: Any) -> None:
    for place, anatomy in enumerate(found):
        color, marker = OKABE_ITO[place % len(OKABE_ITO)], MARKERS[place % len(MARKERS)]
        shift = (place - (len(found) - 1) / 2) * DODGE
        for profile in anatomy.profiles:
            interval = pick(profile)
            if interval is not None:
                draw_interval(axes, interval, names.index(profile.scorer) + shift, color, marker)
        axes.plot(
            [], [], color=color, marker=marker, linewidth=2.2, label=labeled(anatomy.ground.model)
        )
    axes.set_yticks(range(len(names)), names)
    axes.grid(visible=False, axis="y")


def position_profiles(found: Sequence[Anatomy]) -> Picture | None:
    """Mean rank by place in raster order, a panel per model."""
    if not found:
        return None
    names = list(dict.fromkeys(name for anatomy in found for name in anatomy.names))
    x = (np.arange(BINS) + 0.5) / BINS * 100
    with styled():
        figure, grid = new_figure(max(3.6 * len(found) + 0.6, 6.5), 3.3, 1, len(found), sharey=True)
        for axes, anatomy in zip(grid[0], found, strict=True):
            axes.axhline(0.5, color=SOFT, linewidth=1, linestyle=(0, (4, 2)))
            for profile in anatomy.profiles:
                truth = profile.scorer == TRUTH
                color = INK if truth else OKABE_ITO[names.index(profile.scorer) % len(OKABE_ITO)]
                axes.plot(
                    x,
                    profile.curve,
                    color=color,
                    linewidth=2.6 if truth else 1.8,
                    linestyle=(0, (1, 1)) if truth else "-",
                    label=labeled(profile.scorer),
                )
            axes.set_title(anatomy.ground.model)
            axes.set_xlabel("place in raster order, %")
        grid[0][0].set_ylabel("mean rank (1 = highest)")
        entries = legend_entries([grid[0][0]])
        columns = legend_columns(figure, list(entries))
        figure.legend(entries.values(), entries, loc="outside upper center", ncols=columns)
        return finish(
            figure,
            "Mean rank of tokens by their place in raster order, per scorer and model.",
            "Position bias: a scorer that does not care where a token stands stays at 0.5. A peak "
            "at one place in every picture is an attention sink.",
        )


def example_picture(anatomy: Anatomy) -> Picture | None:
    """The most telling example: what each scorer ranks high, drawn on the picture."""
    drawable = [record for record in anatomy.records if record.get("pictures")]
    drawable = [record for record in drawable if len(record["panels"]) == 1]
    if not drawable:
        return None
    record = max(drawable, key=lambda r: float(np.ptp(r["loo"])))
    picture = _decoded(record["pictures"][0])
    shown = [None, TRUTH, *(name for name in anatomy.names if name != TRUTH)]
    columns = min(len(shown), MOST_COLUMNS)
    rows = -(-len(shown) // columns)
    size = 2.05
    ratio = picture.shape[0] / picture.shape[1]
    with styled():
        figure, grid = new_figure(size * columns, (size * ratio + 0.42) * rows, rows, columns)
        panels = [axes for line in grid for axes in line]
        for axes in panels:
            axes.set_axis_off()
        for axes, name in zip(panels, shown, strict=False):
            axes.set_title("picture" if name is None else name, fontsize=11)
            _draw_on(axes, picture, record, name)
        return finish(
            figure,
            f"Scores of all scorers on one picture; question: {record['question']}",
            f"{anatomy.ground.model}, \N{LEFT DOUBLE QUOTATION MARK}{record['question']}"
            f"\N{RIGHT DOUBLE QUOTATION MARK} ({record['answer']}). Ranks of the tokens at "
            f"boundary {record['boundary']}: yellow highest, violet lowest. White frames: where "
            "the answer lies.",
        )


def _decoded(text: str) -> Any:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB"))


def _draw_on(axes: Axes, picture: Any, record: Record, name: str | None) -> None:
    """The picture, ranks over it, and frames around the relevant tokens."""
    from matplotlib.patches import Rectangle

    height, width = picture.shape[:2]
    gray = picture.mean(axis=2, keepdims=True).repeat(3, axis=2).astype(np.uint8)
    axes.imshow(picture if name is None else gray, interpolation="nearest")
    relevant = record.get("relevant") or [0] * len(record["loo"])
    first = 0
    for panel in _shown_panels(record):
        count = panel.rows * panel.columns
        left, top, right, bottom = panel.box
        extent = (left * width, right * width, bottom * height, top * height)
        if name is not None:
            ranks = _ranks(values_of(record, name))[first : first + count]
            shades = ranks.reshape(panel.rows, panel.columns)
            alpha = FAINT + (1 - FAINT) * shades**2
            options: dict[str, Any] = {"cmap": SEQUENTIAL, "vmin": 0, "vmax": 1, "alpha": alpha}
            axes.imshow(shades, extent=extent, interpolation="nearest", **options)
        across, down = (right - left) * width / panel.columns, (bottom - top) * height / panel.rows
        for cell in np.flatnonzero(relevant[first : first + count]):
            row, column = divmod(int(cell), panel.columns)
            corner = (left * width + column * across, top * height + row * down)
            frame = Rectangle(corner, across, down, fill=False, edgecolor="white", linewidth=1.3)
            axes.add_patch(frame)
        first += count
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)


def _shown_panels(record: Record) -> Sequence[Panel]:
    """Tiles that lie side by side; an overview behind them is left out."""
    panels = [Panel(rows, columns, tuple(box)) for rows, columns, box in record["panels"][0]]
    return divide_into_sheets(panels, 0)[0].panels


def _ranks(scores: Floats) -> Floats:
    return (average_ranks(scores) - 1) / max(len(scores) - 1, 1)
