"""Nothing is lost: files are written whole, or what was there stays and one line says why."""

from __future__ import annotations

import errno
import os
import resource
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import Call, clear, one_line
from study_helpers import study_of
from writers import writes

from tokensieve.core.errors import StudyError
from tokensieve.core.files.whole import save, write_whole
from tokensieve.core.report import page
from tokensieve.core.study.store.records import CellDocument
from tokensieve.core.study.store.store import CellResult, Store

CORE = Path(__file__).parents[2] / "core"
ELSEWHERE = {"checkpoints.py", "redraw.py", "plain.py"}
"""They write into temporary folders of their own, or open files to read them only."""
OLD, NEW = "old text\n" * 20, "new text\n" * 3000


def test_core_has_one_writer() -> None:
    found = {
        (path.name, call)
        for path in CORE.rglob("*.py")
        if path.name != "whole.py"
        for call in writes(path.read_text(encoding="utf-8"))
        if "os.devnull" not in call
    }
    (lock,) = [(file, call) for file, call in found if file not in ELSEWHERE]
    assert lock[0] == "disk.py" and "os.O_APPEND" in lock[1]  # opened to be held, never written to


@pytest.mark.parametrize(
    "source",
    [
        "open(path, 'w')", "open(path, mode='a')", "open(path, mode)", "path.open('w')",
        "path.open(mode='xb')", "path.open('r+')", "path.write_text(x)", "path.write_bytes(x)",
        "json.dump(x, stream)", "pickle.dump(x, stream)", "figure.savefig(path)",
        "picture.save(path)", "plt.imsave(path, x)", "model.save_pretrained(path)",
        "np.save(path, x)", "torch.save(x, path)", "shutil.copy(a, b)", "shutil.move(a, b)",
        "os.open(path, flags)", "os.replace(a, b)", "array.tofile(path)",
    ],
)  # fmt: skip
def test_another_writer_would_be_noticed(source: str) -> None:
    assert writes(source)


@pytest.mark.parametrize(
    "source",
    ["open(path)", "path.open('rb')", "b = io.BytesIO()\npicture.save(b)", "Image.open(path)"],
)
def test_readers_and_memory_are_no_writers(source: str) -> None:
    assert not writes(source)


def one_file(path: Path) -> None:
    save({path: NEW}, StudyError, "--out")


def first_of_two(path: Path) -> None:
    save({path: NEW, path.with_name("other.txt"): NEW}, StudyError, "--out")


def second_of_two(path: Path) -> None:
    save({path.with_name("other.txt"): NEW, path: NEW}, StudyError, "--out")


def in_study(path: Path) -> None:
    Store(path.parent).write_file(path.name, NEW)


WRITE: dict[str, Callable[[Path], None]] = {
    "one": one_file, "first": first_of_two, "second": second_of_two, "study": in_study,
}  # fmt: skip


def raising(error: int) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(error, os.strerror(error))

    return fail


STEPS = {"open": "open", "sync": "fsync", "appear": "replace"}
ERRORS = (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.EIO)


def assert_nothing_happened(folder: Path, target: Path) -> None:
    assert target.read_text() == OLD
    assert [path for path in folder.iterdir() if path.name != target.name] == []


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "file.txt").write_text(OLD)
    return tmp_path / "file.txt"


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("entry", WRITE)
def test_a_step_that_fails_leaves_the_old_file(
    entry: str, step: str, error: int, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, STEPS[step], raising(error))
    with pytest.raises(StudyError) as caught:
        WRITE[entry](target)
    monkeypatch.undo()
    clear(str(caught.value))
    assert os.strerror(error) in str(caught.value)
    assert str(target.parent) in str(caught.value)
    assert_nothing_happened(target.parent, target)


@pytest.mark.parametrize("room", [0, 1, 4096, 8192, len(NEW) - 1])
@pytest.mark.parametrize("entry", WRITE)
def test_a_disk_that_fills_leaves_the_old_file(entry: str, room: int, target: Path) -> None:
    """A real limit of the operating system: the file may grow to ``room`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(StudyError) as caught:
            WRITE[entry](target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    clear(str(caught.value))
    assert "cannot be written: File too large" in str(caught.value)
    assert_nothing_happened(target.parent, target)


def folder_there(place: Path) -> Path:
    (place / "x").mkdir()
    return place / "x"


def loop(place: Path) -> Path:
    (place / "x").symlink_to(place / "x")
    return place / "x"


def in_a_file(place: Path) -> Path:
    (place / "f").write_text("")
    return place / "f" / "x"


def pipe_without_reader(place: Path) -> Path:
    os.mkfifo(place / "x")
    return place / "x"


PLACES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "folder": (folder_there, "it is a folder"),
    "no parent": (lambda place: place / "no" / "x", "No such file"),
    "parent is a file": (in_a_file, "Not a directory"),
    "link to itself": (loop, "Too many levels of symbolic links"),
    "long name": (lambda place: place / ("n" * 300), "File name too long"),
    "NUL": (lambda place: place / "a\0b", "null"),
    "pipe that nobody reads": (pipe_without_reader, "No such device or address"),
    "full device": (lambda place: Path("/dev/full"), "No space left on device"),
    "half character": (lambda place: place / "a\ud83d", "surrogates not allowed"),
    "root": (lambda place: Path("/"), "it is a folder"),
    "process": (lambda place: Path("/proc/self/x"), "No such file"),
    "empty": (lambda place: Path(""), "it is a folder"),
}


@pytest.mark.parametrize("entry", ["one", "first", "second"])
@pytest.mark.parametrize("case", PLACES)
def test_a_place_that_takes_no_file_is_one_line(case: str, entry: str, tmp_path: Path) -> None:
    make, message = PLACES[case]
    path = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    other = tmp_path / "y"
    order = {"one": [path], "first": [path, other], "second": [other, path]}[entry]
    files: dict[Path, str | bytes] = dict.fromkeys(order, "x")
    with pytest.raises(StudyError) as caught:
        save(files, StudyError, "--out")
    assert message in str(caught.value)
    clear(str(caught.value))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_without_permission_stays(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # not of root's
    with pytest.raises(StudyError, match="Permission denied"):
        one_file(target)
    assert_nothing_happened(target.parent, target)


def test_what_is_no_file_stays_what_it_is(tmp_path: Path) -> None:
    """A device written to by root would be replaced by a file, for everybody."""
    write_whole(Path("/dev/null"), NEW)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    (tmp_path / "target").write_text(OLD)
    (tmp_path / "link").symlink_to("target")
    write_whole(tmp_path / "link", NEW)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == NEW


def test_a_pipe_gets_it_all(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    got: list[bytes] = []
    os.set_blocking(reader, True)

    def drain() -> None:
        while piece := os.read(reader, 4096):
            got.append(piece)

    write_now = threading.Thread(target=write_whole, args=(tmp_path / "pipe", NEW))
    write_now.start()
    drain_thread = threading.Thread(target=drain)
    write_now.join(0.2)
    drain_thread.start()
    write_now.join(5)
    drain_thread.join(5)
    os.close(reader)
    assert b"".join(got).decode() == NEW


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_permissions_stay(mode: int, target: Path) -> None:
    target.chmod(mode)
    write_whole(target, NEW)
    assert stat.S_IMODE(target.stat().st_mode) == mode
    assert target.read_text() == NEW


@pytest.mark.parametrize("length", [1, 60, 200, 255])
@pytest.mark.parametrize("letter", ["n", "\u00e9", "\U0001f600"])
def test_long_names_have_room_for_their_part(letter: str, length: int, tmp_path: Path) -> None:
    path = tmp_path / (letter * (length // len(letter.encode()) or 1))
    write_whole(path, NEW)
    assert path.read_text() == NEW


@pytest.mark.parametrize("records", [1, 50])
@pytest.mark.parametrize("room", [0, 1, 100])
def test_a_cell_is_there_as_a_whole_or_not_at_all(records: int, room: int, tmp_path: Path) -> None:
    lines: dict[str, Any] = {"samples.jsonl": [{"answer": "x" * 100}] * records}
    document = CellDocument(config=study_of().cells[0].config, status="done")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    (tmp_path / "cells").mkdir()
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(StudyError, match=r"--out .*: cannot be written: File too large"):
            Store(tmp_path).write(CellResult("key", document, lines))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list((tmp_path / "cells").iterdir()) == []


def test_a_report_replaces_nothing_of_somebody_else(tmp_path: Path, monkeypatch: Any) -> None:
    for name in ("data.csv", "data.md"):
        (tmp_path / name).write_text("mine\n")
        texts = {tmp_path / "data.html": "x", tmp_path / name: "# x\nMade by tokensieve report.\n"}
        with pytest.raises(StudyError) as caught:
            page._check_neighbours(texts)
        assert name in str(caught.value)
        clear(str(caught.value))
        (tmp_path / name).write_text(texts[tmp_path / name])
        page._check_neighbours(texts)


def test_a_study_does_not_replace_its_own_file(call: Call, tmp_path: Path) -> None:
    text = "models: tiny-llava # mine\nbudgets: 0.5\ntasks: digits\n"
    (tmp_path / "study.yaml").write_text(text)
    one_line(call("study", "study.yaml", "--out", "."), "study.yaml would be replaced")
    assert (tmp_path / "study.yaml").read_text() == text
