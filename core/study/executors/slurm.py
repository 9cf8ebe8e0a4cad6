"""Slurm jobs through submitit: each runs some cells of one model and writes them itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokensieve.core.study.cell import Worker, lost_cell
from tokensieve.core.study.executors import Events, Queue, Setting, need
from tokensieve.core.study.grid import PlannedCell
from tokensieve.core.study.store import CellResult, Store

DEFAULT_JOBS = 4
MINUTES = 240


def execute(cells: Sequence[PlannedCell], events: Events, setting: Setting) -> None:
    """Submit the cells as an array of jobs and wait for it.

    What a job has done is in the store even if the job, or this process, dies. The options are
    submitit's, from the key ``slurm`` of the study's file.
    """
    submitit = need("submitit", "slurm")
    executor = submitit.AutoExecutor(folder=str(setting.out / "slurm"))
    on_gpu = any(cell.how.device.startswith("cuda") for cell in cells)
    defaults = {"timeout_min": MINUTES, "name": "tokensieve", "gpus_per_node": int(on_gpu)}
    executor.update_parameters(**{**defaults, **setting.options})
    parts = shares(cells, setting.workers or DEFAULT_JOBS)
    jobs = executor.map_array(run_share, parts, [str(setting.out)] * len(parts))
    for job, part in zip(jobs, parts, strict=True):
        error = job.exception()
        for cell in part:
            result = _written(setting.out, cell)
            if result is None:
                reason = str(error or "no result").strip().splitlines()[-1]
                result = lost_cell(cell, f"the Slurm job {job.job_id} ended early: {reason}")
            events.done(cell, result)


def run_share(cells: Sequence[PlannedCell], out: str) -> int:
    """What a job does: run its cells, each written as soon as it is done."""
    worker, store = Worker(), Store(out)
    for cell in cells:
        store.write(worker.run(cell))
    return len(cells)


def shares(cells: Sequence[PlannedCell], jobs: int) -> list[list[PlannedCell]]:
    """The cells of every job, about equally many, models kept together."""
    queue = Queue(cells)
    ordered: list[PlannedCell] = []
    while queue.waiting:
        ordered.append(queue.take(ordered[-1] if ordered else None, []))
    size = -(-len(ordered) // jobs)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def _written(out: Path, cell: PlannedCell) -> CellResult | None:
    """The cell as the job wrote it."""
    found: Any = Store(out).read(cell.key)
    if found is None:
        return None
    lines = {"samples.jsonl": found.samples, "anatomy.jsonl": found.anatomy}
    facts = {key: value for key, value in found.data.items() if key not in ("format", "files")}
    return CellResult(cell.key, facts, {name: kept for name, kept in lines.items() if kept})
