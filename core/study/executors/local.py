"""Processes on this machine: one a device, or one a core for models that are small."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from multiprocessing.connection import wait
from typing import Any

from tokensieve.core.lazy import torch
from tokensieve.core.study.cell import Worker, lost_cell
from tokensieve.core.study.executors import ATTEMPTS, Events, Queue, Setting, default_workers
from tokensieve.core.study.grid import PlannedCell

GRACE = 5.0  # seconds that an idle worker gets to end by itself


class _Process:
    """A worker process as the main one sees it: the cell it is at, and the one before."""

    def __init__(self, device: str | None, threads: int) -> None:
        context: Any = multiprocessing.get_context("spawn")
        self.device, self.threads = device, threads
        self.cell: PlannedCell | None = None
        self.last: PlannedCell | None = None
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, device, threads), daemon=True)
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

    def end(self) -> int | None:
        """Make sure that the process is gone; its exit code."""
        self.connection.close()
        if self.cell is None:
            self.process.join(GRACE)
        self.process.kill()
        self.process.join()
        code: int | None = self.process.exitcode
        return code


def execute(cells: Sequence[PlannedCell], events: Events, setting: Setting) -> None:
    """Run all cells; a cell whose process dies is tried again in a new one."""
    cores = usable_cores()
    gpus = torch.cuda.device_count() if any(c.how.device == "cuda" for c in cells) else 0
    workers = min(setting.workers or default_workers(cells, cores, gpus), len(cells))
    devices = [f"cuda:{number % gpus}" if gpus else None for number in range(workers)]
    team = [_Process(device, max(1, cores // workers)) for device in devices]
    queue = Queue(cells)
    try:
        while _give_out(team, queue):
            busy = {process.connection: process for process in team if process.cell}
            for connection in wait(list(busy)):
                process = busy[connection]
                if not _listen(process, events):
                    team.remove(process)
                    _bury(process, queue, events)
                    if queue.waiting:
                        team.append(_Process(process.device, process.threads))
    finally:
        for process in team:
            process.end()


def _give_out(team: Sequence[_Process], queue: Queue) -> bool:
    """Give every idle process a cell, while there are some; whether any is at work."""
    for process in team:
        if process.cell is None and queue.waiting:
            held = [other.cell for other in team if other.cell is not None]
            process.give(queue.take(process.last, held))
    return any(process.cell for process in team)


def _listen(process: _Process, events: Events) -> bool:
    """Take one message; False if the process is dead."""
    try:
        kind, value = process.connection.recv()
    except (EOFError, OSError):
        return False
    if kind == "done":
        events.done(process.finish(), value)
    elif process.cell is not None:
        events.tick(process.cell, value)
    return True


def _bury(dead: _Process, queue: Queue, events: Events) -> None:
    """The cell of a process that died waits again, unless it has killed too many."""
    code = dead.end()
    cell = dead.finish()
    reason = f"the worker process died (exit code {code})"
    if queue.died(cell):
        events.say(f"{cell.title}: {reason}: tried again")
    else:
        events.done(cell, lost_cell(cell, f"{reason}, {ATTEMPTS} times"))


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def serve(connection: Any, device: str | None, threads: int) -> None:
    """The worker process: cells in, results out, until the main process is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    worker = Worker(device)
    while True:
        try:
            cell = connection.recv()
        except EOFError:
            return
        result = worker.run(cell, lambda samples: connection.send(("tick", samples)))
        connection.send(("done", result))


def _end_with_parent() -> None:
    """A killed study leaves no process behind."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
