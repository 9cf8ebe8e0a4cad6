"""A task without code: questions in a JSONL or Parquet file, pictures beside it."""

from __future__ import annotations

import io
import math
import os
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from tokensieve.core.contract.tasks import Box, Example, Task, same_text
from tokensieve.core.errors import TaskError, TokensieveError, did_you_mean
from tokensieve.core.files.json_lines import Row, json_rows
from tokensieve.core.files.parquet_rows import parquet_rows
from tokensieve.core.foreign import half_character, shorten, shown

if TYPE_CHECKING:
    from PIL.Image import Image

KEYS = ("id", "image", "images", "question", "answer", "answers", "boxes")
SUFFIXES = (".jsonl", ".parquet")
SIDES = 4
EXACT = 2**53  # whole numbers up to here are exact as fractions
Given = dict[str, object]
"""The cells of a row that have a value."""
_URL = re.compile(r"data:|[A-Za-z][A-Za-z0-9+.-]+:/")  # a single letter is a drive of Windows


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
        rows = [(where, _given(row)) for where, row in _rows(path)]
        if not rows:
            raise TaskError(f"{shorten(str(path))}: has no rows")
        names = _names(rows)
        order = list(range(len(rows)))
        random.Random(seed).shuffle(order)
        examples = []
        for number in order[:count]:
            where, row = rows[number]
            unknown = sorted(set(row) - set(KEYS))
            if unknown:
                hint = did_you_mean(unknown[0], KEYS)
                raise TaskError(f"{where}: unknown key {shown(unknown[0])}{hint}")
            if not isinstance(row.get("question"), str):
                raise TaskError(f"{where}: 'question' is missing, or no text")
            question = _text(where, "the question", row["question"])
            accepted = _answers(where, row)
            images = tuple(_image(where, entry, path.parent) for entry in _images(where, row))
            boxes = _boxes(where, row.get("boxes"), len(images))
            name = names[number]
            examples.append(FileExample(name, images, question, accepted[0], boxes, accepted))
        return examples

    def files_of(self, examples: Sequence[Example]) -> list[Path]:
        """The data file, and those of the examples' pictures that are files beside it."""
        path = data_file(self.file)
        rows = [(where, _given(row)) for where, row in _rows(path)]
        wanted = {example.id for example in examples}
        entries = [
            entry
            for name, row in zip(_names(rows), (row for _, row in rows), strict=True)
            if name in wanted
            for entry in _images(path.name, row)
        ]
        named = [entry.get("path") if isinstance(entry, dict) else entry for entry in entries]
        inside = [path.parent / name for name in dict.fromkeys(named) if isinstance(name, str)]
        return [path, *(file for file in inside if file.is_file())]

    def score(self, example: Example, answer: str) -> float:
        """1 if any of the accepted answers was given, whatever the case."""
        accepted = getattr(example, "accepted", ()) or (example.answer,)
        return float(any(same_text(answer, one) for one in accepted))


def is_task_file(text: str) -> bool:
    """Whether ``text`` means a file or folder, and not the name of a registered task."""
    return Path(text).suffix in SUFFIXES or "/" in text or "\\" in text


def data_file(path: Path) -> Path:
    """The file itself; a folder stands for its ``data.jsonl`` or ``data.parquet``."""
    name = shorten(str(path))
    if os.path.isdir(path):
        inside = [path / f"data{suffix}" for suffix in SUFFIXES]
        found = [file for file in inside if os.path.lexists(file)]
        if not found:
            raise TaskError(f"{name}: the folder has neither data.jsonl nor data.parquet")
        return found[0]
    if path.suffix not in SUFFIXES:
        raise TaskError(f"{name}: is neither a folder nor a .jsonl or .parquet file")
    if not os.path.lexists(path):
        raise TaskError(f"{name}: does not exist")
    return path


def _rows(path: Path) -> Iterator[Row]:
    return parquet_rows(path) if path.suffix == ".parquet" else json_rows(path)


def _given(row: Mapping[str, object]) -> Given:
    """The values of a row: null is how table libraries write a cell without a value."""
    return {key: value for key, value in row.items() if value is not None}


def _names(rows: Sequence[Row]) -> list[str]:
    """The id of each row, its number if it has none."""
    places: dict[str, str] = {}
    for number, (where, row) in enumerate(rows):
        name = _text(where, "an id", row["id"]) if "id" in row else str(number)
        if name in places:
            raise TaskError(
                f"{where}: the id {shown(name)} is given twice, first at {places[name]}"
                " (a row without one takes its number, from 0)"
            )
        places[name] = where
    return list(places)


def _text(where: str, what: str, value: object) -> str:
    """A text, or the text of a number; tables turn whole numbers beside holes into fractions."""
    if isinstance(value, str):
        half = half_character(value)
        if half:
            raise TaskError(f"{where}: {what} has half a character ({half}, a lone surrogate)")
        return value
    if isinstance(value, float | Decimal) and not math.isfinite(value):
        raise TaskError(f"{where}: {what} is missing, or no number ({value})")
    if isinstance(value, float | Decimal) and -EXACT <= value <= EXACT and value == int(value):
        return str(int(value))
    if isinstance(value, int | float | Decimal):
        return str(value)
    raise TaskError(f"{where}: {what} is text, not {shown(value)}")


def _answers(where: str, row: Given) -> tuple[str, ...]:
    """``answer`` and all of ``answers``: any of them is right; numbers are taken as text."""
    listed = row.get("answers", [])
    if not isinstance(listed, list):
        raise TaskError(f"{where}: 'answers' is a list of those accepted, not {shown(listed)}")
    if isinstance(row.get("answer"), list):
        raise TaskError(f"{where}: an answer is text: write a list of those accepted as 'answers'")
    given = [row["answer"], *listed] if "answer" in row else listed
    if not given:
        raise TaskError(f"{where}: 'answer' is missing (or 'answers', a list of those accepted)")
    texts = [_text(where, "an answer", one) for one in given]
    if not all(text.strip() for text in texts):
        raise TaskError(f"{where}: an answer is empty: every row needs one that can be given")
    return tuple(dict.fromkeys(texts))


def _images(where: str, row: Given) -> list[object]:
    """``image``, or the list ``images``."""
    listed = row.get("images", [])
    if not isinstance(listed, list):
        raise TaskError(f"{where}: 'images' is a list of pictures, not {shown(listed)}")
    if "image" in row and listed and row["image"] not in listed:
        raise TaskError(f"{where}: 'image' is none of 'images': keep one of the two")
    given = listed or ([row["image"]] if "image" in row else [])
    if not given:
        raise TaskError(f"{where}: 'image' is missing (or 'images', a list)")
    return given


def _image(where: str, entry: object, folder: Path) -> Image:
    """A picture: a path relative to the file, or as Parquet files have it, its bytes."""
    from tokensieve.core.files.pictures import open_image

    data = entry.get("bytes") if isinstance(entry, dict) else entry
    path = entry.get("path") if isinstance(entry, dict) and data is None else entry
    if isinstance(path, str) and _URL.match(path):
        raise TaskError(f"{where}: an image is a path of a file, not a URL: {shown(path)}")
    try:
        if isinstance(data, bytes):
            return open_image(io.BytesIO(data))
        if isinstance(path, str) and path:
            return open_image(folder / path)
    except TokensieveError as error:
        raise TaskError(f"{where}: {error}") from None
    raise TaskError(f"{where}: an image is a path, not {shown(entry)}")


def _boxes(where: str, given: object, images: int) -> tuple[tuple[Box, ...], ...]:
    """``[[left, top, right, bottom], ...]`` of the one picture, or a list of those per picture."""
    if given is None:
        return ()
    try:
        if not isinstance(given, list):
            raise TypeError
        flat = bool(given) and all(not isinstance(entry[0], list) for entry in given)
        groups = [given] if flat and images == 1 else given
        sides = [[tuple(map(float, entry)) for entry in group] for group in groups]
        flawed = [
            box
            for group in sides
            for box in group
            if len(box) != SIDES or not all(0 <= side <= 1 for side in box)
        ]
        boxes = () if flawed else tuple(tuple(Box(*box) for box in group) for group in sides)
    except (TypeError, ValueError, IndexError, KeyError, OverflowError):
        boxes = ()
    if len(boxes) != images:
        raise TaskError(
            f"{where}: 'boxes' is a list of [left, top, right, bottom], shares of the picture from "
            f"0 to 1, or one such list for each of its {images} pictures"
        )
    return boxes
