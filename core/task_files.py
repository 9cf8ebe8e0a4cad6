"""A task without code: questions in a JSONL or Parquet file, pictures beside it."""

from __future__ import annotations

import importlib
import io
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from tokensieve.core.errors import TaskError, TokensieveError, did_you_mean
from tokensieve.core.tasks import Box, Example, Task, same_text

if TYPE_CHECKING:
    from PIL.Image import Image

KEYS = ("id", "image", "images", "question", "answer", "answers", "boxes")
SUFFIXES = (".jsonl", ".parquet")
SIDES = 4


@dataclass(frozen=True)
class FileExample(Example):
    """A row of the file; any of ``accepted`` is right."""

    accepted: tuple[str, ...] = ()


class FileTask(Task):
    """Questions from a JSONL or Parquet file, or from the folder that holds one."""

    name = "file"

    file: Path = Field(description="data.jsonl, data.parquet, or the folder that holds one")

    def examples(self, count: int, seed: int) -> Sequence[Example]:
        """Rows in an order that ``seed`` draws, so that a sorted file gives no one-sided sample."""
        path = data_file(self.file)
        rows = list(_rows(path))
        if not rows:
            raise TaskError(f"{path}: has no rows")
        ids = [str(row.get("id", number)) for number, (_, row) in enumerate(rows)]
        if len(set(ids)) < len(ids):
            twice = next(name for number, name in enumerate(ids) if name in ids[:number])
            raise TaskError(f"{path}: the id {twice!r} is given twice")
        order = list(range(len(rows)))
        random.Random(seed).shuffle(order)
        return [_example(*rows[number], ids[number], path.parent) for number in order[:count]]

    def score(self, example: Example, answer: str) -> float:
        """1 if any of the accepted answers was given, whatever the case."""
        accepted = getattr(example, "accepted", ()) or (example.answer,)
        return float(any(same_text(answer, one) for one in accepted))


def is_task_file(text: str) -> bool:
    """Whether ``text`` means a file or folder, and not the name of a registered task."""
    return Path(text).suffix in SUFFIXES or "/" in text or "\\" in text


def data_file(path: Path) -> Path:
    """The file itself; a folder stands for its ``data.jsonl`` or ``data.parquet``."""
    if path.is_dir():
        inside = [path / f"data{suffix}" for suffix in SUFFIXES]
        found = [file for file in inside if file.is_file()]
        if not found:
            raise TaskError(f"{path}: the folder has neither data.jsonl nor data.parquet")
        return found[0]
    if path.suffix not in SUFFIXES:
        raise TaskError(f"{path}: is neither a folder nor a .jsonl or .parquet file")
    if not path.is_file():
        raise TaskError(f"{path}: does not exist")
    return path


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every row, and how errors call its place."""
    return _parquet_rows(path) if path.suffix == ".parquet" else _json_rows(path)


def _json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"{path}: cannot be read: {error}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise TaskError(f"{path}:{number}: not valid JSON: {error}") from None
        if not isinstance(row, dict):
            raise TaskError(f"{path}:{number}: a row is a mapping, not {line.strip()[:40]!r}")
        yield f"{path}:{number}", row


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError:
        message = "reading Parquet needs pyarrow: pip install 'tokensieve[parquet]'"
        raise TaskError(f"{path}: {message}") from None
    try:
        rows = parquet.read_table(path).to_pylist()
    except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
        raise TaskError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None
    for number, row in enumerate(rows, start=1):
        given = {key: value for key, value in row.items() if value is not None}
        yield f"{path}: row {number}", given


def _example(where: str, row: dict[str, Any], name: str, folder: Path) -> FileExample:
    unknown = sorted(set(row) - set(KEYS))
    if unknown:
        raise TaskError(f"{where}: unknown key {unknown[0]!r}{did_you_mean(unknown[0], KEYS)}")
    question = row.get("question")
    if not isinstance(question, str):
        raise TaskError(f"{where}: 'question' is missing, or no text")
    accepted = _answers(where, row)
    images = tuple(_image(where, entry, folder) for entry in _images(where, row))
    boxes = _boxes(where, row.get("boxes"), len(images))
    return FileExample(name, images, question, accepted[0], boxes, accepted)


def _answers(where: str, row: dict[str, Any]) -> tuple[str, ...]:
    """``answer``, or the list ``answers`` of which any is right; numbers are taken as text."""
    given = row.get("answers", [row["answer"]] if "answer" in row else [])
    if not isinstance(given, list) or not given:
        raise TaskError(f"{where}: 'answer' is missing (or 'answers', a list of those accepted)")
    if not all(isinstance(one, str | int | float) for one in given):
        raise TaskError(f"{where}: an answer is text, not {given!r}")
    return tuple(str(one) for one in given)


def _images(where: str, row: dict[str, Any]) -> list[Any]:
    given = row.get("images", [row["image"]] if "image" in row else [])
    if not isinstance(given, list) or not given:
        raise TaskError(f"{where}: 'image' is missing (or 'images', a list)")
    return given


def _image(where: str, entry: Any, folder: Path) -> Image:
    """A picture: a path relative to the file, or as Parquet files have it, its bytes."""
    from tokensieve.core.running import open_image

    data = entry.get("bytes") if isinstance(entry, dict) else entry
    if isinstance(entry, dict) and data is None:
        entry = entry.get("path")
    try:
        if isinstance(data, bytes):
            return open_image(io.BytesIO(data))
        if isinstance(entry, str):
            return open_image(folder / entry)
    except TokensieveError as error:
        raise TaskError(f"{where}: {error}") from None
    raise TaskError(f"{where}: an image is a path, not {entry!r}")


def _boxes(where: str, given: Any, images: int) -> tuple[tuple[Box, ...], ...]:
    """``[[left, top, right, bottom], ...]`` of the one picture, or a list of those per picture."""
    if given is None:
        return ()
    try:
        flat = bool(given) and all(not isinstance(entry[0], list) for entry in given)
        groups = [given] if flat and images == 1 else given
        boxes = tuple(tuple(_box(entry) for entry in group) for group in groups)
    except (TypeError, ValueError, IndexError, KeyError):
        boxes = ()
    if len(boxes) != images:
        raise TaskError(
            f"{where}: 'boxes' is a list of [left, top, right, bottom], shares of the picture from "
            f"0 to 1, or one such list for each of its {images} pictures"
        )
    return boxes


def _box(entry: Any) -> Box:
    sides = [float(side) for side in entry]
    if len(sides) != SIDES or not all(0 <= side <= 1 for side in sides):
        raise ValueError
    return Box(*sides)
