"""Processes on this machine: one a device, or one a core for models that are small."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Final

from tokensieve.core.errors import StudyError
from tokensieve.core.lazy import torch
from tokensieve.core.models.devices import find_device
from tokensieve.core.study.executors import (
    ATTEMPTS,
    ExecutorOptions,
    ProgressListener,
    Queue,
    default_workers,
    on_gpu,
)
from tokensieve.core.study.executors.cores import usable_cores
from tokensieve.core.study.executors.serving import serve
from tokensieve.core.study.plan.records import PlannedCell
from tokensieve.core.study.work.worker import lost_cell

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext

    Context = ForkServerContext | SpawnContext

GRACE = 5.0  # seconds that a process gets to end by itself
FORKSERVER: Final = "forkserver"
WARM = "tokensieve.core.study.executors.warm"


@contextmanager
def _ignore_sigint() -> Iterator[None]:
    """Let what is started meanwhile ignore Ctrl-C from its first moment.

    The main process hears of it a moment later: there it is held back, never lost.
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


class _Process:
    """A worker process as the main one sees it: the cell it is at, and the one before."""

    def __init__(self, context: Context, device: str | None, threads: int) -> None:
        self.device, self.ready = device, False
        self.cell: PlannedCell | None = None
        self.last: PlannedCell | None = None
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, device, threads), daemon=True)
        from multiprocessing import forkserver

        with _ignore_sigint():
            if context.get_start_method() == FORKSERVER:
                forkserver.ensure_running()
            else:
                self.process.start()
        if self.process.pid is None:  # the main process hears Ctrl-C while libraries are imported
            self.process.start()
        other.close()  # so that the death of the process is the end of the pipe

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
        return self.process.exitcode


def execute(
    cells: Sequence[PlannedCell], listener: ProgressListener, options: ExecutorOptions
) -> None:
    """Run all cells; a cell whose process dies is tried again in a new one.

    Raises:
        ModelError: this machine does not have a device that a cell wants.
        StudyError: no process can be started.
    """
    for device in sorted({cell.how.device for cell in cells} - {"cpu"}):
        find_device(device)
    gpus = torch.cuda.device_count() if on_gpu(cells) else 0
    devices, threads = layout(cells, options.workers, usable_cores(), gpus)
    _Team(cells, listener, options, devices, threads).run()


def layout(
    cells: Sequence[PlannedCell], wanted: int | None, cores: int, gpus: int
) -> tuple[list[str | None], int]:
    """For each worker the GPU that stands for ``cuda``, and how many threads each one gets."""
    workers = min(wanted or default_workers(cells, cores, gpus), len(cells))
    devices = [f"cuda:{number % gpus}" if gpus else None for number in range(workers)]
    return devices, max(1, cores // workers)


class _Team:
    """The processes and the queue."""

    def __init__(
        self,
        cells: Sequence[PlannedCell],
        listener: ProgressListener,
        options: ExecutorOptions,
        devices: Sequence[str | None],
        threads: int,
    ) -> None:
        self.threads, self.listener = threads, listener
        self.context: Context = multiprocessing.get_context("spawn")
        # On Linux workers are copies of a process that has imported the libraries: that takes
        # seconds, and once is enough. Not on GPUs: a library that looks for them while it is
        # imported would spoil CUDA for all copies.
        if sys.platform == "linux" and all(cell.how.device == "cpu" for cell in cells):
            self.context = multiprocessing.get_context(FORKSERVER)
            self.context.set_forkserver_preload([WARM])
        self.queue = Queue(cells, options.costs)
        self.devices = devices
        self.members: list[_Process] = []
        self.failed_starts = 0  # in a row

    def run(self) -> None:
        """Give cells out until none is left."""
        try:
            for device in self.devices:
                self._start_worker(device)
            while self.queue.waiting or any(process.cell for process in self.members):
                for process in self.members:
                    if process.ready and process.cell is None and self.queue.waiting:
                        held = [other.cell for other in self.members if other.cell is not None]
                        process.give(self.queue.take(process.last, held))
                ready = wait([process.connection for process in self.members])
                for process in [one for one in self.members if one.connection in ready]:
                    if not self._listen(process):
                        self._reap(process)
        finally:
            busy = [process for process in self.members if process.cell or not process.ready]
            for process in busy:
                process.end(0)
            for process in self.members:
                if process not in busy:
                    process.end(GRACE)

    def _start_worker(self, device: str | None) -> None:
        self.members.append(_Process(self.context, device, self.threads))

    def _listen(self, process: _Process) -> bool:
        """Take one message; False if the process is dead."""
        try:
            kind, value = process.connection.recv()
        except (EOFError, OSError):
            return False
        if kind == "ready":
            process.ready, self.failed_starts = True, 0
        elif kind == "done":
            self.listener.done(process.finish(), value)
        elif process.cell is not None:
            self.listener.tick(process.cell, value)
        return True

    def _reap(self, dead: _Process) -> None:
        """The cell of a process that died waits again, unless it has killed too many."""
        self.members.remove(dead)
        code = dead.end(GRACE)
        reason = f"the worker process died (exit code {code})"
        if not dead.ready:
            self.failed_starts += 1
            if self.failed_starts >= ATTEMPTS:
                raise StudyError(f"worker processes cannot start (exit code {code})")
        if dead.cell is not None:
            cell = dead.finish()
            if self.queue.died(cell):
                self.listener.say(f"{cell.title}: {reason}: tried again")
            else:
                self.listener.done(cell, lost_cell(cell, f"{reason}, {ATTEMPTS} times"))
        if self.queue.waiting:
            self._start_worker(dead.device)
