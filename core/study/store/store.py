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

from tokensieve.core.errors import StudyError
from tokensieve.core.names import folded
from tokensieve.core.output.terminal import warn
from tokensieve.core.study.plan.records import CellConfig, as_json
from tokensieve.core.study.store import disk
from tokensieve.core.study.store.flaws import (
    BROKEN,
    FORMAT,
    CorruptCell,
    checksum,
    read_cell,
    read_lines,
    sum_of,
    text_of,
)
from tokensieve.core.study.store.records import (
    ATTRIBUTIONS,
    SAMPLES,
    AttributionRecord,
    CellDocument,
    SampleRecord,
    Status,
    Summary,
)

KEY = re.compile(r"[0-9a-f]{16}")


@dataclass
class CellResult:
    """The result of running a cell; ``cell`` is ``cell.json``, ``written`` says that it is on disk.

    ``lines`` are the records of each file.
    """

    key: str
    cell: CellDocument
    lines: dict[str, Sequence[SampleRecord | AttributionRecord]] = field(default_factory=dict)
    written: bool = False

    @property
    def status(self) -> Status:
        """``done``, ``unmet`` or ``failed``."""
        return self.cell.status


@dataclass(frozen=True)
class Cell:
    """A cell on disk; ``data`` is its ``cell.json``."""

    path: Path
    data: CellDocument

    @property
    def key(self) -> str:
        """Name of its directory."""
        return self.path.name

    @property
    def config(self) -> CellConfig:
        """The configuration that decided the result."""
        return self.data.config

    @property
    def title(self) -> str:
        """The cell in words."""
        return self.config.title

    @property
    def status(self) -> Status:
        """``done``, ``unmet`` or ``failed``."""
        return self.data.status

    @property
    def error(self) -> str:
        """The reason why it is not done; empty if it is."""
        return self.data.error or ""

    @property
    def summary(self) -> Summary:
        """Means over samples; empty if there are none."""
        return self.data.summary

    @cached_property
    def samples(self) -> list[SampleRecord]:
        """One record per question."""
        return read_lines(self.path / SAMPLES, SampleRecord)

    @cached_property
    def anatomy(self) -> list[AttributionRecord]:
        """One record per picture of a cell of token attribution."""
        return read_lines(self.path / ATTRIBUTIONS, AttributionRecord)


class Store:
    """The folder of a study."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def folder(self) -> Path:
        """The folder of the cells."""
        return self.path / "cells"

    def cells(self, *, every: bool = False, say: Callable[[str], None] | None = None) -> list[Cell]:
        """The readable cells of the last study that was started, or with ``every`` all of them.

        A corrupt one is left out and named, on stderr unless ``say`` takes it.
        """
        keys: list[str] | None = None
        if not every:
            try:
                listed = json.loads(text_of(self.path / "manifest.json"))["cells"]
            except BROKEN:  # nobody wrote them down
                listed = None
            if isinstance(listed, list) and all(
                isinstance(key, str) and KEY.fullmatch(key) for key in listed
            ):
                keys = list(dict.fromkeys(listed))
        if keys is None:
            there = self.folder.iterdir() if os.path.isdir(self.folder) else ()
            keys = sorted(path.name for path in there if not path.name.startswith("."))
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
        return Cell(path, read_cell(path)) if os.path.exists(path) else None

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
                lines = (json.dumps(record, default=as_json) + "\n" for record in records)
                disk.write(part / name, "".join(lines))
                sums[name] = checksum(part / name)
            whole = {"format": FORMAT, **result.cell.plain(), "files": sums}
            data = json.loads(json.dumps(whole))
            text = json.dumps({**data, "checksum": sum_of(data)}, indent=1)
            disk.write(part / "cell.json", text + "\n")
            disk.put(part, final)
        finally:
            disk.sweep_one(part)
        return final

    def _unwritable(self, error: OSError) -> StudyError:
        return StudyError(f"--out {self.path}: cannot be written: {error.strerror or error}")


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
