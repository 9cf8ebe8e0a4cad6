"""Cells on a Ray cluster and as Slurm jobs: none is lost with its actor or its job."""

from __future__ import annotations

import importlib.util
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from study_helpers import Heard, deadly_study, study_of, with_how

from tokensieve.core.errors import StudyError
from tokensieve.core.study.executors import (
    ExecutorName,
    ExecutorOptions,
    ProgressListener,
    find_executor,
)
from tokensieve.core.study.executors.ray import _Team as Team
from tokensieve.core.study.executors.ray import connect
from tokensieve.core.study.executors.slurm import RunShare
from tokensieve.core.study.running import Study, run_study
from tokensieve.core.study.store.store import Cell

WITHOUT_RAY = importlib.util.find_spec("ray") is None
REASON = "ray is not installed (pip install 'tokensieve[ray]')"


@pytest.mark.skipif(WITHOUT_RAY, reason=REASON)
@pytest.mark.filterwarnings("ignore")
def test_ray_runs_all_cells_though_an_actor_is_killed(tmp_path: Path) -> None:
    """The actor kills itself in the middle of a cell; a new one finishes it."""
    heard = Heard()
    cells = run_study(
        deadly_study(tmp_path),
        tmp_path / "out",
        heard,
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
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))  # none is noted
    own = ExecutorOptions(workers=3, out=tmp_path)
    inside = FakeRay(running=True)
    assert not connect(inside, own)
    assert not inside.started
    for cluster, address in [(True, "auto"), (False, "local")]:
        ray = FakeRay(cluster=cluster)
        assert connect(ray, own)
        (options,) = ray.started
        assert options["address"] == address
        assert options.get("num_cpus", 3) >= 3


def test_a_cluster_that_was_named_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, ray = ExecutorOptions(workers=1, out=tmp_path), FakeRay()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = "{}:{}".format(*listener.getsockname())
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(StudyError, match=rf"RAY_ADDRESS={address}: no Ray cluster can .*refus"):
            connect(ray, options)  # nobody listens
        assert not ray.started
        listener.listen()
        assert connect(ray, options)
    assert [options["address"] for options in ray.started] == [address]
    monkeypatch.setenv("RAY_ADDRESS", "auto")  # asks for one that is there
    with pytest.raises(StudyError, match=r"RAY_ADDRESS=auto: no Ray cluster can"):
        connect(ray, options)


def test_a_cluster_that_was_killed_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray still notes it, and would try for minutes."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = "{}:{}".format(*listener.getsockname())
        (tmp_path / "ray/ray_current_cluster").write_text(address)
        ray = FakeRay(cluster=True)
        assert connect(ray, ExecutorOptions(workers=1, out=tmp_path))
        listener.listen()
        assert connect(ray, ExecutorOptions(workers=1, out=tmp_path))
    assert [options["address"] for options in ray.started] == ["local", "auto"]


def test_a_cluster_that_does_not_start_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def fail(address: str, **options: Any) -> None:
        raise ConnectionError if address == "auto" else Exception("timed out during startup\nmore")

    ray = FakeRay()
    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(StudyError, match=r"Ray cannot start \(timed out during startup\)$"):
        connect(ray, ExecutorOptions(workers=1, out=tmp_path))


def test_a_cluster_without_gpus_is_said(tmp_path: Path) -> None:
    """An actor that wants one would wait for ever."""
    cells = with_how(study_of().cells, device="cuda")
    with pytest.raises(StudyError, match="the Ray cluster has no GPU"):
        Team(
            FakeRay(running=True),
            cells,
            ProgressListener(),
            ExecutorOptions(workers=1, out=tmp_path),
        )


def test_a_missing_package_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, extra in [("ray", ExecutorName.RAY), ("submitit", ExecutorName.SLURM)]:
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(StudyError, match=rf"needs {name}: pip install 'tokensieve\[{extra}\]"):
            run_study(study_of(), tmp_path, Heard(), executor=extra)
    assert list(tmp_path.iterdir()) == []
    assert find_executor(ExecutorName.LOCAL)


# ---------------------------------------------------------------------- slurm


class FakeJob:
    """Runs when it is asked whether it is done; the first one is killed half way."""

    def __init__(self, number: int, function: Any, arguments: tuple[Any, ...]) -> None:
        self.job_id, self.function, self.arguments = str(number), function, arguments
        self.canceled = False

    def done(self) -> bool:
        cells, out = self.arguments
        self.function(cells[:1] if self.job_id == "0" else cells, out)
        return True

    def exception(self) -> Exception | None:
        return RuntimeError("a long log\npreempted") if self.job_id == "0" else None

    def cancel(self, check: bool) -> None:
        self.canceled = True


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
    fake = FakeSubmitit()
    module: Any = fake
    monkeypatch.setitem(sys.modules, "submitit", module)
    return fake


def run_slurm(out: Path, heard: Heard, **options: Any) -> tuple[Study, list[Cell]]:
    study, slurm = study_of(slurm={"partition": "gpu", "time": "00:04:30"}), ExecutorName.SLURM
    cells = run_study(study, out, heard, executor=slurm, workers=2, options=options)
    return study, cells


def test_slurm_jobs_write_cells_themselves(tmp_path: Path, submitit: FakeSubmitit) -> None:
    heard = Heard()
    study, cells = run_slurm(tmp_path, heard, slurm_comment="mine")
    assert submitit.seen["folder"] == str(tmp_path / "slurm")
    assert (submitit.seen["slurm_partition"], submitit.seen["timeout_min"]) == ("gpu", 5)
    assert submitit.seen["slurm_comment"] == "mine"  # from the command line
    assert submitit.seen["gpus_per_node"] == 0
    failed = [cell for cell in cells if cell.status == "failed"]
    assert {cell.error for cell in failed} == {"the Slurm job 0 ended early: preempted"}
    first = submitit.jobs[0].arguments[0]
    assert len(failed) == len(first) - 1
    assert len(cells) == len(heard.statuses) == len(study.cells)
    assert all(heard.ticks[cell.key] == cell.samples for cell in heard.pending)
    assert not any(job.canceled for job in submitit.jobs)


def test_a_job_that_is_tried_again_runs_what_is_missing(tmp_path: Path) -> None:
    cells = study_of().cells[:2]
    assert RunShare()(cells[:1], str(tmp_path)) == 1
    assert RunShare()(cells, str(tmp_path)) == 1
    assert RunShare()(cells, str(tmp_path)) == 0


def test_jobs_are_canceled_when_the_study_is_stopped(
    tmp_path: Path, submitit: FakeSubmitit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(job: FakeJob) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(FakeJob, "done", stop)
    with pytest.raises(KeyboardInterrupt):
        run_slurm(tmp_path, Heard())
    assert submitit.jobs
    assert all(job.canceled for job in submitit.jobs)


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
