"""Executors: every cell gets its result, and a worker that dies takes no cell with it."""

from __future__ import annotations

import importlib.util
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from study_helpers import Heard, deadly, run_here, study_of

from tokensieve.core.errors import ModelError, StudyError
from tokensieve.core.study.executors import (
    ATTEMPTS,
    Events,
    ExecutorName,
    Queue,
    Setting,
    default_workers,
    find_executor,
    local,
)
from tokensieve.core.study.executors.cores import usable_cores
from tokensieve.core.study.executors.local import layout
from tokensieve.core.study.executors.ray import _Team as Team
from tokensieve.core.study.executors.ray import connect
from tokensieve.core.study.executors.slurm import RunShare, shares
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


def with_how(cells: Sequence[PlannedCell], **changes: Any) -> list[PlannedCell]:
    return [replace(cell, how=replace(cell.how, **changes)) for cell in cells]


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


def test_a_process_that_never_starts_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "serve", slice)  # takes three arguments and ends
    with pytest.raises(StudyError, match=r"worker processes cannot start \(exit code 0\)"):
        run_study(study_of(), tmp_path, Heard().reports())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said_before_anything_runs(tmp_path: Path) -> None:
    study = study_of(models=[{"model": "tiny-llava", "device": "cuda"}])
    heard = Heard()
    with pytest.raises(ModelError, match="device 'cuda' is not available on this machine"):
        run_study(study, tmp_path, heard.reports())
    assert heard.statuses == []


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

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 4.0}


def test_a_cluster_that_is_there_is_used_before_one_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
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


def test_a_cluster_that_was_named_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting, ray = Setting(workers=1, out=tmp_path), FakeRay()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = "{}:{}".format(*listener.getsockname())
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(StudyError, match=rf"RAY_ADDRESS={address}: no Ray cluster can .*refus"):
            connect(ray, setting)  # nobody listens
        assert not ray.started
        listener.listen()
        assert connect(ray, setting)
    assert [options["address"] for options in ray.started] == [address]
    monkeypatch.setenv("RAY_ADDRESS", "auto")  # asks for one that is there
    with pytest.raises(StudyError, match=r"RAY_ADDRESS=auto: no Ray cluster can"):
        connect(ray, setting)


def test_a_cluster_that_does_not_start_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def fail(address: str, **options: Any) -> None:
        raise ConnectionError if address == "auto" else Exception("timed out during startup\nmore")

    ray = FakeRay()
    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(StudyError, match=r"Ray cannot start \(timed out during startup\)$"):
        connect(ray, Setting(workers=1, out=tmp_path))


def test_a_cluster_without_gpus_is_said(tmp_path: Path) -> None:
    """An actor that wants one would wait for ever."""
    cells = with_how(study_of().cells, device="cuda")
    events = Events(lambda cell, samples: None, lambda cell, result: None, print)
    with pytest.raises(StudyError, match="the Ray cluster has no GPU"):
        Team(FakeRay(running=True), cells, events, Setting(workers=1, out=tmp_path))


def test_a_missing_package_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, extra in [("ray", ExecutorName.RAY), ("submitit", ExecutorName.SLURM)]:
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(StudyError, match=rf"needs {name}: pip install 'tokensieve\[{extra}\]"):
            run_study(study_of(), tmp_path, Heard().reports(), executor=extra)
    assert list(tmp_path.iterdir()) == []
    assert find_executor(ExecutorName.LOCAL)


# ---------------------------------------------------------------------- slurm


class FakeJob:
    """Runs when it is asked whether it is done; the first one is killed half way."""

    def __init__(self, number: int, function: Any, arguments: tuple[Any, ...]) -> None:
        self.job_id, self.function, self.arguments = str(number), function, arguments
        self.cancelled = False

    def done(self) -> bool:
        cells, out = self.arguments
        self.function(cells[:1] if self.job_id == "0" else cells, out)
        return True

    def exception(self) -> Exception | None:
        return RuntimeError("a long log\npreempted") if self.job_id == "0" else None

    def cancel(self, check: bool) -> None:
        self.cancelled = True


@dataclass
class FakeSubmitit:
    """What the executor needs of submitit; ``cluster`` is what it finds by itself."""

    cluster: str = "slurm"
    seen: dict[str, Any] = field(default_factory=dict)
    jobs: list[FakeJob] = field(default_factory=list)

    def AutoExecutor(self, folder: str, cluster: str | None) -> FakeSubmitit:
        self.seen["folder"], self.cluster = folder, cluster or self.cluster
        return self

    def update_parameters(self, **parameters: Any) -> None:
        if "nonsense" in parameters:
            raise NameError("Parameter 'nonsense' need to be prefixed\nKnown executors: ...")
        self.seen.update(parameters)

    def map_array(self, function: Any, *arguments: Sequence[Any]) -> list[FakeJob]:
        calls = list(zip(*arguments, strict=True))
        self.jobs = [FakeJob(number, function, call) for number, call in enumerate(calls)]
        return self.jobs


@pytest.fixture
def submitit(monkeypatch: pytest.MonkeyPatch) -> FakeSubmitit:
    """A stand-in: no cluster here."""
    fake: Any = FakeSubmitit()
    monkeypatch.setitem(sys.modules, "submitit", fake)
    return fake


def run_slurm(out: Path, heard: Heard, **options: Any) -> tuple[Study, list[Cell]]:
    study = study_of(slurm=options)
    cells = run_study(study, out, heard.reports(), executor=ExecutorName.SLURM, workers=2)
    return study, cells


def test_slurm_jobs_write_cells_themselves(tmp_path: Path, submitit: FakeSubmitit) -> None:
    heard = Heard()
    study, cells = run_slurm(tmp_path, heard, slurm_partition="gpu", timeout_min=5)
    assert submitit.seen["folder"] == str(tmp_path / "slurm")
    assert (submitit.seen["slurm_partition"], submitit.seen["timeout_min"]) == ("gpu", 5)
    assert submitit.seen["gpus_per_node"] == 0
    failed = [cell for cell in cells if cell.status == "failed"]
    assert {cell.error for cell in failed} == {"the Slurm job 0 ended early: preempted"}
    first = submitit.jobs[0].arguments[0]
    assert len(failed) == len(first) - 1
    assert len(cells) == len(heard.statuses) == len(study.cells)
    assert all(heard.ticks[cell.key] == cell.samples for cell in heard.pending)
    assert not any(job.cancelled for job in submitit.jobs)


def test_a_job_that_is_tried_again_runs_what_is_missing(tmp_path: Path) -> None:
    cells = study_of().cells[:2]
    assert RunShare()(cells[:1], str(tmp_path)) == 1
    assert RunShare()(cells, str(tmp_path)) == 1
    assert RunShare()(cells, str(tmp_path)) == 0


def test_jobs_are_cancelled_when_the_study_is_stopped(
    tmp_path: Path, submitit: FakeSubmitit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(job: FakeJob) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(FakeJob, "done", stop)
    with pytest.raises(KeyboardInterrupt):
        run_slurm(tmp_path, Heard())
    assert submitit.jobs
    assert all(job.cancelled for job in submitit.jobs)


def test_no_slurm_and_wrong_options_are_one_line(tmp_path: Path, submitit: FakeSubmitit) -> None:
    with pytest.raises(StudyError, match=r"--executor slurm: Parameter 'nonsense' need.*prefixed$"):
        run_slurm(tmp_path, Heard(), nonsense=1)
    submitit.cluster = "local"  # what submitit finds where there is no Slurm
    with pytest.raises(StudyError, match="there is no Slurm here"):
        run_slurm(tmp_path, Heard())


def test_submitit_runs_a_study_as_processes(tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="pip install 'tokensieve[slurm]'")
    heard = Heard()
    study, cells = run_slurm(tmp_path, heard, cluster="local")
    assert [cell.status for cell in cells] == ["done"] * len(study.cells)
    assert len(heard.statuses) == len(study.cells)
