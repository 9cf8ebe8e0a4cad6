"""Results on disk: one directory per cell, whole or not there, and checked when it is read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tokensieve.core.errors import StudyError
from tokensieve.core.study.grid import key_of, title_of

FORMAT = 1
LINES = ("samples.jsonl", "anatomy.jsonl")


@dataclass
class CellResult:
    """What running a cell gave, before it is written; ``cell`` is ``cell.json``."""

    key: str
    cell: dict[str, Any]
    lines: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

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

    def cells(self, *, every: bool = False) -> list[Cell]:
        """The readable cells of the last study that was started, or with ``every`` all of them.

        A corrupt one is named on stderr and left out.
        """
        wanted = None if every else self._listed()
        keys = [path.name for path in self._directories()] if wanted is None else wanted
        found = []
        for key in keys:
            try:
                cell = self.read(key)
            except CorruptCell as error:
                print(error, file=sys.stderr)
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
        if not path.exists():
            return None
        try:
            data = json.loads((path / "cell.json").read_text(encoding="utf-8"))
            sums = data["files"]
            whole = all(_checksum(path / name) == sums[name] for name in sums)
            right = data["format"] == FORMAT and key_of(data["config"]) == key
            unspoilt = data.pop("checksum") == _sum_of(data)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise CorruptCell(f"{path}: corrupt cell ({reason})") from None
        if not (whole and right and unspoilt):
            reason = "a checksum does not match" if right else "its configuration is not its own"
            raise CorruptCell(f"{path}: corrupt cell ({reason})")
        return Cell(path, data)

    def write(self, result: CellResult) -> Path:
        """Put a cell into its place at once; one that is there is replaced."""
        final = self.folder / result.key
        part = self.folder / f".{result.key}.{os.getpid()}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        sums = {}
        for name, records in result.lines.items():
            text = "".join(json.dumps(record) + "\n" for record in records)
            _write(part / name, text)
            sums[name] = _checksum(part / name)
        data = json.loads(json.dumps({"format": FORMAT, **result.cell, "files": sums}))
        _write(part / "cell.json", json.dumps({**data, "checksum": _sum_of(data)}, indent=1))
        if final.exists():
            old = self.folder / f".{result.key}.{os.getpid()}.old.part"
            final.rename(old)
            part.rename(final)
            shutil.rmtree(old)
        else:
            part.rename(final)
        return final

    def discard(self, key: str) -> None:
        """Remove a cell that is to be run again."""
        shutil.rmtree(self.folder / key, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what killed runs left half written. Only with the folder locked."""
        for path in self.folder.glob(".*.part"):
            shutil.rmtree(path, ignore_errors=True)

    def write_file(self, name: str, text: str) -> None:
        """Replace a file of the study at once."""
        part = self.path / f".{name}.{os.getpid()}.part"
        _write(part, text)
        part.replace(self.path / name)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; the operating system lets go of it when the process ends.

        Raises:
            StudyError: another study holds it, or it cannot be made.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            stream = (self.path / ".lock").open("w")
        except OSError as error:
            raise StudyError(f"--out {self.path}: cannot be written: {error.strerror}") from None
        with stream:
            try:
                _lock(stream)
            except OSError:
                raise StudyError(f"--out {self.path}: another study is running there") from None
            yield

    def _directories(self) -> list[Path]:
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted(path for path in found if not path.name.startswith("."))

    def _listed(self) -> Sequence[str] | None:
        """The keys of the last study; None if nobody wrote them down."""
        try:
            manifest = json.loads((self.path / "manifest.json").read_text(encoding="utf-8"))
            return [str(key) for key in manifest["cells"]]
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _lock(stream: Any) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: nobody watches there
        return
    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _write(path: Path, text: str) -> None:
    """Write and wait for the disk: a cell that is there is whole, even after a power cut."""
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _sum_of(data: dict[str, Any]) -> str:
    """Of ``cell.json`` itself, as far as it is data."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


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
