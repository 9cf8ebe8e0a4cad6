"""Run a study: what is missing is run, written cell by cell, and noted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from tokensieve.core.plugins.registry import build_registry
from tokensieve.core.study.executors import (
    ExecutorName,
    ExecutorOptions,
    ProgressListener,
    find_executor,
)
from tokensieve.core.study.plan.records import Costs, PlannedCell
from tokensieve.core.study.progress.estimate import estimate
from tokensieve.core.study.spec.parts import COPY
from tokensieve.core.study.spec.study import StudySpec
from tokensieve.core.study.store.manifest import note_environments, write_manifest
from tokensieve.core.study.store.store import Cell, CellResult, Store, check_folder_name, unfinished


@dataclass(frozen=True)
class Study:
    """A validated study, its cells, and the document that it was read from."""

    spec: StudySpec
    cells: Sequence[PlannedCell]
    document: Mapping[str, object]


class _Writer(ProgressListener):
    """Writes cells as they come; in the end every sample has been ticked once."""

    def __init__(self, store: Store, listener: ProgressListener) -> None:
        self.store, self.listener = store, listener
        self.ticked: dict[str, int] = {}

    def tick(self, cell: PlannedCell, samples: int) -> None:
        """Samples are done; those of a cell that is tried again only once."""
        before = self.ticked.get(cell.key, 0)
        new = min(samples, cell.samples - before)
        self.ticked[cell.key] = before + new
        self.listener.tick(cell, new)

    def done(self, cell: PlannedCell, result: CellResult) -> None:
        """A cell has its result."""
        if not result.written:
            self.store.write(result)
        self.tick(cell, cell.samples)
        self.listener.done(cell, result)

    def say(self, line: str) -> None:
        """One line for people."""
        self.listener.say(line)


def run_study(
    study: Study,
    out: Path,
    listener: ProgressListener,
    *,
    executor: ExecutorName = ExecutorName.LOCAL,
    workers: int | None = None,
    options: Mapping[str, object] | None = None,
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
        store.write_file(COPY, yaml.safe_dump(dict(study.document), sort_keys=False))
        keys, there = unfinished(store, [cell.key for cell in study.cells], listener.say)
        wanted = set(keys)
        pending = [cell for cell in study.cells if cell.key in wanted]
        for key in keys:
            store.discard(key)
        costs = costs_of(study, pending, known)
        listener.start(pending, costs, list(there.values()))
        if pending:
            seconds = {key: cost.seconds for key, cost in costs.items()}
            own = ExecutorOptions(workers, out, {**study.spec.slurm, **(options or {})}, seconds)
            execute(pending, _Writer(store, listener), own)
        cells = store.cells()
        note_environments(store, cells)
        return cells


def usable_cells(store: Store) -> list[Cell]:
    """Cells that have been measured in this folder, also by earlier versions of the study."""
    return store.cells(every=True, say=lambda line: None)


def costs_of(study: Study, pending: Sequence[PlannedCell], known: Sequence[Cell]) -> Costs:
    """The estimated cost of each pending cell."""
    plugins = study.cells[0].how.plugins if study.cells else ()
    return estimate(pending, known, build_registry(plugins))
