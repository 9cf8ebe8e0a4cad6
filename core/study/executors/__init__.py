"""The executors, which run the cells: processes here, Ray actors, Slurm jobs.

Not here: what a cell does (``study/work``), and which cells are missing (``study``). None of them
is a scheduler.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import Protocol

from tokensieve.core.errors import StudyError
from tokensieve.core.study.plan.records import Costs, PlannedCell
from tokensieve.core.study.store.store import Cell, CellResult

ATTEMPTS = 3  # a cell that has killed so many workers is given up
SMALL_MODEL = 200_000_000  # bytes of weights that every core can hold for itself
MOST_PROCESSES = 8  # on CPUs, unless asked for more: each holds the libraries once more
PACKAGES = {"ray": "ray", "slurm": "submitit"}
"""What an executor needs besides; the extra is called like the executor."""


class ExecutorName(StrEnum):
    """The ways to run cells."""

    LOCAL = "local"
    RAY = "ray"
    SLURM = "slurm"


class ProgressListener:
    """Hears how a study goes, always in the process that runs it; this one does nothing."""

    def start(self, pending: Sequence[PlannedCell], costs: Costs, there: Sequence[Cell]) -> None:
        """``pending`` cells are run; those that are ``there`` already are not."""

    def tick(self, cell: PlannedCell, samples: int) -> None:
        """So many more samples of a cell are done."""

    def done(self, cell: PlannedCell, result: CellResult) -> None:
        """A cell has its result."""

    def say(self, line: str) -> None:
        """One line for people."""


@dataclass(frozen=True)
class ExecutorOptions:
    """Settings of an executor.

    Attributes:
        workers: how many; None: its own choice.
        out: the study's folder.
        options: what the study's file and the command line have for it.
        costs: expected seconds of each cell by key, as far as they are known.
    """

    workers: int | None
    out: Path
    options: Mapping[str, object] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)


class Executor(Protocol):
    """Runs cells until each has been reported as done."""

    def __call__(
        self, cells: Sequence[PlannedCell], listener: ProgressListener, options: ExecutorOptions
    ) -> None:
        """Run ``cells``; what happens inside a cell is never an exception here."""
        ...


def find_executor(name: ExecutorName) -> Executor:
    """The executor called so.

    Raises:
        StudyError: what it needs is not installed.
    """
    package = PACKAGES.get(name.value)
    if package is not None:
        need(package, name.value)
    module = importlib.import_module(f"tokensieve.core.study.executors.{name.value}")
    executor: Executor = module.execute
    return executor


def need(package: str, extra: str) -> ModuleType:
    """Import an optional package.

    Raises:
        StudyError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise StudyError(
            f"--executor {extra} needs {package}: pip install 'tokensieve[{extra}]' ({error})"
        ) from None


Place = tuple[str, str]
"""Name and device of a model."""


class Queue:
    """Cells that wait; a worker gets one of its own model as long as there is one.

    The longest come first, so that the workers finish at about the same time.
    """

    def __init__(
        self, cells: Sequence[PlannedCell], costs: Mapping[str, float] | None = None
    ) -> None:
        self.costs = costs or {}
        self.waiting: dict[Place, list[PlannedCell]] = {}
        self.deaths: dict[str, int] = {}
        for cell in sorted(cells, key=self._cost, reverse=True):
            self.waiting.setdefault(_model_of(cell), []).append(cell)

    def __len__(self) -> int:
        return sum(map(len, self.waiting.values()))

    def take(self, last: PlannedCell | None, held: Sequence[PlannedCell]) -> PlannedCell:
        """The next cell for a worker that ran ``last``, while others are at ``held``."""
        own = None if last is None else _model_of(last)
        if own is None or own not in self.waiting:
            busy = {_model_of(cell) for cell in held}
            free = [model for model in self.waiting if model not in busy]
            work = {one: sum(map(self._cost, cells)) for one, cells in self.waiting.items()}
            own = max(free or self.waiting, key=work.__getitem__)
        cells = self.waiting[own]
        cell = cells.pop(0)
        if not cells:
            del self.waiting[own]
        return cell

    def died(self, cell: PlannedCell) -> bool:
        """Put a cell back whose worker died; False if it has killed too many."""
        self.deaths[cell.key] = self.deaths.get(cell.key, 0) + 1
        if self.deaths[cell.key] >= ATTEMPTS:
            return False
        self.waiting.setdefault(_model_of(cell), []).insert(0, cell)
        return True

    def _cost(self, cell: PlannedCell) -> float:
        return self.costs.get(cell.key, 1.0)


def _model_of(cell: PlannedCell) -> Place:
    return cell.config.model.name, cell.how.device


def on_gpu(cells: Sequence[PlannedCell]) -> bool:
    """Whether any of them wants one."""
    return any(cell.how.device.startswith("cuda") for cell in cells)


def default_workers(cells: Sequence[PlannedCell], cores: int, gpus: int) -> int:
    """One worker a GPU; on CPUs one, or one a core if all models are small."""
    if on_gpu(cells):
        named = {cell.how.device for cell in cells if cell.how.device.startswith("cuda:")}
        return max(1, min(max(gpus, len(named)), len(cells)))
    small = all(0 < cell.how.size <= SMALL_MODEL for cell in cells)
    return max(1, min(cores, MOST_PROCESSES, len(cells))) if small else 1
