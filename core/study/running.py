"""Run a study: what is missing is run, written cell by cell, and noted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tokensieve.core.plugins.discovery import build_registry
from tokensieve.core.study.executors import Events, ExecutorName, Setting, find_executor
from tokensieve.core.study.plan.cells import PlannedCell
from tokensieve.core.study.progress.estimate import Estimate, estimate
from tokensieve.core.study.spec.parts import COPY
from tokensieve.core.study.spec.study import StudySpec
from tokensieve.core.study.store.manifest import note_environments, write_manifest
from tokensieve.core.study.store.store import Cell, CellResult, Store, check_folder_name, unfinished


@dataclass(frozen=True)
class Study:
    """A validated study, its cells, and the document that it was read from."""

    spec: StudySpec
    cells: Sequence[PlannedCell]
    document: dict[str, Any]


@dataclass(frozen=True)
class Reports:
    """Where progress goes.

    Attributes:
        start: called with the cells that are run, what each will cost by its key, and the cells
            that are there already.
        tick: so many more samples of the cell are done.
        done: the cell is written.
        say: one line for people.
    """

    start: Callable[[Sequence[PlannedCell], Mapping[str, Estimate], Sequence[Cell]], None]
    tick: Callable[[PlannedCell, int], None]
    done: Callable[[PlannedCell, CellResult], None]
    say: Callable[[str], None]


def _events(store: Store, reports: Reports) -> Events:
    """Write cells as they come; in the end every sample has been ticked once."""
    ticked: dict[str, int] = {}

    def tick(cell: PlannedCell, samples: int) -> None:
        new = min(samples, cell.samples - ticked.get(cell.key, 0))  # a cell may be tried again
        ticked[cell.key] = ticked.get(cell.key, 0) + new
        reports.tick(cell, new)

    def done(cell: PlannedCell, result: CellResult) -> None:
        if not result.written:
            store.write(result)
        tick(cell, cell.samples)
        reports.done(cell, result)

    return Events(tick, done, reports.say)


def run_study(
    study: Study,
    out: Path,
    reports: Reports,
    *,
    executor: ExecutorName = ExecutorName.LOCAL,
    workers: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[Cell]:
    """Run what is missing in ``out``; all cells of the study.

    Cells that failed before and corrupt ones are run again. ``options`` are further ones for the
    executor, from the person who runs the study.

    Raises:
        StudyError: the folder is in use, has a namesake, or what the executor needs is missing.
    """
    store, execute = Store(out), find_executor(executor)
    check_folder_name(out)
    with store.locked():
        store.sweep()
        known = usable_cells(store)
        write_manifest(store, study.spec, study.cells, executor.value)
        store.write_file(COPY, yaml.safe_dump(study.document, sort_keys=False))
        keys, there = unfinished(store, [cell.key for cell in study.cells], reports.say)
        wanted = set(keys)
        pending = [cell for cell in study.cells if cell.key in wanted]
        for key in keys:
            store.discard(key)
        costs = costs_of(study, pending, known)
        reports.start(pending, costs, list(there.values()))
        if pending:
            seconds = {key: cost.seconds for key, cost in costs.items()}
            setting = Setting(workers, out, {**study.spec.slurm, **(options or {})}, seconds)
            execute(pending, _events(store, reports), setting)
        cells = store.cells()
        note_environments(store, cells)
        return cells


def usable_cells(store: Store) -> list[Cell]:
    """Whatever has been measured in this folder, by this study or an earlier version of it."""
    return store.cells(every=True, say=lambda line: None)


def costs_of(
    study: Study, pending: Sequence[PlannedCell], known: Sequence[Cell]
) -> dict[str, Estimate]:
    """What each pending cell will cost."""
    plugins = study.cells[0].how.plugins if study.cells else ()
    return estimate(pending, known, build_registry(plugins))
