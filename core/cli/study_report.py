"""What ``tokensieve study`` shows: the plan, progress, and what came out."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table

from tokensieve.core import units
from tokensieve.core.cli.options import console, table
from tokensieve.core.plugins import Registry
from tokensieve.core.study.estimate import Estimate, estimate
from tokensieve.core.study.executors import ExecutorName
from tokensieve.core.study.grid import PlannedCell, budget_title
from tokensieve.core.study.running import Reports, Study, run_study
from tokensieve.core.study.store import Cell, CellResult, Store, unfinished

ANATOMY_WEIGHT = 50  # an anatomy sample runs the model once for every token
OFF = "*"
LEFT = ["model", "task", "pipeline", "budget", "seconds from"]


def print_plan(study: Study, folder: Path, registry: Registry) -> None:
    """Every group of cells, how many are there already, and what the others will cost."""
    keys, there = unfinished(Store(folder), [cell.key for cell in study.cells], _warn)
    waiting = [cell for cell in study.cells if cell.key in set(keys)]
    costs = estimate(waiting, list(there.values()), registry)
    rows = table("model", "task", "pipeline", "budget", "cells", "to run", "samples", "seconds",
                 "seconds from", left=LEFT)  # fmt: skip
    groups: dict[tuple[str, ...], list[PlannedCell]] = {}
    for cell in study.cells:
        groups.setdefault(_place(cell.config), []).append(cell)
    for place, cells in groups.items():
        rows.add_row(*place, *_cost_cells(cells, costs))
    total = sum(cost.seconds for cost in costs.values())
    samples = sum(cell.samples for cell in waiting)
    console().print(rows, "")
    console().print(
        f"{len(study.cells)} cells, {len(waiting)} to run: {samples} samples, about "
        f"{units.duration(total)} on one worker; results: {folder}",
        soft_wrap=True,
    )


def _cost_cells(cells: Sequence[PlannedCell], costs: dict[str, Estimate]) -> list[str]:
    own = [costs[cell.key] for cell in cells if cell.key in costs]
    source = "measured" if own and all(cost.measured for cost in own) else "estimated"
    return [
        str(len(cells)),
        str(len(own)),
        str(sum(cell.samples for cell in cells)),
        f"{sum(cost.seconds for cost in own):.1f}",
        source if own else "",
    ]


def _place(config: dict[str, Any]) -> tuple[str, ...]:
    pipeline = config["pipeline"]
    return (
        config["model"]["name"],
        config["task"]["name"],
        pipeline["name"] if pipeline else f"({config['kind']})",
        budget_title(config["budget"]) if config["budget"] else "",
    )


def _warn(line: str) -> None:
    print(line, file=sys.stderr)


def run_with_progress(
    study: Study, folder: Path, executor: ExecutorName, workers: int | None
) -> int:
    """Run the study under a progress bar, print what came out; the number of failed cells."""
    shown = _Shown(len(study.cells))
    try:
        with shown.progress:
            cells = run_study(study, folder, shown.reports(), executor=executor, workers=workers)
    except KeyboardInterrupt:
        _warn(f"stopped; the same command goes on where it was ({folder})")
        raise
    print_results(study, cells)
    failed = [cell for cell in cells if cell.status == "failed"]
    if failed:
        _warn(_failures(failed, len(cells)))
    unmet = sum(cell.status == "unmet" for cell in cells)
    console().print(
        f"{len(cells)} cells: {len(cells) - unmet - len(failed)} done, {unmet} at another cost "
        f"than asked for, {len(failed)} failed; results: {folder}",
        soft_wrap=True,
    )
    return len(failed)


def _failures(failed: Sequence[Cell], of: int) -> str:
    """One line: how many, the most common error, where to read on."""
    (error, count), *others = Counter(cell.error for cell in failed).most_common()
    first = next(cell for cell in failed if cell.error == error)
    times = f", {count} times" if count > 1 else ""
    more = f"; {len(others)} other errors" if others else ""
    return (
        f"{len(failed)} of {of} cells failed: {error}{times} (in {first.title}, traceback in "
        f"{first.path / 'cell.json'}){more}"
    )


class _Shown:
    """A progress bar over samples on stderr; lines per cell where stderr is no terminal."""

    def __init__(self, cells: int) -> None:
        self.console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self.progress = Progress(
            TextColumn("{task.fields[cells]}/{task.fields[of]} cells", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("samples"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn(
                "{task.fields[title]}",
                markup=False,
                table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
            ),
            expand=True,
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.of, self.finished = cells, 0
        self.bar: TaskID | None = None

    def reports(self) -> Reports:
        """The callbacks of :func:`run_study`."""
        return Reports(self.start, self.tick, self.done, self.say)

    def start(self, pending: Sequence[PlannedCell], there: Sequence[Cell]) -> None:
        """The bar begins with what is there already."""
        self.finished = len(there)
        total = sum(cell.samples * _weight(cell) for cell in pending)
        fields: dict[str, Any] = {
            "cells": self.finished,
            "of": self.of,
            "title": "starting workers",
        }
        self.bar = self.progress.add_task("study", total=total, **fields)
        if there:
            self.say(f"{len(there)} of {self.of} cells are there already")

    def tick(self, cell: PlannedCell, samples: int) -> None:
        """Some samples are done."""
        if self.bar is not None:
            self.progress.update(self.bar, advance=samples * _weight(cell), title=cell.title)

    def done(self, cell: PlannedCell, result: CellResult) -> None:
        """A cell is done, whatever came out."""
        self.finished += 1
        if self.bar is not None:
            self.progress.update(self.bar, cells=self.finished)
        line = f"[{self.finished}/{self.of}] {cell.title}: {_outcome(result)}"
        if result.status == "failed" or not self.console.is_terminal:
            self.say(line)

    def say(self, line: str) -> None:
        """One line above the bar."""
        self.console.print(line, soft_wrap=True)


def _weight(cell: PlannedCell) -> int:
    return 1 if cell.config["kind"] == "accuracy" else ANATOMY_WEIGHT


def _outcome(result: CellResult) -> str:
    if result.status != "done":
        return f"{result.status}: {result.cell['error']}"
    summary = result.cell["summary"]
    if not summary:
        return "done"
    tokens = f"{summary['average_tokens']:.1f} visual tokens per layer"
    return f"{units.percent(summary['accuracy'])} right, {tokens}"


def print_results(study: Study, cells: Sequence[Cell]) -> None:
    """Accuracy: a table per model and task, a row per pipeline, a column per budget."""
    groups: dict[tuple[str, str], dict[tuple[str, str], list[Cell]]] = {}
    for cell in cells:
        model, task, pipeline, budget = _place(cell.config)
        if cell.config["kind"] == "accuracy":
            groups.setdefault((model, task), {}).setdefault((pipeline, budget), []).append(cell)
    budgets = [budget_title({budget.kind: budget.value}) for budget in study.spec.budgets]
    for (model, task), found in groups.items():
        console().print(_accuracy_table(f"{model}, {task}", budgets, found), "")
    if any(cell.status == "unmet" for cell in cells):
        console().print(f"{OFF} at another cost than asked for: tokens per layer in brackets\n")


def _accuracy_table(
    title: str, budgets: Sequence[str], found: dict[tuple[str, str], list[Cell]]
) -> Table:
    rows = table(title, *budgets, left=[title])
    for pipeline in dict.fromkeys(pipeline for pipeline, _ in found):
        unpruned = found.get((pipeline, ""), [])
        rows.add_row(pipeline, *(_accuracy(found.get((pipeline, b), unpruned)) for b in budgets))
    return rows


def _accuracy(cells: Sequence[Cell]) -> str:
    """The mean over seeds."""
    scored = [cell for cell in cells if cell.summary]
    if not scored:
        return "impossible" if any(cell.status == "unmet" for cell in cells) else "failed"
    accuracy = units.percent(fmean(cell.summary["accuracy"] for cell in scored))
    if all(cell.status == "done" for cell in scored):
        return accuracy
    tokens = fmean(cell.summary["average_tokens"] for cell in scored)
    return f"{accuracy} {OFF}[{tokens:.1f}]"
