"""Processes on this machine: one a device, or one a core for models that are small."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any

from tokensieve.core.errors import StudyError
from tokensieve.core.lazy import torch
from tokensieve.core.models.devices import find_device
from tokensieve.core.study.executors import (
    ATTEMPTS,
    Events,
    Queue,
    Setting,
    default_workers,
    on_gpu,
)
from tokensieve.core.study.executors.cores import usable_cores
from tokensieve.core.study.executors.serving import serve
from tokensieve.core.study.plan.cells import PlannedCell
from tokensieve.core.study.work.worker import lost_cell

GRACE = 5.0  # seconds that a process gets to end by itself
FORKSERVER = "forkserver"
WARM = "tokensieve.core.study.executors.warm"


class _Process:
    """A worker process as the main one sees it: the cell it is at, and the one before."""

    def __init__(self, context: Any, device: str | None, threads: int) -> None:
        self.device, self.ready = device, False
        self.cell: PlannedCell | None = None
        self.last: PlannedCell | None = None
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, device, threads), daemon=True)
        self._start(context)
        other.close()  # so that the death of the process is the end of the pipe

    def _start(self, context: Any) -> None:
        """Deaf to Ctrl-C; but the main process hears it while the libraries are imported."""
        from multiprocessing import forkserver

        with _deaf():
            if context.get_start_method() == FORKSERVER:
                forkserver.ensure_running()
            else:
                self.process.start()
        if self.process.pid is None:
            self.process.start()

    def give(self, cell: PlannedCell) -> None:
        """Start a cell."""
        self.cell = cell
        try:
            self.connection.send(cell)
        except OSError:  # it is dead, which reading will tell
            pass

    def finish(self) -> PlannedCell:
        """The cell that it was at."""
        assert self.cell is not None
        self.last, self.cell = self.cell, None
        return self.last

    def end(self, patience: float) -> int | None:
        """Make sure that the process is gone; its exit code."""
        self.connection.close()
        self.process.join(patience)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        code: int | None = self.process.exitcode
        return code


@contextmanager
def _deaf() -> Iterator[None]:
    """What is started meanwhile does not hear Ctrl-C from its first moment.

    It is the main process's, which hears of it a moment later: it is held back, never ignored.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # its start would let Ctrl-C through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def execute(cells: Sequence[PlannedCell], events: Events, setting: Setting) -> None:
    """Run all cells; a cell whose process dies is tried again in a new one.

    Raises:
        ModelError: this machine does not have a device that a cell wants.
        StudyError: no process can be started.
    """
    for device in sorted({cell.how.device for cell in cells} - {"cpu"}):
        find_device(device)
    gpus = torch.cuda.device_count() if on_gpu(cells) else 0
    devices, threads = layout(cells, setting.workers, usable_cores(), gpus)
    _Team(cells, events, setting, devices, threads).run()


def layout(
    cells: Sequence[PlannedCell], wanted: int | None, cores: int, gpus: int
) -> tuple[list[str | None], int]:
    """For each worker the GPU that stands for ``cuda``, and how many threads each one gets."""
    workers = min(wanted or default_workers(cells, cores, gpus), len(cells))
    devices = [f"cuda:{number % gpus}" if gpus else None for number in range(workers)]
    return devices, max(1, cores // workers)


def _context(cells: Sequence[PlannedCell]) -> Any:
    """How processes are started.

    On Linux they are copies of one that has imported the libraries: that takes seconds, and once
    is enough. Not on GPUs: a library that looks for them while it is imported would spoil CUDA
    for all copies.
    """
    if sys.platform != "linux" or any(cell.how.device != "cpu" for cell in cells):
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context(FORKSERVER)
    context.set_forkserver_preload([WARM])
    return context


class _Team:
    """The processes and the queue."""

    def __init__(
        self,
        cells: Sequence[PlannedCell],
        events: Events,
        setting: Setting,
        devices: Sequence[str | None],
        threads: int,
    ) -> None:
        self.context, self.threads, self.events = _context(cells), threads, events
        self.queue = Queue(cells, setting.costs)
        self.devices = devices
        self.members: list[_Process] = []
        self.stillborn = 0  # in a row

    def run(self) -> None:
        """Give cells out until none is left."""
        try:
            for device in self.devices:
                self._hire(device)
            while self._give_out():
                members = {process.connection: process for process in self.members}
                for connection in wait(list(members)):
                    process = members[connection]
                    if not self._listen(process):
                        self._bury(process)
        finally:
            busy = [process for process in self.members if process.cell or not process.ready]
            for process in busy:
                process.end(0)
            for process in self.members:
                if process not in busy:
                    process.end(GRACE)

    def _hire(self, device: str | None) -> None:
        self.members.append(_Process(self.context, device, self.threads))

    def _give_out(self) -> bool:
        """Give every idle process a cell, while there are some; whether anything is left to do."""
        for process in self.members:
            if process.ready and process.cell is None and self.queue.waiting:
                held = [other.cell for other in self.members if other.cell is not None]
                process.give(self.queue.take(process.last, held))
        return bool(self.queue.waiting) or any(process.cell for process in self.members)

    def _listen(self, process: _Process) -> bool:
        """Take one message; False if the process is dead."""
        try:
            kind, value = process.connection.recv()
        except (EOFError, OSError):
            return False
        if kind == "ready":
            process.ready, self.stillborn = True, 0
        elif kind == "done":
            self.events.done(process.finish(), value)
        elif process.cell is not None:
            self.events.tick(process.cell, value)
        return True

    def _bury(self, dead: _Process) -> None:
        """The cell of a process that died waits again, unless it has killed too many."""
        self.members.remove(dead)
        code = dead.end(GRACE)
        reason = f"the worker process died (exit code {code})"
        if not dead.ready:
            self.stillborn += 1
            if self.stillborn >= ATTEMPTS:
                raise StudyError(f"worker processes cannot start (exit code {code})")
        if dead.cell is not None:
            cell = dead.finish()
            if self.queue.died(cell):
                self.events.say(f"{cell.title}: {reason}: tried again")
            else:
                self.events.done(cell, lost_cell(cell, f"{reason}, {ATTEMPTS} times"))
        if self.queue.waiting:
            self._hire(dead.device)
