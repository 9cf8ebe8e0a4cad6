"""``tokensieve study`` as a person calls it: plan, run, kill, resume, fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from command_line import Call, one_line
from study_helpers import RAISING, SMALL, in_process, run_here, study_of

from tokensieve.core.cli.study_progress import StudyProgress
from tokensieve.core.cli.study_report import _accuracy as accuracy_of
from tokensieve.core.study.plan.records import PlannedCell
from tokensieve.core.study.store.records import CellDocument, Summary
from tokensieve.core.study.store.store import Cell, CellResult, Store
from tokensieve.core.templates import chat as chat_templates

SECONDS = 300  # until something is taken for hanging


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Nine cells, the last of which fails."""
    (tmp_path / "raising.py").write_text(RAISING)
    mine = {"pipeline": {"at": 1, "score": "raising", "keep": 9}, "name": "mine"}
    path = tmp_path / "small.yaml"
    tasks = [{"task": "digits", "samples": 16}]
    study = {**SMALL, "tasks": tasks, "pipelines": ["fastv", "transprune", mine]}
    path.write_text(yaml.safe_dump(study))
    return path


def options(file: Path, out: Path) -> list[str]:
    plugin = str(file.parent / "raising.py")
    return ["study", str(file), "--out", str(out), "--workers", "1", "--plugin", plugin]


def descendants_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(child) for task in tasks for child in task.read_text().split()]
    return [*children, *(found for child in children for found in descendants_of(child))]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


def finished(store: Store) -> int:
    return len(store.cells(every=True))


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes in /proc")
def test_a_killed_study_goes_on_where_it_was(file: Path, tmp_path: Path, call: Call) -> None:
    store = Store(tmp_path / "out")
    command = [sys.executable, "-m", "tokensieve", *options(file, store.path)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=file.parent
    )
    wait_until(lambda: finished(store) >= 2)
    others = descendants_of(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert others
    wait_until(lambda: not any(map(alive, others)))  # nothing is left running
    kept = {cell.key: cell.path.stat().st_mtime_ns for cell in store.cells()}
    assert 2 <= len(kept) < 9

    shown = call(*options(file, store.path))
    cells = store.cells()
    assert len(cells) == 9
    assert f"{len(kept)} of 9 cells are there already" in shown.err
    assert all(c.path.stat().st_mtime_ns == kept[c.key] for c in cells if c.key in kept)
    assert not list(store.path.rglob("*.part"))

    assert shown.code == 1  # the failing cell; the others went on
    assert "9 cells: 8 done, 0 at another cost than asked for, 1 failed" in shown.out
    lines = shown.err.splitlines()
    number = next(n for n, line in enumerate(lines) if line.startswith("1 of 9 cells failed"))
    assert "cell.json" in lines[number]
    assert "mine" in lines[number + 1]
    assert "RuntimeError: the scorer has no idea" in lines[number + 1]
    rows = {line.split()[0]: line for line in shown.out.splitlines() if line.strip()}
    assert "%" in rows["fastv"]
    assert "failed" in rows["mine"]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes in /proc")
def test_ctrl_c_is_one_line_that_says_how_to_go_on(
    file: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The terminal sends it to all processes of the study."""
    store = Store(tmp_path / "out")
    done = StudyProgress.done

    def interrupted(progress: StudyProgress, cell: PlannedCell, result: CellResult) -> None:
        done(progress, cell, result)
        for pid in [*descendants_of(os.getpid()), os.getpid()]:
            os.kill(pid, signal.SIGINT)

    monkeypatch.setattr(StudyProgress, "done", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells may have it ignored
    try:
        shown = call(*options(file, store.path))
    finally:
        signal.signal(signal.SIGINT, before)
    assert shown.code == 130
    assert shown.out == ""
    lines = [line for line in shown.err.splitlines() if not line.startswith("[")]
    assert lines == [f"stopped; the same command goes on where it was ({store.path})"]
    assert finished(store) == 1
    assert not list(store.path.rglob("*.part"))


def test_a_study_ends_with_its_table_and_its_report(call: Call, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    shown = call("study", "small.yaml", "--workers", "1")
    assert shown.code == 0
    assert "fastv" in shown.out
    html = Path("runs/small/report.html")
    assert shown.out.splitlines()[-1] == f"report: {html}"
    assert "fastv" in html.read_text()
    written = html.stat().st_mtime_ns
    again = call("study", "small.yaml", "--no-report")
    assert "fastv" in again.out
    assert "report" not in again.out
    assert html.stat().st_mtime_ns == written


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_without_the_packages_of_the_report_the_study_has_succeeded(
    package: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokensieve.core.study.running.find_executor", lambda name: in_process)
    chat_templates._environment()  # prompts need jinja2 before the report does
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    shown = call("study", "small.yaml")
    assert shown.code == 0
    assert "7 cells: 7 done" in shown.out
    (line,) = [line for line in shown.err.splitlines() if not line.startswith("[")]
    assert f"needs {package}: pip install 'tokensieve[report]'" in line
    assert "tokensieve report" in line


def test_some_failed_seeds_are_no_full_mean() -> None:
    def cell(status: str, accuracy: float | None) -> Cell:
        summary = {} if accuracy is None else {"accuracy": accuracy, "average_tokens": 40.0}
        means = Summary.model_validate(summary)
        return Cell(Path(), CellDocument.model_construct(status=status, summary=means))

    done, failed, unmet = cell("done", 0.5), cell("failed", None), cell("unmet", 0.7)
    assert accuracy_of([done, done]) == "50.0 %"
    assert accuracy_of([done, failed]) == "50.0 % (1 of 2 failed)"
    assert accuracy_of([failed, failed]) == "failed"
    assert accuracy_of([cell("unmet", None)]) == "impossible"
    assert accuracy_of([done, unmet]) == "60.0 % *[40.0]"


def test_dry_run_prints_the_grid_and_touches_nothing(call: Call, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(yaml.safe_dump({**SMALL, "budgets": [32, 16]}))
    shown = call("study", "small.yaml", "--dry-run")
    assert shown.code == 0
    rows = [line.split() for line in shown.out.splitlines()]
    assert ["tiny-llava", "digits", "random", "average=16", "3", "3", "18"] in [r[:7] for r in rows]
    assert "13 cells, 13 to run: 78 samples, about" in shown.out
    assert "estimated" in shown.out
    assert not (tmp_path / "runs").exists()


def test_a_study_without_a_file(call: Call) -> None:
    options = ["--model-id", "tiny-llava", "--task", "digits", "--pipeline", "fastv", "--dry-run"]
    shown = call("study", *options, "--budget", "average=32", "--budget", "0.2", "--samples", "5")
    assert shown.code == 0
    assert "13 cells, 13 to run: 65 samples" in shown.out
    assert "share=0.2" in shown.out


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ([], ["--model-id is missing"]),
        (["--model-id", "tiny-llava"], ["--task is missing"]),
        (["--model-id", "tiny-lava", "--task", "digits"], ["<options>: models[0]: unknown model"]),
        (["--model-id", "tiny-llava", "--task", "digitz"], ["tasks[0]: unknown task 'digitz'"]),
        (["no.yaml"], ["no.yaml: cannot be read: No such file"]),
        (["bad.yaml"], ["bad.yaml:2:10: budgets: impossible budget"]),
        (["bad.yaml", "--task", "digits"], ["give a FILE.yaml, or --model-id"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_one_line(
    options: list[str], parts: list[str], call: Call, tmp_path: Path
) -> None:
    (tmp_path / "bad.yaml").write_text("models: tiny-llava\nbudgets: -1.5\ntasks: digits\n")
    one_line(call("study", *options), *parts)


def test_what_was_measured_is_estimated_from_it(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_here(study_of(), tmp_path / "out", monkeypatch)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump({**SMALL, "budgets": [32, 40]}))
    shown = call("study", "small.yaml", "--out", "out", "--dry-run")
    rows = [line.split() for line in shown.out.splitlines()]
    (fastv,) = [row for row in rows if row[2:4] == ["fastv", "average=40"]]
    assert (fastv[5], fastv[-1]) == ("1", "measured")
    (none,) = [row for row in rows if "none" in row]
    assert none[4] == "0"


def test_a_folder_in_use_is_one_line(call: Call, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    with Store(tmp_path / "out").locked():
        one_line(call("study", "small.yaml", "--out", "out"), "another study is running there")


def test_tasks_are_listed(call: Call) -> None:
    shown = call("list", "tasks")
    assert shown.code == 0
    (line,) = [line for line in shown.out.splitlines() if " digits " in line]
    assert line.split()[0] == "task"
    assert line.rstrip().endswith("tokensieve")
