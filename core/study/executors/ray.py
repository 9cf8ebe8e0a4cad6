"""Ray actors that keep a model: on a cluster that is there, or on one started for the study."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tokensieve.core.errors import StudyError
from tokensieve.core.study.executors import (
    ATTEMPTS,
    ExecutorOptions,
    ProgressListener,
    Queue,
    default_workers,
    need,
    on_gpu,
)
from tokensieve.core.study.executors.cores import usable_cores
from tokensieve.core.study.plan.records import PlannedCell
from tokensieve.core.study.store.store import CellResult
from tokensieve.core.study.work.worker import Worker, lost_cell

ADDRESS, NOTE = "RAY_ADDRESS", "ray/ray_current_cluster"
KNOCK_SECONDS = 10.0
QUIET = {"log_to_driver": False, "logging_level": "error"}


class RemoteWorker:
    """The program of an actor: a worker that keeps its model from cell to cell."""

    def __init__(self, threads: int | None) -> None:
        import torch

        if threads is not None:
            torch.set_num_threads(threads)
        self.worker = Worker("cuda:0")  # Ray shows an actor its own GPU only

    def ready(self) -> None:
        """Answers as soon as the actor runs."""

    def run(self, cell: PlannedCell) -> CellResult:
        """The cell's result."""
        return self.worker.run(cell)


def execute(
    cells: Sequence[PlannedCell], listener: ProgressListener, options: ExecutorOptions
) -> None:
    """Run all cells; a cell whose actor dies is tried again on a new one.

    Raises:
        StudyError: the cluster cannot be reached, has no GPU, or cannot start an actor.
    """
    ray = need("ray", "ray")
    started = connect(ray, options)
    try:
        _Team(ray, cells, listener, options).run()
    finally:
        if started:
            ray.shutdown()


def connect(ray: Any, options: ExecutorOptions) -> bool:
    """Join the cluster that is there, or start one here; whether it is ours to leave."""
    if ray.is_initialized():
        return False
    named, noted = os.environ.get(ADDRESS), None
    with suppress(OSError):  # the cluster started here last; one that was killed stays noted
        noted = Path(os.environ.get("RAY_TMPDIR") or "/tmp", NOTE).read_text("utf-8").strip()
    try:
        try:
            host, colon, port = (named or noted or "").rpartition(":")
            if colon and port.isdigit():  # if nobody listens there, Ray itself tries for minutes
                place = host.removeprefix("ray://").strip("[]")
                socket.create_connection((place, int(port)), timeout=KNOCK_SECONDS).close()
            ray.init(address=named or "auto", **QUIET)
        except OSError:
            if named:  # nobody asked for another one
                raise
            cores = max(usable_cores(), options.workers or 1)
            ray.init(address="local", num_cpus=cores, include_dashboard=False, **QUIET)
    except Exception as error:  # Ray raises all kinds, the base class itself among them
        what = f"{ADDRESS}={named}: no Ray cluster can be reached" if named else "Ray cannot start"
        raise StudyError(f"--executor ray: {what} ({_first_line(error)})") from None
    return True


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class _Team:
    """The actors, the cells they are at, and the queue."""

    def __init__(
        self,
        ray: Any,
        cells: Sequence[PlannedCell],
        listener: ProgressListener,
        options: ExecutorOptions,
    ) -> None:
        self.ray, self.listener = ray, listener
        self.queue = Queue(cells, options.costs)
        resources = ray.cluster_resources()
        cores, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
        if on_gpu(cells) and not gpus:
            raise StudyError("a model wants device cuda, but the Ray cluster has no GPU")
        workers = options.workers or default_workers(cells, cores, gpus)
        self.workers = min(workers, len(cells))
        self.threads: int | None = None
        needs = {"num_gpus": 1}
        if not on_gpu(cells):  # on a machine with fewer cores an actor would wait for ever
            nodes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
            smallest = min((int(count) for count in nodes if count >= 1), default=1)
            self.threads = max(1, min(cores, smallest) // self.workers)
            needs = {"num_cpus": self.threads}
        self.actor = ray.remote(RemoteWorker).options(max_restarts=0, **needs)
        self.starting: dict[Any, tuple[Any, PlannedCell | None]] = {}
        self.at: dict[Any, tuple[Any, PlannedCell]] = {}
        self.failed_starts = 0  # in a row

    def run(self) -> None:
        """Give cells out until none is left."""
        for _ in range(self.workers):
            self._start_worker(None)
        while self.at or self.queue.waiting:
            ready, _ = self.ray.wait([*self.starting, *self.at], num_returns=1)
            for future in ready:
                if future in self.starting:
                    self._started(future)
                else:
                    self._collect(future)
        for actor, _ in self.starting.values():
            self.ray.kill(actor)

    def _start_worker(self, last: PlannedCell | None) -> None:
        actor = self.actor.remote(self.threads)
        self.starting[actor.ready.remote()] = (actor, last)

    def _give(self, actor: Any, last: PlannedCell | None) -> None:
        """The next cell for an actor; one without work is let go."""
        if not self.queue.waiting:
            self.ray.kill(actor)
            return
        cell = self.queue.take(last, [cell for _, cell in self.at.values()])
        self.at[actor.run.remote(cell)] = (actor, cell)

    def _started(self, future: Any) -> None:
        """Give a cell to an actor that runs, or start another one."""
        actor, last = self.starting.pop(future)
        try:
            self.ray.get(future)
        except self.ray.exceptions.RayError as error:
            self.failed_starts += 1
            if self.failed_starts >= ATTEMPTS:
                raise StudyError(f"Ray actors cannot start: {_first_line(error)}") from None
            self._start_worker(last)
        else:
            self.failed_starts = 0
            self._give(actor, last)

    def _collect(self, future: Any) -> None:
        """Take a cell's result, or reap its actor; what goes wrong in a cell is in its result."""
        actor, cell = self.at.pop(future)
        try:
            result = self.ray.get(future)
        except self.ray.exceptions.RayError as error:
            reason = f"the Ray actor died ({type(error).__name__})"
            if self.queue.died(cell):
                self.listener.say(f"{cell.title}: {reason}: tried again")
            else:
                self.listener.done(cell, lost_cell(cell, f"{reason}, {ATTEMPTS} times"))
            self.ray.kill(actor)
            if self.queue.waiting:
                self._start_worker(cell)
        else:
            self.listener.done(cell, result)
            self._give(actor, cell)
