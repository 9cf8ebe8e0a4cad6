"""Executors: every cell gets its result, and a worker that dies takes no cell with it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from study_helpers import Heard, deadly_study, run_here, study_of, with_how

from tokensieve.core.errors import ModelError, StudyError
from tokensieve.core.study.executors import (
    ATTEMPTS,
    Queue,
    default_workers,
    local,
)
from tokensieve.core.study.executors.cores import usable_cores
from tokensieve.core.study.executors.local import layout
from tokensieve.core.study.executors.slurm import shares
from tokensieve.core.study.plan.records import PlannedCell
from tokensieve.core.study.running import run_study
from tokensieve.core.study.store.store import Cell


def outcome(cells: Sequence[Cell]) -> dict[str, tuple[Any, ...]]:
    return {cell.title: (cell.status, cell.summary.get("accuracy"), [
        sample["kept_hash"] for sample in cell.samples]) for cell in cells}  # fmt: skip


# ---------------------------------------------------------------------- sharing out


def two_models() -> list[PlannedCell]:
    models = ["tiny-llava", {"model": "tiny-llava", "name": "again"}]
    return list(study_of(models=models).cells)


def model(cell: PlannedCell) -> str:
    return str(cell.config["model"]["name"])


def test_a_worker_keeps_its_model_as_long_as_there_is_work() -> None:
    queue = Queue(two_models())
    first = queue.take(None, [])
    second = queue.take(None, [first])
    assert {model(first), model(second)} == {"tiny-llava", "again"}
    last, order = first, []
    while queue.waiting:
        last = queue.take(last, [second])
        order.append(model(last))
    assert order == sorted(order, key=lambda name: name != model(first))


def test_a_cell_that_kills_is_given_up() -> None:
    queue = Queue(two_models())
    cell = queue.take(None, [])
    for _ in range(ATTEMPTS - 1):
        assert queue.died(cell)
        assert queue.take(cell, []) is cell
    assert not queue.died(cell)


def test_shares_keep_models_together() -> None:
    cells = two_models()
    parts = shares(cells, 4)
    assert len(parts) <= 4
    assert sorted(cell.key for part in parts for cell in part) == sorted(c.key for c in cells)
    changes = [model(cell) for part in parts for cell in part]
    assert sum(a != b for a, b in pairwise(changes)) == 1


def test_the_longest_cells_come_first_and_workers_end_together() -> None:
    """Two workers, one model that takes a hundred times longer than the other."""
    cells = two_models()
    costs = {c.key: (100.0 if model(c) == "again" else 1.0) + len(c.title) for c in cells}
    queue, clocks = Queue(cells, costs), [0.0, 0.0]
    at: list[PlannedCell | None] = [None, None]
    while queue.waiting:
        free = clocks.index(min(clocks))
        held = [cell for cell in (at[1 - free],) if cell is not None]
        taken = queue.take(at[free], held)
        before = at[free]
        if before is not None and model(before) == model(taken):
            assert costs[taken.key] <= costs[before.key]
        at[free] = taken
        clocks[free] += costs[taken.key]
    assert max(clocks) - min(clocks) <= max(costs.values())
    first = Queue(cells, costs).take(None, [])
    assert costs[first.key] == max(costs.values())


def test_small_models_get_a_core_each_and_gpus_one_worker_each() -> None:
    cells = list(study_of().cells)
    assert default_workers(cells, cores=2, gpus=0) == 2
    assert default_workers(cells[:1], cores=2, gpus=0) == 1
    assert default_workers(cells * 9, cores=64, gpus=0) == 8
    assert default_workers(with_how(cells, size=10**10), cores=8, gpus=0) == 1
    assert default_workers(with_how(cells, size=0), cores=8, gpus=0) == 1
    assert default_workers(with_how(cells, device="cuda"), cores=8, gpus=3) == 3
    named = [*with_how(cells[:2], device="cuda:1"), *with_how(cells[2:], device="cuda:0")]
    assert default_workers(named, cores=8, gpus=2) == 2


def test_each_worker_stands_for_a_gpu_and_cores_are_shared_out() -> None:
    cells = list(study_of().cells)
    cuda = with_how(cells, device="cuda")
    assert layout(cuda, None, 16, 3) == (["cuda:0", "cuda:1", "cuda:2"], 5)
    assert layout(cuda, 4, 16, 3) == (["cuda:0", "cuda:1", "cuda:2", "cuda:0"], 4)
    assert layout(cuda[:2], None, 16, 3) == (["cuda:0", "cuda:1"], 8)
    assert layout(cells, None, 2, 0) == ([None, None], 1)
    assert layout(cells, 1, 2, 0) == ([None], 2)
    assert layout(cells, 4, 2, 0) == ([None] * 4, 1)


@pytest.mark.parametrize(
    ("text", "limit"), [("150000 100000", 2), ("max 100000", None), ("", None)]
)
def test_the_cores_of_a_container_are_its_limit(
    text: str, limit: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(64)), raising=False)
    (tmp_path / "cpu.max").write_text(text)
    assert usable_cores(tmp_path / "cpu.max") == limit or 64
    assert usable_cores(tmp_path / "none") == 64


# ---------------------------------------------------------------------- processes


def test_processes_give_what_a_single_process_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = run_here(study_of(), tmp_path / "here", monkeypatch)
    monkeypatch.undo()
    heard = Heard()
    cells = run_study(study_of(), tmp_path / "there", heard, workers=2)
    assert outcome(cells) == outcome(expected)
    assert all(heard.ticks[cell.key] == cell.samples for cell in heard.pending)


def test_a_killed_process_costs_no_cell_unless_it_always_dies(tmp_path: Path) -> None:
    heard = Heard()
    study = deadly_study(tmp_path, always=True)
    cells = run_study(study, tmp_path / "out", heard, workers=1)
    assert (tmp_path / "once").read_text() == "x"
    assert (tmp_path / "always").read_text() == "x" * ATTEMPTS
    assert len(heard.said) == 1 + ATTEMPTS - 1
    assert all("exit code -9" in line and "tried again" in line for line in heard.said)
    (failed,) = [cell for cell in cells if cell.status == "failed"]
    assert failed.config["pipeline"]["name"] == "worst"
    assert failed.error == f"the worker process died (exit code -9), {ATTEMPTS} times"
    assert {cell.status for cell in cells if cell is not failed} == {"done"}


def test_a_process_that_never_starts_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "serve", slice)  # takes three arguments and ends
    with pytest.raises(StudyError, match=r"worker processes cannot start \(exit code 0\)"):
        run_study(study_of(), tmp_path, Heard())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said_before_anything_runs(tmp_path: Path) -> None:
    study = study_of(models=[{"model": "tiny-llava", "device": "cuda"}])
    heard = Heard()
    with pytest.raises(ModelError, match="device 'cuda' is not available on this machine"):
        run_study(study, tmp_path, heard)
    assert heard.statuses == []
