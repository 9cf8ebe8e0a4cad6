"""JSONL files: a JSON object a line, read so that nothing in it is lost unnoticed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tokensieve.core.errors import TaskError
from tokensieve.core.files.json_text import JsonFlaw, parse_json
from tokensieve.core.files.plain import MEGABYTE
from tokensieve.core.files.text import MARK, filled_lines, read_text
from tokensieve.core.foreign import shorten, shown

Row = tuple[str, dict[str, object]]
"""What errors call its place, and what it holds."""

MOST = 256 * MEGABYTE  # a million questions have about a hundred
MOST_ROWS = 2_000_000
MOST_SIGNS = 1_000_000  # of a row


def json_rows(path: Path) -> Iterator[Row]:
    """The rows of a file; blank lines are none, and files that were joined have marks inside.

    Raises:
        TaskError: with ``FILE:LINE``: no JSON, no mapping, a key that is given twice, a number
            that is none, or more than fits into memory.
    """
    name = shorten(str(path))
    lines = filled_lines(read_text(path, TaskError, MOST))
    for count, (number, line) in enumerate(lines, start=1):
        plain = line.removeprefix(MARK)
        if not plain.strip():
            continue
        where = f"{name}:{number}"
        if count > MOST_ROWS or len(line) > MOST_SIGNS:
            raise TaskError(
                f"{where}: more than {MOST_ROWS:,} rows, or than {MOST_SIGNS:,} characters in one"
            )
        try:
            row = parse_json(plain)
        except JsonFlaw as flaw:
            column = flaw.position + len(line) - len(plain) + 1
            raise TaskError(f"{where}: not valid JSON: {flaw} (column {column})") from None
        if not isinstance(row, dict):
            raise TaskError(f"{where}: a row is a mapping, not {shown(row)}")
        yield where, row
