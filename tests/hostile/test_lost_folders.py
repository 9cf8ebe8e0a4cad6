"""A results folder in which something else lies: it is not waited for, and nothing is lost."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import clear

from tokensieve.core.errors import StudyError
from tokensieve.core.study.store.store import Store

SECONDS = 30
ELSEWHERE: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "link to a pipe": lambda lock: (os.mkfifo(lock.with_name("p")), lock.symlink_to("p")),
    "link to itself": lambda lock: lock.symlink_to(lock.name),
    "link to a folder": lambda lock: lock.symlink_to("."),
}
FILES: dict[str, Callable[[Path], object]] = {
    "nothing": lambda lock: None,
    "empty": Path.touch,
    "text": lambda lock: lock.write_text("held by 1"),
    "for reading only": lambda lock: (lock.touch(), lock.chmod(0o444)),
    "link to what is not there": lambda lock: lock.symlink_to("there"),
    "link to a file": lambda lock: (lock.with_name("f").touch(), lock.symlink_to("f")),
    "second name of a file": lambda lock: (lock.with_name("f").touch(), os.link(lock.with_name("f"), lock)),
}  # fmt: skip


def held(store: Store) -> list[str]:
    """What became of holding the folder; empty if that is waited for."""
    said: list[str] = []

    def hold() -> None:
        try:
            with store.locked():
                said.append("held")
        except StudyError as error:
            said.append(str(error))

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    thread.join(SECONDS)
    return said


@pytest.mark.parametrize("what", ELSEWHERE)
def test_what_is_no_file_cannot_be_held(what: str, tmp_path: Path) -> None:
    ELSEWHERE[what](tmp_path / ".lock")
    (said,) = held(Store(tmp_path))
    clear(said, str(tmp_path), "cannot be written")


@pytest.mark.parametrize("what", FILES)
def test_a_file_is_held_and_left_as_it_is(what: str, tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    FILES[what](lock)
    before = lock.read_bytes() if lock.exists() else b""
    with Store(tmp_path).locked():
        (said,) = held(Store(tmp_path))
        clear(said, "another study is running there")
    assert held(Store(tmp_path)) == ["held"]
    assert lock.read_bytes() == before
