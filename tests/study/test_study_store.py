"""Cells on disk are whole or not there; what was spoilt is named and run again."""

from __future__ import annotations

import errno
import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from study_helpers import study_of

from tokensieve.core.errors import StudyError
from tokensieve.core.study.plan.records import PlannedCell
from tokensieve.core.study.store import disk
from tokensieve.core.study.store.flaws import CorruptCell
from tokensieve.core.study.store.records import CellDocument
from tokensieve.core.study.store.store import CellResult, Store, unfinished

KILLS = 4


@pytest.fixture(scope="module")
def cells() -> list[PlannedCell]:
    return list(study_of(tasks=[{"task": "digits", "samples": 3}]).cells)


def result_of(cell: PlannedCell, **changes: Any) -> CellResult:
    records: list[Any] = [{"id": str(number), "score": 0.5} for number in range(3)]
    facts = {"config": cell.config, "status": "done", "summary": {"samples": 3}, **changes}
    document = CellDocument.model_validate(facts)
    return CellResult(cell.key, document, {"samples.jsonl": records})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "study")


def test_a_cell_is_read_as_it_was_written(store: Store, cells: list[PlannedCell]) -> None:
    store.write(result_of(cells[0]))
    (cell,) = store.cells()
    assert (cell.key, cell.config, cell.status) == (cells[0].key, cells[0].config, "done")
    assert [sample["id"] for sample in cell.samples] == ["0", "1", "2"]
    assert cell.anatomy == []
    assert cell.title == cells[0].title
    assert [path.name for path in store.folder.iterdir()] == [cell.key]


def test_writing_again_replaces(store: Store, cells: list[PlannedCell]) -> None:
    store.write(result_of(cells[0], status="failed", error="no"))
    store.write(result_of(cells[0]))
    (cell,) = store.cells()
    assert cell.status == "done"
    assert len(list(store.folder.iterdir())) == 1


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def _file_instead(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("")


SPOIL = {
    "cut samples": lambda folder: _cut(folder / "samples.jsonl"),
    "changed sample": lambda folder: _edit(folder / "samples.jsonl", "0.5", "0.9"),
    "lost samples": lambda folder: (folder / "samples.jsonl").unlink(),
    "cut cell": lambda folder: _cut(folder / "cell.json"),
    "empty cell": lambda folder: (folder / "cell.json").write_text(""),
    "list": lambda folder: (folder / "cell.json").write_text("[]"),
    "lost cell": lambda folder: (folder / "cell.json").unlink(),
    "changed status": lambda folder: _edit(folder / "cell.json", '"done"', '"unmet"'),
    "changed config": lambda folder: _edit(folder / "cell.json", '"seed": 0', '"seed": 1'),
    "other format": lambda folder: _edit(folder / "cell.json", '"format": 1', '"format": 2'),
    "file instead": _file_instead,
    "other key": lambda folder: folder.rename(folder.parent / ("0" * 16)),
}


@pytest.mark.parametrize("case", SPOIL)
def test_a_corrupt_cell_is_named_and_left_out(
    case: str, store: Store, cells: list[PlannedCell], capsys: pytest.CaptureFixture[str]
) -> None:
    for cell in cells[:2]:
        store.write(result_of(cell))
    SPOIL[case](store.folder / cells[0].key)
    spoilt = "0" * 16 if case == "other key" else cells[0].key
    with pytest.raises(CorruptCell, match=spoilt):
        store.read(spoilt)
    assert [cell.key for cell in store.cells()] == [cells[1].key]
    (line,) = capsys.readouterr().err.splitlines()
    assert spoilt in line
    assert "corrupt" in line
    store.discard(spoilt)
    store.write(result_of(cells[0]))
    assert len(store.cells()) == 2
    assert not list(store.folder.glob(".*"))


def test_another_format_is_said(store: Store, cells: list[PlannedCell]) -> None:
    store.write(result_of(cells[0]))
    SPOIL["other format"](store.folder / cells[0].key)
    with pytest.raises(CorruptCell, match="format 2, not 1"):
        store.read(cells[0].key)


def test_failed_and_corrupt_cells_are_run_again(store: Store, cells: list[PlannedCell]) -> None:
    store.write(result_of(cells[0]))
    store.write(result_of(cells[1], status="failed", error="boom"))
    store.write(result_of(cells[2], status="unmet", error="too deep"))
    store.write(result_of(cells[3]))
    SPOIL["cut samples"](store.folder / cells[3].key)
    said: list[str] = []
    pending, there = unfinished(store, [cell.key for cell in cells], said.append)
    expected = [cell.key for cell in cells if cell.key not in (cells[0].key, cells[2].key)]
    assert pending == expected
    assert set(there) == {cells[0].key, cells[2].key}
    (line,) = said
    assert cells[3].key in line


def test_half_written_cells_are_no_cells_and_are_swept(
    store: Store, cells: list[PlannedCell]
) -> None:
    store.write(result_of(cells[0]))
    part = store.folder / f".{cells[1].key}.999.part"
    part.mkdir()
    (part / "samples.jsonl").write_text("{")
    (store.path / ".manifest.json.999.part").write_text("{")
    assert len(store.cells()) == 1
    store.sweep()
    assert [path.name for path in store.folder.iterdir()] == [cells[0].key]
    assert [path.name for path in store.path.iterdir()] == ["cells"]


@pytest.mark.parametrize("step", ["write", "put"])
def test_a_full_disk_is_said_and_leaves_nothing(
    step: str, store: Store, cells: list[PlannedCell], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*paths: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk, step, full)
    with pytest.raises(StudyError, match=r"--out .*: cannot be written: No space left on device"):
        store.write(result_of(cells[0]))
    assert list(store.folder.iterdir()) == []


def test_a_folder_that_is_swept_meanwhile_gets_its_cell(
    store: Store, cells: list[PlannedCell], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Slurm job writes while the study is started again."""
    put, sweeps = disk.put, iter([True, False])

    def swept(part: Path, final: Path) -> None:
        if next(sweeps):
            store.sweep()
        put(part, final)

    monkeypatch.setattr(disk, "put", swept)
    store.write(result_of(cells[0]))
    assert [cell.key for cell in store.cells()] == [cells[0].key]


def test_only_the_cells_of_the_last_start_belong_to_the_study(
    store: Store, cells: list[PlannedCell]
) -> None:
    for cell in cells[:3]:
        store.write(result_of(cell))
    store.write_file("manifest.json", json.dumps({"cells": [cells[1].key, cells[4].key]}))
    assert [cell.key for cell in store.cells()] == [cells[1].key]
    assert len(store.cells(every=True)) == 3


def test_a_folder_takes_one_study_at_a_time(store: Store) -> None:
    with store.locked(), pytest.raises(StudyError, match="another study is running"):
        with Store(store.path).locked():
            pass
    with store.locked():
        pass


def test_a_file_in_the_way_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="cannot be written"):
        with Store(tmp_path / "file" / "deep").locked():
            pass


WRITER = """
import sys
from tokensieve.core.study.plan.keys import key_of
from tokensieve.core.study.store.records import CellDocument
from tokensieve.core.study.store.store import CellResult, Store

def config_of(seed):
    task = {"name": "t", "samples": 200}
    named = {"model": {"name": "m"}, "task": task, "pipeline": {"name": "p"}}
    return {**named, "kind": "accuracy", "budget": None, "seed": seed}

store = Store(sys.argv[1])
with store.locked():
    store.sweep()
    print("go", flush=True)
    for number in range(10**9):
        config = config_of(number % 7)
        records = [{"id": str(sample), "number": number, "score": 0} for sample in range(200)]
        facts = {"config": config, "status": "done", "number": number}
        document = CellDocument.model_validate(facts)
        store.write(CellResult(key_of(config), document, {"samples.jsonl": records}))
        store.write_file("manifest.json", '{"number": %d}' % number)
        if number % 3 == 0:
            store.discard(key_of(config_of(number % 5)))
"""


def test_kill_9_at_any_moment_leaves_whole_cells_and_no_lock(store: Store) -> None:
    """Cells and manifest are written, replaced and removed as fast as it goes, and it is killed."""
    chance, seen = random.Random(5), 0
    for _ in range(KILLS):
        command = [sys.executable, "-c", WRITER, str(store.path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"go\n"  # so the lock of the one before is gone
            time.sleep(chance.uniform(0, 0.2))
            process.kill()
        complaints: list[str] = []
        for cell in store.cells(every=True, say=complaints.append):
            assert {sample["number"] for sample in cell.samples} == {cell.data["number"]}
            assert len(cell.samples) == 200
            seen += 1
        assert complaints == []
        text = store.path / "manifest.json"
        assert not text.exists() or json.loads(text.read_text())["number"] >= 0
    with store.locked():
        store.sweep()
    assert seen
    assert not list(store.path.rglob("*.part"))
