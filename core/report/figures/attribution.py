"""Figures of signal anatomy: agreement of scorers, the truth, the region, the place."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from tokensieve.core.report.figures.plotting import (
    DASHED,
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
from tokensieve.core.report.findings.attribution import BINS, TRUTH, Anatomy, Profile, values_of
from tokensieve.core.report.findings.cells import TokenScores
from tokensieve.core.report.statistics.intervals import Interval
from tokensieve.core.report.statistics.ranks import average_ranks
from tokensieve.core.report.verdicts.wording import number
from tokensieve.core.run.overlay import divide_into_sheets

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DOT_ROW, DODGE = 0.5, 0.2
Pixels = npt.NDArray[np.uint8]
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
            axes.set_title(anatomy.on.model)
            axes.axhline(len(values) - 1.5, color="white", linewidth=4)
            axes.axvline(len(values) - 1.5, color="white", linewidth=4)
        return finish(
            figure,
            "Rank correlations between scorers, and with the leave-one-out worth of tokens.",
            "Spearman's rank correlation of token scores, mean over images (intervals in the "
            f"table). Last row: {TRUTH}, what the answer's likelihood loses without a token.",
        )


@dataclass(frozen=True)
class Quantity:
    """A column of dots: one number of each scorer's profile, in the unit that is shown."""

    title: str
    pick: Callable[[Profile], Interval | None]
    factor: float = 1.0


def dots(
    found: Sequence[Anatomy],
    quantities: Sequence[Quantity],
    caption: str,
    chance: Callable[[Profile], float | None] = lambda profile: None,
) -> Picture | None:
    """Scorers (rows) and models (colors); a panel for each quantity, dots with intervals."""
    profiles = [profile for anatomy in found for profile in anatomy.profiles]
    drawn = [each for each in quantities if any(each.pick(profile) for profile in profiles)]
    shown = (profile for profile in profiles if any(each.pick(profile) for each in drawn))
    names = list(dict.fromkeys(profile.scorer for profile in shown))
    if not drawn:
        return None
    height = 1.5 + DOT_ROW * len(names) * (0.6 + DODGE * len(found))
    with styled():
        figure, grid = new_figure(2 + 3.4 * len(drawn), height, 1, len(drawn), sharey=True)
        lines = [
            100 * share
            for anatomy in found
            for profile in anatomy.profiles[:1]
            if (share := chance(profile)) is not None
        ]
        for axes, quantity in zip(grid[0], drawn, strict=True):
            _draw_dots(axes, found, names, quantity)
            axes.set_title(quantity.title)
            at = float(np.mean(lines)) if lines else 0.0
            axes.axvline(at, color=INK, linewidth=1.2, linestyle=DASHED)
        grid[0][0].set_ylim(len(names) - 0.5, -0.5)
        if len(found) > 1:
            entries = legend_entries([grid[0][0]])
            figure.legend(
                list(entries.values()), list(entries), loc="outside lower center", ncols=len(found)
            )
        titles = ", ".join(quantity.title for quantity in drawn)
        return finish(figure, f"Dots with intervals: {titles}.", caption)


def _draw_dots(
    axes: Axes, found: Sequence[Anatomy], names: Sequence[str], quantity: Quantity
) -> None:
    """The panel of one quantity; models are drawn beside each other in every row."""
    for place, anatomy in enumerate(found):
        color, marker = OKABE_ITO[place % len(OKABE_ITO)], MARKERS[place % len(MARKERS)]
        shift = (place - (len(found) - 1) / 2) * DODGE
        for profile in anatomy.profiles:
            interval = quantity.pick(profile)
            if interval is not None:
                row = names.index(profile.scorer) + shift
                draw_interval(axes, interval.times(quantity.factor), row, color, marker)
        axes.plot(
            [], [], color=color, marker=marker, linewidth=2.2, label=labeled(anatomy.on.model)
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
            axes.axhline(0.5, color=SOFT, linewidth=1, linestyle=DASHED)
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
            axes.set_title(anatomy.on.model)
            axes.set_xlabel("place in raster order, %")
        grid[0][0].set_ylabel("mean rank (1 = highest)")
        entries = legend_entries([grid[0][0]])
        columns = legend_columns(figure, list(entries))
        figure.legend(
            list(entries.values()), list(entries), loc="outside upper center", ncols=columns
        )
        return finish(
            figure,
            "Mean rank of tokens by their place in raster order, per scorer and model.",
            "Position bias: a scorer that does not care where a token stands stays at 0.5. A peak "
            "at one place in every picture is an attention sink.",
        )


def example_picture(anatomy: Anatomy) -> Picture | None:
    """The most telling example: what each scorer ranks high, drawn on the picture."""
    drawable = [r for r in anatomy.records if r.pictures and len(r.panels) == 1]
    if not drawable:
        return None
    record = max(drawable, key=lambda r: float(np.ptp(r.worth)))
    jpeg = io.BytesIO(base64.b64decode(record.pictures[0]))
    picture = np.asarray(Image.open(jpeg).convert("RGB"))
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
            f"Scores of all scorers on one picture; question: {record.question}",
            f"{anatomy.on.model}, \N{LEFT DOUBLE QUOTATION MARK}{record.question}"
            f"\N{RIGHT DOUBLE QUOTATION MARK} ({record.answer}). Ranks of the tokens at "
            f"boundary {record.boundary}: yellow highest, violet lowest. White frames: where "
            "the answer lies.",
        )


def _draw_on(axes: Axes, picture: Pixels, record: TokenScores, name: str | None) -> None:
    """The picture, ranks over it, and frames around the relevant tokens."""
    from matplotlib.patches import Rectangle

    height, width = picture.shape[:2]
    gray = picture.mean(axis=2, keepdims=True).repeat(3, axis=2).astype(np.uint8)
    axes.imshow(picture if name is None else gray, interpolation="nearest")
    relevant = record.relevant or [0] * len(record.worth)
    first = 0
    for panel in divide_into_sheets(record.panels[0], 0)[0].panels:  # without an overview
        count = panel.rows * panel.columns
        left, top, right, bottom = panel.box
        extent = (left * width, right * width, bottom * height, top * height)
        if name is not None:
            scores = values_of(record, name)
            ranks = (average_ranks(scores) - 1) / max(len(scores) - 1, 1)
            shades = ranks[first : first + count].reshape(panel.rows, panel.columns)
            axes.imshow(
                shades,
                extent=extent,
                interpolation="nearest",
                cmap=SEQUENTIAL,
                vmin=0,
                vmax=1,
                alpha=FAINT + (1 - FAINT) * shades**2,
            )
        across, down = (right - left) * width / panel.columns, (bottom - top) * height / panel.rows
        for cell in np.flatnonzero(relevant[first : first + count]):
            row, column = divmod(int(cell), panel.columns)
            corner = (left * width + column * across, top * height + row * down)
            frame = Rectangle(corner, across, down, fill=False, edgecolor="white", linewidth=1.3)
            axes.add_patch(frame)
        first += count
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
