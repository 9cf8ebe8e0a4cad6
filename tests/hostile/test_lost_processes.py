"""Nothing is lost in real processes: signals at many moments, odd surroundings."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from command_line import clear
from study_helpers import SMALL
from synthetic_study import Planted, write_study

from tokensieve.core.output.stopping import alive, descendants
from tokensieve.core.study.store.store import Store

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes in /proc")

COMMAND = [sys.executable, "-m", "tokensieve"]
SECONDS = 120  # until something is taken for hanging
SOON = 2.0  # seconds within which a command has to stop
STUDY = ["study", "small.yaml", "--out", "out", "--workers", "2"]


@dataclass
class Running:
    """A command, and the processes that it was seen to have."""

    process: subprocess.Popen[str]
    folder: Path
    others: set[int] = field(default_factory=set)

    def listens(self) -> bool:
        """Whether it takes Ctrl-C."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        caught = next(line.split()[1] for line in lines if line.startswith("SigCgt"))
        return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)

    def holds(self, library: str, pid: int | None = None) -> bool:
        """Whether a library is there."""
        try:
            return library in Path(f"/proc/{pid or self.process.pid}/maps").read_text()
        except OSError:
            return False

    def children(self) -> int:
        self.others.update(descendants(self.process.pid))
        return len(self.others)

    def cells(self) -> int:
        return len(Store(self.folder / "out").cells(every=True))


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[Running]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*COMMAND, *arguments], cwd=folder, env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    started = Running(process, folder)
    try:
        yield started
    finally:
        process.kill()
        process.communicate()


MOMENTS: dict[str, tuple[list[str], Callable[[Running], bool]]] = {
    "at once": (STUDY, lambda run: run.listens()),
    "libraries are imported": (["run"], lambda run: run.holds("libtorch")),
    "workers start": (STUDY, lambda run: run.children() >= 1),
    "workers import": (STUDY, lambda run: run.children() >= 2
                       and any(run.holds("libtorch", pid) for pid in run.others)),
    "cells run": (STUDY, lambda run: run.children() >= 2 and run.cells() >= 1),
    "a model answers": (["run", "--repeats", "500"], lambda run: run.holds("libtorch_cpu")
                        and run.holds("tokenizers")),
    "a report is drawn": (["report", "planted"], lambda run: run.holds("ft2font")),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("processes")
    tasks = [{"task": "digits", "samples": 8}]
    study = {**SMALL, "tasks": tasks, "pipelines": ["fastv", "transprune"]}
    (place / "small.yaml").write_text(yaml.safe_dump(study))
    planted = Planted({"a": 0.6}, {"digits": 0.0}, {"random": 0.0, "own": 0.2}, 60)
    write_study(place / "planted", planted)
    (place / "planted" / "study.yaml").write_text("claims: []\n")
    return place


@pytest.mark.parametrize(
    ("moment", "number", "group"),
    [
        ("at once", signal.SIGINT, True),
        ("at once", signal.SIGTERM, False),
        ("libraries are imported", signal.SIGINT, True),
        ("workers start", signal.SIGINT, True),
        ("workers start", signal.SIGTERM, False),
        ("workers import", signal.SIGINT, True),
        ("cells run", signal.SIGINT, True),
        ("a model answers", signal.SIGINT, True),
        ("a report is drawn", signal.SIGINT, True),
    ],
    ids=str,
)
def test_a_signal_stops_it_soon(
    moment: str, number: signal.Signals, group: bool, folder: Path
) -> None:
    """Ctrl-C goes to the whole group of a terminal, SIGTERM to the process alone."""
    arguments, there = MOMENTS[moment]
    with running(folder, *arguments) as run:
        end = time.monotonic() + SECONDS
        while not (run.listens() and there(run)):
            assert run.process.poll() is None, run.process.communicate()
            assert time.monotonic() < end, "it never came to that"
            time.sleep(0.002)
        run.children()
        cells = {cell.key for cell in Store(folder / "out").cells(every=True)}
        asked = time.monotonic()
        (os.killpg if group else os.kill)(run.process.pid, number)
        out, err = run.process.communicate(timeout=SECONDS)
        took = time.monotonic() - asked
    assert run.process.returncode == 128 + number
    lines = [line for line in err.splitlines() if not line.startswith("[")]
    assert len(lines) == 1, err
    assert lines[0].startswith("stopped")
    assert out == ""
    assert took < SOON
    assert not list(filter(alive, run.others))
    kept = {cell.key for cell in Store(folder / "out").cells(every=True)}
    assert cells <= kept
    if moment == "cells run":
        assert "the same command goes on where it was (out)" in lines[0]


def ended(
    folder: Path, shell: str, seconds: float = SECONDS, **variables: str
) -> subprocess.CompletedProcess[str]:
    """What a shell says; ``$T`` is the command."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "T": " ".join(COMMAND), **variables}
    return subprocess.run(
        ["bash", "-c", shell], cwd=folder, env=environment, text=True, capture_output=True,
        timeout=seconds, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("shell", "code", "says"),
    [
        ("$T list > /dev/full", 2, "standard output cannot be written: No space left on device"),
        ("$T schema > /dev/full", 2, "standard output cannot be written: No space left"),
        ("$T list 2> /dev/full > /dev/full", 2, ""),
        ("$T validate nothing 2> /dev/full", 2, ""),
        ("set -o pipefail; $T schema | head -1", 0, ""),
        ("set -o pipefail; $T list | true", 0, ""),
        ("$T list >&-", 0, ""),
        ("$T list <&- >&- 2>&-", 0, ""),
        ("$T validate nothing 2>&-", 2, ""),
        ("mkdir -p gone && cd gone && rmdir ../gone && $T list", 2, "does not exist any more"),
        ("PYTHONIOENCODING=ascii $T list", 0, ""),
        ("LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 $T list", 0, ""),
        ("LC_ALL=POSIX $T show fastv", 0, ""),
        ("HOME=/dev/null/x HF_HOME=/dev/null/y HF_HUB_OFFLINE=1 $T run --model a/b", 2, "'a/b'"),
        ("HOME=/dev/null/x $T report planted --out r.html", 0, ""),
        ("env -u HOME $T list", 0, ""),
        ("TMPDIR=/dev/null $T validate fastv", 0, ""),
        ("COLUMNS=0 $T list", 0, ""),
        ("COLUMNS=x $T list", 0, ""),
        (
            "ulimit -f 0; COVERAGE_PROCESS_START= $T report planted --out r2.html",
            2,
            "cannot be written: File too large",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and value.count("$T") else "",
)
def test_odd_surroundings(shell: str, code: int, says: str, folder: Path) -> None:
    done = ended(folder, shell)
    assert done.returncode == code, done.stderr
    if says:
        clear(done.stderr)
        assert says in done.stderr
        assert done.stdout == ""
    else:
        assert done.stderr == ""
    assert not list(folder.glob("*.part"))
    assert not (folder / "r2.html").exists()


def test_ctrl_c_counts_where_a_script_had_it_ignored(folder: Path) -> None:
    """Shells start what stands before an ``&`` with it ignored; nobody could stop that."""
    done = ended(folder, "$T run --repeats 500 & sleep 1; kill -INT $!; wait $!")
    assert done.returncode == 130
    assert done.stderr == "stopped\n"
