"""Cells on disk are whole or not there; what was spoilt is named and run again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from study_helpers import study_of

from tokensieve.core.errors import StudyError
from tokensieve.core.study.grid import PlannedCell
from tokensieve.core.study.store import CellResult, CorruptCell, Store, unfinished


@pytest.fixture(scope="module")
def cells() -> list[PlannedCell]:
    return list(study_of().cells)


def result_of(cell: PlannedCell, **changes: Any) -> CellResult:
    records = [{"id": str(number), "score": 0.5} for number in range(3)]
    facts = {"config": cell.config, "status": "done", "summary": {"samples": 3}, **changes}
    return CellResult(cell.key, facts, {"samples.jsonl": records})


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
    assert len(store.cells()) == 1
    store.sweep()
    assert [path.name for path in store.folder.iterdir()] == [cells[0].key]


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
