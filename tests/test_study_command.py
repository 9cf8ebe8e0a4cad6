"""``tokensieve study`` as a person calls it: plan, run, kill, resume, fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from command_line import Call, one_line
from study_helpers import RAISING, SMALL

from tokensieve.core.study.store import Store

SECONDS = 300  # until something is taken for hanging


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Seven cells, the last of which fails."""
    (tmp_path / "raising.py").write_text(RAISING)
    mine = {"pipeline": {"at": 1, "score": "raising", "keep": 9}, "name": "mine"}
    path = tmp_path / "small.yaml"
    tasks = [{"task": "digits", "samples": 16}]
    study = {**SMALL, "tasks": tasks, "pipelines": ["fastv", "transprune", mine]}
    path.write_text(yaml.safe_dump(study))
    return path


def start(file: Path, out: Path) -> subprocess.Popen[str]:
    options = ["--out", str(out), "--workers", "1", "--plugin", str(file.parent / "raising.py")]
    command = [sys.executable, "-m", "tokensieve", "study", str(file), *options]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=file.parent
    )


def children_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until(condition: object) -> None:
    assert callable(condition)
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes in /proc")
def test_a_killed_study_goes_on_where_it_was(file: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "out")
    process = start(file, store.path)
    wait_until(lambda: len(store.cells(every=True)) >= 2)
    workers = children_of(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    wait_until(lambda: not any(map(alive, workers)))  # nothing is left running
    kept = {cell.key: cell.path.stat().st_mtime_ns for cell in store.cells()}
    assert 2 <= len(kept) < 9

    again = start(file, store.path)
    out, said = again.communicate(timeout=SECONDS)
    cells = store.cells()
    assert len(cells) == 9
    assert f"{len(kept)} of 9 cells are there already" in said
    assert all(c.path.stat().st_mtime_ns == kept[c.key] for c in cells if c.key in kept)
    assert not list(store.folder.glob(".*"))

    assert again.returncode == 1  # the failing cell; the others went on
    assert "9 cells: 8 done, 0 at another cost than asked for, 1 failed" in out
    (line,) = [line for line in said.splitlines() if "cells failed" in line]
    assert line.startswith("1 of 9 cells failed: RuntimeError")
    assert "mine" in line
    assert "RuntimeError: the scorer has no idea" in line
    rows = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert "%" in rows["fastv"]
    assert "failed" in rows["mine"]


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
        (["--model-id", "tiny-llava", "--task", "digit"], ["tasks[0]: unknown task 'digit'"]),
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
