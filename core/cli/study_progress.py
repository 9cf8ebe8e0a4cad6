"""How far a study is: a bar on a terminal, a line per cell elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from tokensieve.core import units
from tokensieve.core.foreign import plain
from tokensieve.core.output.terminal import console
from tokensieve.core.study.executors import ProgressListener
from tokensieve.core.study.plan.records import Costs, PlannedCell
from tokensieve.core.study.progress.forecast import Forecast
from tokensieve.core.study.store.store import Cell, CellResult

BAR_FITS = 72  # columns of a terminal


class _Left(ProgressColumn):
    """Time left: what was forecast at the last news, less what has passed since."""

    def render(self, task: Task) -> Text:
        """``0:01:30 left``."""
        end = task.fields["end"]
        if end is None:
            return Text("?:??:?? left")
        seconds = max(0, round(end - time.monotonic()))
        return Text(f"{timedelta(seconds=seconds)} left")


def _columns(width: int) -> list[ProgressColumn]:
    """As much as fits: on a narrow terminal how many cells, and how far they are."""
    cells = TextColumn("{task.fields[cells]}/{task.fields[of]} cells", markup=False)
    share = TextColumn("{task.percentage:>3.0f} %")
    if width < BAR_FITS:
        return [cells, share]
    rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    title = TextColumn("{task.fields[title]}", markup=False, table_column=rest)
    return [cells, BarColumn(bar_width=20), share, TimeElapsedColumn(), _Left(), title]


class StudyProgress(ProgressListener):
    """Shows the progress of :func:`run_study` on stderr."""

    def __init__(self, cells: int) -> None:
        self.console = console(stderr=True)
        self.progress = Progress(
            *_columns(self.console.width),
            expand=True,
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.of, self.finished = cells, 0
        self.forecast, self.first = Forecast([], {}), time.monotonic()
        self.bar = self.progress.add_task(
            "study", total=1.0, cells=0, of=cells, end=None, title="starting workers", visible=False
        )

    def start(self, pending: Sequence[PlannedCell], costs: Costs, there: Sequence[Cell]) -> None:
        """The bar is about what is still to be done."""
        self.forecast, self.first = Forecast(pending, costs), time.monotonic()
        self.finished = len(there)
        self.progress.update(self.bar, cells=self.finished, visible=bool(pending))
        if there:
            self.say(f"{len(there)} of {self.of} cells are there already")

    def tick(self, cell: PlannedCell, samples: int) -> None:
        """Some samples are done."""
        self.forecast.tick(cell, samples, time.monotonic() - self.first)
        self._show(title=plain(cell.title))

    def done(self, cell: PlannedCell, result: CellResult) -> None:
        """A cell is done, whatever came out."""
        self.finished += 1
        self.forecast.done(cell, result)
        self._show(cells=self.finished)
        if result.status == "failed" or not self.console.is_terminal:
            self.say(f"[{self.finished}/{self.of}] {cell.title}: {_outcome(result)}")

    def say(self, line: str) -> None:
        """One line above the bar."""
        self.console.print(line, soft_wrap=True)

    def _show(self, **fields: Any) -> None:
        now = time.monotonic()
        left = self.forecast.left(now - self.first)
        end = None if left is None else now + left
        self.progress.update(self.bar, completed=self.forecast.share(), end=end, **fields)


def _outcome(result: CellResult) -> str:
    if result.status != "done":
        return f"{result.status}: {result.cell.error}"
    summary = result.cell.summary
    if not summary:
        return "done"
    tokens = f"{summary.average_tokens:.1f} visual tokens per layer"
    return f"{units.percent(summary.accuracy)} right, {tokens}"
