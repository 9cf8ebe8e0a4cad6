"""The look of figures: colors that color-blind readers tell apart, sizes that a talk needs."""

from __future__ import annotations

import base64
import io
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokensieve.core.names import PRUNING_BASELINES
from tokensieve.core.report.statistics.intervals import Interval

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

Dashes = str | tuple[float, tuple[float, ...]]
"""A style of line, as matplotlib takes it."""
INK, SOFT, GRID, PAPER = "#1c2026", "#68707a", "#e4e7eb", "#ffffff"
OKABE_ITO = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d1f")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHED = (0, (4, 2))
DASHES: tuple[Dashes, ...] = (DASHED, (0, (1, 1.5)), "-.")
BASELINE_DASHES = dict(zip(PRUNING_BASELINES, DASHES, strict=True))
LABEL = "name: "
DIVERGING, SEQUENTIAL = "PuOr_r", "viridis"
ROW = 0.36  # inches of a row of names
PALE_BELOW = 0.72  # of a color map's half: text on it stays dark

STYLE: dict[str, object] = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.labelsize": 11,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "figure.facecolor": PAPER,
    "text.parse_math": False,  # names are drawn as they are, a dollar sign too
    "svg.hashsalt": "tokensieve",  # the same report twice is the same file
}


@dataclass(frozen=True)
class Picture:
    """A finished figure: SVG, and what it shows for those who do not see it."""

    svg: str
    alt: str
    caption: str

    @property
    def data_uri(self) -> str:
        """The figure as an address that needs no file."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg.encode()).decode("ascii")


@contextmanager
def styled() -> Iterator[None]:
    """Our look for all figures made inside; the user's settings come back afterwards."""
    with quiet_matplotlib():
        import matplotlib

        parameters: Any = matplotlib.rcParams
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            parameters.update(STYLE)
            yield


@contextmanager
def quiet_matplotlib() -> Iterator[None]:
    """No advice about a home that cannot be written, or about signs that a font lacks."""
    logger = logging.getLogger("matplotlib")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # a box is drawn for it
            warnings.filterwarnings("ignore", "constrained_layout not applied")  # long names
            yield
    finally:
        logger.setLevel(before)


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Figure, list[list[Axes]]]:
    """A figure with a grid of axes; sizes in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, [list(row) for row in axes]


def finish(figure: Figure, alt: str, caption: str) -> Picture:
    """The figure as SVG without a date, so that it can be compared."""
    buffer = io.StringIO()
    nothing = {"Date": None, "Creator": None}
    figure.savefig(buffer, format="svg", metadata=nothing, bbox_inches="tight", pad_inches=0.06)
    text = buffer.getvalue()
    return Picture(text[text.index("<svg") :], alt, caption)


def draw_matrix(
    axes: Axes,
    values: Sequence[Sequence[float]],
    texts: Sequence[Sequence[str]],
    limit: float,
    *,
    size: float = 10,
) -> AxesImage:
    """Cells colored from ``-limit`` to ``limit`` with a text in each."""
    import numpy as np

    shown = np.ma.masked_invalid(np.array(values, dtype=float))
    image = axes.imshow(shown, cmap=DIVERGING, vmin=-limit, vmax=limit, aspect="auto")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for row, line in enumerate(texts):
        for column, text in enumerate(line):
            strong = abs(values[row][column]) > PALE_BELOW * limit
            color = PAPER if strong else INK
            axes.text(column, row, text, ha="center", va="center", fontsize=size, color=color)
    return image


def name_matrix(axes: Axes, rows: Sequence[str], columns: Sequence[str], letters: int = 10) -> None:
    """Names along both sides of a matrix; those longer than a cell's ``letters`` are slanted."""
    axes.set_yticks(range(len(rows)), rows)
    slanted = max(map(len, columns), default=0) > letters
    turn, side = (30, "right") if slanted else (0, "center")
    axes.set_xticks(range(len(columns)), columns, rotation=turn, ha=side)


def labeled(name: str) -> str:
    """The label of what is drawn for ``name``: one that starts with ``_`` would be left out."""
    return LABEL + name


def legend_entries(panels: Iterable[Axes]) -> dict[str, Artist]:
    """By name, what is drawn for it; see :func:`labeled`."""
    entries: dict[str, Artist] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label.removeprefix(LABEL), handle)
    return entries


def legend_columns(figure: Figure, labels: Sequence[str]) -> int:
    """As many as fit beside each other, in rows of about equal length."""
    width = float(figure.get_figwidth())
    fitting = max(1, int(width / (0.6 + 0.1 * max(map(len, labels), default=0))))
    rows = -(-len(labels) // fitting)
    return -(-len(labels) // max(1, rows))


def name_room(names: Sequence[str]) -> float:
    """Inches that the longest name takes."""
    return 0.3 + 0.095 * max(map(len, names), default=0)


def draw_interval(axes: Axes, interval: Interval, row: float, color: str, marker: str) -> None:
    """A dot and a line along the x axis."""
    axes.plot([interval.low, interval.high], [row, row], color=color, linewidth=2.2)
    axes.plot([interval.value], [row], marker=marker, color=color, markersize=7, linestyle="none")
