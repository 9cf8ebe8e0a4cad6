"""Results on disk: one directory per cell, whole or not there, and checked when it is read."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tokensieve.core.errors import StudyError
from tokensieve.core.names import folded
from tokensieve.core.output.terminal import warn
from tokensieve.core.study.plan.cells import title_of
from tokensieve.core.study.store import disk
from tokensieve.core.study.store.flaws import BROKEN, FORMAT, checksum, read_cell, sum_of, text_of

KEY = re.compile(r"[0-9a-f]{16}")


@dataclass
class CellResult:
    """What running a cell gave; ``cell`` is ``cell.json``, ``written`` says that it is on disk."""

    key: str
    cell: dict[str, Any]
    lines: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    written: bool = False

    @property
    def status(self) -> str:
        """``done``, ``unmet`` or ``failed``."""
        return str(self.cell["status"])


@dataclass(frozen=True)
class Cell:
    """A cell on disk.

    ``data`` is its ``cell.json``: config, status (``done``, ``unmet``, ``failed``), error,
    traceback, seconds, started, environment, summary.
    """

    path: Path
    data: dict[str, Any]

    @property
    def key(self) -> str:
        """Name of its directory."""
        return self.path.name

    @property
    def config(self) -> dict[str, Any]:
        """What decided the result."""
        return dict(self.data["config"])

    @property
    def title(self) -> str:
        """The cell in words."""
        return title_of(self.data["config"])

    @property
    def status(self) -> str:
        """``done``, ``unmet`` or ``failed``."""
        return str(self.data["status"])

    @property
    def error(self) -> str:
        """Why it is not done; empty if it is."""
        return str(self.data.get("error") or "")

    @property
    def summary(self) -> dict[str, Any]:
        """Means over samples; empty if there are none."""
        return dict(self.data.get("summary") or {})

    @cached_property
    def samples(self) -> list[dict[str, Any]]:
        """One record per question."""
        return _read_lines(self.path / "samples.jsonl")

    @cached_property
    def anatomy(self) -> list[dict[str, Any]]:
        """One record per picture of an anatomy cell."""
        return _read_lines(self.path / "anatomy.jsonl")


class CorruptCell(StudyError):
    """A cell directory is not what was written."""


class Store:
    """The folder of a study."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def folder(self) -> Path:
        """Where the cells lie."""
        return self.path / "cells"

    def cells(self, *, every: bool = False, say: Callable[[str], None] | None = None) -> list[Cell]:
        """The readable cells of the last study that was started, or with ``every`` all of them.

        A corrupt one is left out and named, on stderr unless ``say`` takes it.
        """
        wanted = None if every else self._listed()
        keys = [path.name for path in self._directories()] if wanted is None else wanted
        found = []
        for key in keys:
            try:
                cell = self.read(key)
            except CorruptCell as error:
                (say or warn)(str(error))
                continue
            if cell is not None:
                found.append(cell)
        return found

    def read(self, key: str) -> Cell | None:
        """A cell, checked; None if it is not there.

        Raises:
            CorruptCell: it is not what was written.
        """
        path = self.folder / key
        if not os.path.exists(path):
            return None
        data, reason = read_cell(path)
        if reason:
            raise CorruptCell(f"{path}: corrupt cell ({reason})")
        return Cell(path, data)

    def write(self, result: CellResult) -> Path:
        """Put a cell into its place at once; one that is there is replaced.

        Raises:
            StudyError: the disk does not take it.
        """
        try:
            try:
                return self._write(result)
            except FileNotFoundError:  # somebody who started the study again swept the folder
                return self._write(result)
        except OSError as error:
            raise self._unwritable(error) from None

    def discard(self, key: str) -> None:
        """Remove a cell that is to be run again."""
        disk.remove(self.folder / key)

    def sweep(self) -> None:
        """Remove what killed runs left half written. Only with the folder locked."""
        for path in [*self.folder.glob(disk.PARTS), *self.path.glob(disk.PARTS)]:
            disk.sweep_one(path)

    def write_file(self, name: str, text: str) -> None:
        """Replace a file of the study at once."""
        try:
            disk.write_whole(self.path / name, text)
        except OSError as error:
            raise self._unwritable(error) from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; the operating system lets go of it when the process ends.

        Raises:
            StudyError: another study holds it, or it cannot be made.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            stream = disk.open_lock(self.path / ".lock")
        except OSError as error:
            raise self._unwritable(error) from None
        with stream:
            if not disk.lock(stream):
                raise StudyError(f"--out {self.path}: another study is running there")
            yield

    def _write(self, result: CellResult) -> Path:
        final = self.folder / result.key
        part = disk.part_of(final)
        part.mkdir(parents=True)
        try:
            sums = {}
            for name, records in result.lines.items():
                disk.write(part / name, "".join(json.dumps(record) + "\n" for record in records))
                sums[name] = checksum(part / name)
            data = json.loads(json.dumps({"format": FORMAT, **result.cell, "files": sums}))
            text = json.dumps({**data, "checksum": sum_of(data)}, indent=1)
            disk.write(part / "cell.json", text + "\n")
            disk.put(part, final)
        finally:
            disk.sweep_one(part)
        return final

    def _unwritable(self, error: OSError) -> StudyError:
        return StudyError(f"--out {self.path}: cannot be written: {error.strerror or error}")

    def _directories(self) -> list[Path]:
        found = self.folder.iterdir() if os.path.isdir(self.folder) else ()
        return sorted(path for path in found if not path.name.startswith("."))

    def _listed(self) -> Sequence[str] | None:
        """The keys of the last study; None if nobody wrote them down."""
        try:
            listed = json.loads(text_of(self.path / "manifest.json"))["cells"]
        except BROKEN:
            return None
        spoilt = not isinstance(listed, list) or not all(
            isinstance(key, str) and KEY.fullmatch(key) for key in listed
        )
        return None if spoilt else list(dict.fromkeys(listed))


def _read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in text_of(path).splitlines()]


def unfinished(
    store: Store, keys: Sequence[str], say: Callable[[str], None]
) -> tuple[list[str], dict[str, Cell]]:
    """Keys still to be run, and the cells that are there; failed and corrupt ones run again."""
    pending, there = [], {}
    for key in keys:
        try:
            cell = store.read(key)
        except CorruptCell as error:
            say(f"{error}: it is run again")
            cell = None
        if cell is None or cell.status == "failed":
            pending.append(key)
        else:
            there[key] = cell
    return pending, there


def check_folder_name(out: Path) -> None:
    """Refuse a folder beside one that is the same where names have no case and one Unicode form.

    Raises:
        StudyError: there is one; two studies would meet in it when they are copied.
    """
    place = out.absolute()
    try:
        others = [other for other in place.parent.iterdir() if other.is_dir()]
    except OSError:  # not there yet, or not to be seen
        return
    for other in others:
        own = unicodedata.normalize("NFC", other.name) == unicodedata.normalize("NFC", place.name)
        same = own and place.exists() and other.samefile(place)
        if other.name != place.name and folded(other.name) == folded(place.name) and not same:
            raise StudyError(
                f"--out {out}: {other.name!r} lies beside it, which is the same folder on other "
                "file systems: give the study another `name`, or choose another --out"
            )
