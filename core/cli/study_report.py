"""What ``tokensieve study`` shows: the plan, progress, and what came out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

from tokensieve.core import units
from tokensieve.core.cli.study_progress import StudyProgress
from tokensieve.core.errors import StudyError, TokensieveError
from tokensieve.core.output.terminal import Rows, console, table, warn
from tokensieve.core.output.unforeseen import unforeseen
from tokensieve.core.plugins.registry import Registry
from tokensieve.core.study.executors import ExecutorName
from tokensieve.core.study.plan.records import CellConfig, Costs, PlannedCell
from tokensieve.core.study.progress.estimate import estimate
from tokensieve.core.study.running import Study, run_study, usable_cells
from tokensieve.core.study.spec.parts import budget_title
from tokensieve.core.study.store.store import Cell, Store, unfinished

OFF = "*"
MOST_FAILURES = 10  # lines about failed cells
MOST_GROUPS = 1000  # rows of a plan
LEFT = ["model", "task", "pipeline", "budget", "seconds from"]


def print_plan(study: Study, folder: Path, registry: Registry) -> None:
    """Every group of cells, how many are there already, and what the others will cost."""
    store = Store(folder)
    keys, _ = unfinished(store, [cell.key for cell in study.cells], warn)
    wanted = set(keys)
    waiting = [cell for cell in study.cells if cell.key in wanted]
    costs = estimate(waiting, usable_cells(store), registry)
    rows = table("model", "task", "pipeline", "budget", "cells", "to run", "samples", "seconds",
                 "seconds from", left=LEFT)  # fmt: skip
    groups: dict[tuple[str, ...], list[PlannedCell]] = {}
    for cell in study.cells:
        groups.setdefault(_place(cell.config), []).append(cell)
    for place, cells in islice(groups.items(), MOST_GROUPS):
        rows.add_row(*place, *_cost_cells(cells, costs))
    total = sum(cost.seconds for cost in costs.values())
    samples = sum(cell.samples for cell in waiting)
    console().print(rows, "")
    if len(groups) > MOST_GROUPS:
        console().print(f"and {len(groups) - MOST_GROUPS} groups more\n")
    console().print(
        f"{len(study.cells)} cells, {len(waiting)} to run: {samples} samples, about "
        f"{units.duration(total)} on one worker; results: {folder}",
        soft_wrap=True,
    )


def _cost_cells(cells: Sequence[PlannedCell], costs: Costs) -> list[str]:
    own = [costs[cell.key] for cell in cells if cell.key in costs]
    source = "measured" if own and all(cost.measured for cost in own) else "estimated"
    return [
        str(len(cells)),
        str(len(own)),
        str(sum(cell.samples for cell in cells)),
        f"{sum(cost.seconds for cost in own):.1f}",
        source if own else "",
    ]


def _place(config: CellConfig) -> tuple[str, ...]:
    return (
        config.model.name,
        config.task.name,
        config.pipeline_name or f"({config.kind})",
        budget_title(config.budget) if config.budget else "",
    )


def run_with_progress(
    study: Study,
    folder: Path,
    executor: ExecutorName,
    workers: int | None,
    options: dict[str, Any] | None = None,
) -> int:
    """Run the study under a progress bar, print what came out; the number of failed cells."""
    shown = StudyProgress(len(study.cells))
    with shown.progress:
        cells = run_study(study, folder, shown, executor=executor, workers=workers, options=options)
    print_results(study, cells)
    failed = [cell for cell in cells if cell.status == "failed"]
    for line in _failures(failed, len(cells)):
        warn(line)
    unmet = sum(cell.status == "unmet" for cell in cells)
    console().print(
        f"{len(cells)} cells: {len(cells) - unmet - len(failed)} done, {unmet} at another cost "
        f"than asked for, {len(failed)} failed; results: {folder}",
        soft_wrap=True,
    )
    return len(failed)


def report(folder: Path) -> bool:
    """Write the report and print where, or why not; False if that went wrong.

    Packages that are missing are not: it is said how to get them.
    """
    from tokensieve.core.report.html import require_extra, write_report

    again = f"then: tokensieve report {folder}"
    try:
        require_extra()
    except StudyError as error:
        warn(f"no report: {error}; {again}")
        return True
    try:
        (html, *_), _ = write_report(folder)
    except TokensieveError as error:
        warn(f"no report: {error}; {again}")
        return False
    except Exception as error:
        warn(f"no report: {unforeseen(error)}; the results are in {folder}")
        return False
    console().print(f"report: {html}", soft_wrap=True)
    return True


def _failures(failed: Sequence[Cell], of: int) -> list[str]:
    """How many and where to read on, then a line for each of the first."""
    if not failed:
        return []
    lines = [f"{cell.title}: {cell.error}" for cell in failed[:MOST_FAILURES]]
    more = len(failed) - len(lines)
    return [
        f"{len(failed)} of {of} cells failed (traceback of the first: "
        f"{failed[0].path / 'cell.json'}):",
        *(f"  {line}" for line in lines),
        *([f"  and {more} more"] if more else []),
    ]


def print_results(study: Study, cells: Sequence[Cell]) -> None:
    """Accuracy: a table per model and task, a row per pipeline, a column per budget."""
    groups: dict[tuple[str, str], dict[tuple[str, str], list[Cell]]] = {}
    for cell in cells:
        model, task, pipeline, budget = _place(cell.config)
        if cell.config.kind == "accuracy":
            groups.setdefault((model, task), {}).setdefault((pipeline, budget), []).append(cell)
    budgets = [budget_title({budget.kind: budget.value}) for budget in study.spec.budgets]
    for (model, task), found in groups.items():
        console().print(_accuracy_table(f"{model}, {task}", budgets, found), "")
    if any(cell.status == "unmet" for cell in cells):
        console().print(f"{OFF} at another cost than asked for: tokens per layer in brackets")
        console().print()


def _accuracy_table(
    title: str, budgets: Sequence[str], found: dict[tuple[str, str], list[Cell]]
) -> Rows:
    rows = table(title, *budgets, left=[title])
    for pipeline in dict.fromkeys(pipeline for pipeline, _ in found):
        unpruned = found.get((pipeline, ""), [])
        rows.add_row(pipeline, *(_accuracy(found.get((pipeline, b), unpruned)) for b in budgets))
    return rows


def _accuracy(cells: Sequence[Cell]) -> str:
    """The mean over seeds, and how many of them have none."""
    scored = [cell for cell in cells if cell.summary]
    failed = sum(cell.status == "failed" for cell in cells)
    if not scored:
        return "failed" if failed else "impossible"
    text = units.percent(fmean(cell.summary.accuracy for cell in scored))
    if any(cell.status == "unmet" for cell in scored):
        tokens = fmean(cell.summary.average_tokens for cell in scored)
        text = f"{text} {OFF}[{tokens:.1f}]"
    return f"{text} ({failed} of {len(cells)} failed)" if failed else text
