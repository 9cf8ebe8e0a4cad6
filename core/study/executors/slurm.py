"""Slurm jobs through submitit: each runs some cells of one model and writes them itself."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokensieve.core.errors import StudyError
from tokensieve.core.study.executors import (
    ExecutorOptions,
    ProgressListener,
    Queue,
    need,
    on_gpu,
)
from tokensieve.core.study.plan.records import PlannedCell
from tokensieve.core.study.store.flaws import CorruptCell
from tokensieve.core.study.store.records import ATTRIBUTIONS, SAMPLES
from tokensieve.core.study.store.store import CellResult, Store, unfinished
from tokensieve.core.study.work.worker import Worker, lost_cell

DEFAULT_JOBS = 4
MINUTES = 240
GLANCE = 1.0  # seconds between looks at the folder
DEBUG = "debug"  # submitit's jobs that run when they are asked how they went


def execute(
    cells: Sequence[PlannedCell], listener: ProgressListener, options: ExecutorOptions
) -> None:
    """Submit the cells as an array of jobs and wait for it; what is left of it is canceled.

    What a job has done is in the store even if the job, or this process, dies. The options are
    submitit's, from the key ``slurm`` of the study's file and from the command line; ``cluster``
    there chooses another of submitit's executors.

    Raises:
        StudyError: there is no Slurm here, or it does not take the jobs or an option.
    """
    submitit = need("submitit", "slurm")
    parts = shares(cells, options.workers or DEFAULT_JOBS, options.costs)
    own, folder = dict(options.options), str(options.out.absolute() / "slurm")
    cluster = own.pop("cluster", None)
    defaults = {"timeout_min": MINUTES, "name": "tokensieve", "gpus_per_node": int(on_gpu(cells))}
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        if cluster is None and executor.cluster != "slurm":
            raise StudyError(
                "--executor slurm: there is no Slurm here; --slurm cluster=local runs its jobs as "
                "processes"
            )
        executor.update_parameters(**{**defaults, **own})
        jobs = executor.map_array(RunShare(), parts, [str(options.out.absolute())] * len(parts))
    except (RuntimeError, NameError, TypeError, ValueError, AssertionError, OSError) as error:
        raise StudyError(f"--executor slurm: {_line(error, 0)}") from None
    waiting = dict(zip(jobs, parts, strict=True))
    try:
        while waiting:
            for job in list(waiting):
                ended = executor.cluster == DEBUG or job.done()
                problem = job.exception() if ended else None
                waiting[job] = _collect(waiting[job], listener, options.out)
                if ended:
                    for cell in waiting.pop(job):
                        reason = f"the Slurm job {job.job_id} ended early: {_line(problem, -1)}"
                        listener.done(cell, lost_cell(cell, reason))
            if waiting:
                time.sleep(GLANCE)
    finally:
        for job in waiting:
            job.cancel(check=False)


class RunShare:
    """The program of a job: run its cells, each written as soon as it is done."""

    def __call__(self, cells: Sequence[PlannedCell], out: str) -> int:
        """Run the cells but those of an earlier try of this job; how many were run."""
        worker, store = Worker(), Store(out)
        keys, _ = unfinished(store, [cell.key for cell in cells], print)
        pending = [cell for cell in cells if cell.key in set(keys)]
        for cell in pending:
            store.write(worker.run(cell))
        return len(pending)

    def checkpoint(self, cells: Sequence[PlannedCell], out: str) -> Any:
        """Let a job that is preempted or out of time go on with the same cells."""
        return need("submitit", "slurm").helpers.DelayedSubmission(self, cells, out)


def shares(
    cells: Sequence[PlannedCell], jobs: int, costs: Mapping[str, float] | None = None
) -> list[list[PlannedCell]]:
    """The cells of every job, about equally much work, models kept together."""
    queue = Queue(cells, costs)
    ordered: list[PlannedCell] = []
    while queue.waiting:
        ordered.append(queue.take(ordered[-1] if ordered else None, []))
    work = [(costs or {}).get(cell.key, 1.0) for cell in ordered]
    parts: list[list[PlannedCell]] = [[] for _ in range(jobs)]
    before = 0.0
    for cell, cost in zip(ordered, work, strict=True):
        middle = (before + cost / 2) / sum(work)
        parts[min(int(middle * jobs), jobs - 1)].append(cell)
        before += cost
    return [part for part in parts if part]


def _collect(
    cells: Sequence[PlannedCell], listener: ProgressListener, out: Path
) -> list[PlannedCell]:
    """Report the cells that jobs have written; the others."""
    missing = []
    for cell in cells:
        try:
            found = Store(out).read(cell.key)
        except CorruptCell:
            found = None
        if found is None:
            missing.append(cell)
        else:
            result = CellResult(cell.key, found.data, written=True)
            result.lines = {SAMPLES: found.samples, ATTRIBUTIONS: found.anatomy}
            listener.done(cell, result)
    return missing


def _line(error: BaseException | None, number: int) -> str:
    return (str(error or "").strip() or "no result").splitlines()[number]
