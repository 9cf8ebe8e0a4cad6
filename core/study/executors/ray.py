"""Ray actors that keep a model: on a cluster that is there, or on one started for the study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokensieve.core.study.cell import Worker, lost_cell
from tokensieve.core.study.executors import (
    ATTEMPTS,
    Events,
    Queue,
    Setting,
    default_workers,
    need,
)
from tokensieve.core.study.executors.local import usable_cores
from tokensieve.core.study.grid import PlannedCell
from tokensieve.core.study.store import CellResult


class RemoteWorker:
    """What runs in an actor: a worker that keeps its model from cell to cell."""

    def __init__(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.worker = Worker("cuda:0")  # Ray shows an actor its own GPU only

    def run(self, cell: PlannedCell) -> CellResult:
        """The cell's result."""
        return self.worker.run(cell)


def execute(cells: Sequence[PlannedCell], events: Events, setting: Setting) -> None:
    """Run all cells; a cell whose actor dies is tried again on a new one."""
    ray = need("ray", "ray")
    started = connect(ray, setting)
    try:
        _Team(ray, cells, events, setting).run()
    finally:
        if started:
            ray.shutdown()


def connect(ray: Any, setting: Setting) -> bool:
    """Join the cluster that is there, or start one here; whether it is ours to stop."""
    if ray.is_initialized():
        return False
    quiet = {"log_to_driver": False, "logging_level": "error"}
    try:
        ray.init(address="auto", **quiet)
    except ConnectionError:
        cores = max(usable_cores(), setting.workers or 1)
        ray.init(address="local", num_cpus=cores, include_dashboard=False, **quiet)
    return True


class _Team:
    """The actors, the cells they are at, and the queue."""

    def __init__(
        self, ray: Any, cells: Sequence[PlannedCell], events: Events, setting: Setting
    ) -> None:
        self.ray, self.events = ray, events
        self.queue = Queue(cells)
        resources = ray.cluster_resources()
        cores, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
        workers = setting.workers or default_workers(cells, cores, gpus)
        self.workers = min(workers, len(cells))
        self.threads = max(1, cores // self.workers)
        on_gpu = any(cell.how.device.startswith("cuda") for cell in cells)
        needs = {"num_gpus": 1} if on_gpu else {"num_cpus": 1}
        self.actor = ray.remote(RemoteWorker).options(max_restarts=0, **needs)
        self.at: dict[Any, tuple[Any, PlannedCell]] = {}

    def run(self) -> None:
        """Give cells out until none is left."""
        for _ in range(self.workers):
            self._give(self._new_actor(), None)
        while self.at:
            ready, _ = self.ray.wait(list(self.at), num_returns=1)
            for future in ready:
                self._collect(future)

    def _new_actor(self) -> Any:
        return self.actor.remote(self.threads)

    def _give(self, actor: Any, last: PlannedCell | None) -> None:
        """The next cell for an actor; one without work is let go."""
        if not self.queue.waiting:
            self.ray.kill(actor)
            return
        cell = self.queue.take(last, [cell for _, cell in self.at.values()])
        self.at[actor.run.remote(cell)] = (actor, cell)

    def _collect(self, future: Any) -> None:
        actor, cell = self.at.pop(future)
        try:
            result = self.ray.get(future)
        except self.ray.exceptions.RayError as error:  # the cell's own errors are in its result
            reason = f"the Ray actor died ({type(error).__name__})"
            if self.queue.died(cell):
                self.events.say(f"{cell.title}: {reason}: tried again")
            else:
                self.events.done(cell, lost_cell(cell, f"{reason}, {ATTEMPTS} times"))
            actor = self._new_actor()
        else:
            self.events.done(cell, result)
        self._give(actor, cell)
