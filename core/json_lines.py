"""JSONL files: a JSON object a line, read so that nothing in it is lost unnoticed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from tokensieve.core.errors import TaskError
from tokensieve.core.foreign import foreign, shorten, shown
from tokensieve.core.text_files import lines_of, read_text

Row = tuple[str, dict[str, Any]]
"""How errors call its place, and what it holds."""


def json_rows(path: Path) -> Iterator[Row]:
    """The rows of a file; blank lines are none.

    Raises:
        TaskError: with ``FILE:LINE``: no JSON, no mapping, a key that is given twice, or a number
            that is none.
    """
    name = shorten(str(path))
    for number, line in enumerate(lines_of(read_text(path, TaskError)), start=1):
        if not line.strip():
            continue
        where = f"{name}:{number}"
        with foreign(TaskError, f"{where}: not valid JSON"):
            row = _read(line)
        if not isinstance(row, dict):
            raise TaskError(f"{where}: a row is a mapping, not {shown(row)}")
        yield where, row


def _read(line: str) -> Any:
    try:
        return json.loads(
            line, object_pairs_hook=_mapping, parse_constant=_no_number, parse_float=_finite
        )
    except json.JSONDecodeError as error:  # its own line number is always 1
        raise ValueError(f"{error.msg} (column {error.colno})") from None


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key, value in pairs:
        if key in mapping:
            raise ValueError(f"the key {shown(key)} is given twice")
        mapping[key] = value
    return mapping


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number(text)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{shorten(text)} is no number that can be compared")
