"""Executors: every cell gets its result, and a worker that dies takes no cell with it."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from study_helpers import Heard, deadly, run_here, study_of

from tokensieve.core.errors import StudyError
from tokensieve.core.study.executors import (
    ATTEMPTS,
    ExecutorName,
    Queue,
    Setting,
    default_workers,
    find_executor,
)
from tokensieve.core.study.executors.ray import connect
from tokensieve.core.study.executors.slurm import shares
from tokensieve.core.study.grid import PlannedCell
from tokensieve.core.study.running import Study, run_study
from tokensieve.core.study.store import Cell

WITHOUT_RAY = importlib.util.find_spec("ray") is None
REASON = "ray is not installed (pip install 'tokensieve[ray]')"


def deadly_study(tmp_path: Path, *, always: bool = False) -> Study:
    """One pipeline kills its process once; with ``always`` another one does so every time."""
    plugins = [tmp_path / "deadly.py"]
    plugins[0].write_text(deadly(tmp_path / "once"))
    mine = [{"pipeline": {"at": 1, "score": "deadly", "keep": 9}, "name": "mine"}]
    if always:
        plugins.append(tmp_path / "fatal.py")
        plugins[1].write_text(deadly(tmp_path / "always", always=True).replace("deadly", "fatal"))
        mine.append({"pipeline": {"at": 1, "score": "fatal", "keep": 9}, "name": "worst"})
    return study_of(plugins, pipelines=mine)


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


def test_small_models_get_a_core_each_and_gpus_one_worker_each() -> None:
    cells = list(study_of().cells)
    assert default_workers(cells, cores=2, gpus=0) == 2
    assert default_workers(cells[:1], cores=2, gpus=0) == 1
    large = [PlannedCell(c.key, c.config, c.how.__class__(**{**vars(c.how), "size": 10**10}))
             for c in cells]  # fmt: skip
    assert default_workers(large, cores=8, gpus=0) == 1
    cuda = [PlannedCell(c.key, c.config, c.how.__class__(**{**vars(c.how), "device": "cuda"}))
            for c in cells]  # fmt: skip
    assert default_workers(cuda, cores=8, gpus=3) == 3


# ---------------------------------------------------------------------- processes


def test_processes_give_what_a_single_process_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = run_here(study_of(), tmp_path / "here", monkeypatch)
    monkeypatch.undo()
    heard = Heard()
    cells = run_study(study_of(), tmp_path / "there", heard.reports(), workers=2)
    assert outcome(cells) == outcome(expected)
    assert all(heard.ticks[cell.key] == cell.samples for cell in heard.pending)


def test_a_killed_process_costs_no_cell_unless_it_always_dies(tmp_path: Path) -> None:
    heard = Heard()
    study = deadly_study(tmp_path, always=True)
    cells = run_study(study, tmp_path / "out", heard.reports(), workers=1)
    assert (tmp_path / "once").read_text() == "x"
    assert (tmp_path / "always").read_text() == "x" * ATTEMPTS
    assert len(heard.said) == 1 + ATTEMPTS - 1
    assert all("exit code -9" in line and "tried again" in line for line in heard.said)
    (failed,) = [cell for cell in cells if cell.status == "failed"]
    assert failed.config["pipeline"]["name"] == "worst"
    assert failed.error == f"the worker process died (exit code -9), {ATTEMPTS} times"
    assert {cell.status for cell in cells if cell is not failed} == {"done"}


# ---------------------------------------------------------------------- ray


@pytest.mark.skipif(WITHOUT_RAY, reason=REASON)
@pytest.mark.filterwarnings("ignore")
def test_ray_runs_all_cells_though_an_actor_is_killed(tmp_path: Path) -> None:
    """The actor kills itself in the middle of a cell; a new one finishes it."""
    heard = Heard()
    cells = run_study(
        deadly_study(tmp_path),
        tmp_path / "out",
        heard.reports(),
        executor=ExecutorName.RAY,
        workers=1,
    )
    assert (tmp_path / "once").read_text() == "x"
    assert {cell.status for cell in cells} == {"done"}
    (line,) = heard.said
    assert "the Ray actor died" in line
    import ray

    assert not ray.is_initialized()  # what was started on the spot is stopped


class FakeRay:
    """What connecting needs of Ray."""

    def __init__(self, *, running: bool = False, cluster: bool = False) -> None:
        self.running, self.cluster = running, cluster
        self.started: list[dict[str, Any]] = []

    def is_initialized(self) -> bool:
        return self.running

    def init(self, address: str, **options: Any) -> None:
        if address == "auto" and not self.cluster:
            raise ConnectionError("no cluster")
        self.started.append({"address": address, **options})


def test_a_cluster_that_is_there_is_used_before_one_is_started(tmp_path: Path) -> None:
    setting = Setting(workers=3, out=tmp_path)
    inside = FakeRay(running=True)
    assert not connect(inside, setting)
    assert not inside.started
    for cluster, address in [(True, "auto"), (False, "local")]:
        ray = FakeRay(cluster=cluster)
        assert connect(ray, setting)
        (options,) = ray.started
        assert options["address"] == address
        assert options.get("num_cpus", 3) >= 3


def test_a_missing_package_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, extra in [("ray", ExecutorName.RAY), ("submitit", ExecutorName.SLURM)]:
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(StudyError, match=rf"needs {name}: pip install 'tokensieve\[{extra}\]"):
            run_study(study_of(), tmp_path, Heard().reports(), executor=extra)
    assert find_executor(ExecutorName.LOCAL)


# ---------------------------------------------------------------------- slurm


class FakeJob:
    """Runs when it is asked how it went; the first one is killed half way."""

    def __init__(self, number: int, function: Any, arguments: tuple[Any, ...]) -> None:
        self.job_id, self.function, self.arguments = str(number), function, arguments

    def exception(self) -> Exception | None:
        cells, out = self.arguments
        if self.job_id == "0":
            self.function(cells[:1], out)
            return RuntimeError("preempted")
        self.function(cells, out)
        return None


def test_slurm_jobs_write_cells_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a stand-in for submitit: no cluster here."""
    seen: dict[str, Any] = {}

    class AutoExecutor:
        def __init__(self, folder: str) -> None:
            seen["folder"] = folder

        def update_parameters(self, **parameters: Any) -> None:
            seen.update(parameters)

        def map_array(self, function: Any, *arguments: Sequence[Any]) -> list[FakeJob]:
            calls = list(zip(*arguments, strict=True))
            return [FakeJob(number, function, call) for number, call in enumerate(calls)]

    fake: Any = types.ModuleType("submitit")
    fake.AutoExecutor = AutoExecutor
    monkeypatch.setitem(sys.modules, "submitit", fake)
    study = study_of(slurm={"slurm_partition": "gpu", "timeout_min": 5})
    cells = run_study(study, tmp_path, Heard().reports(), executor=ExecutorName.SLURM, workers=2)
    assert seen["folder"] == str(tmp_path / "slurm")
    assert (seen["slurm_partition"], seen["timeout_min"], seen["gpus_per_node"]) == ("gpu", 5, 0)
    failed = [cell for cell in cells if cell.status == "failed"]
    assert {cell.error for cell in failed} == {"the Slurm job 0 ended early: preempted"}
    assert len(failed) == len(shares(study.cells, 2)[0]) - 1
    assert len(cells) == len(study.cells)
