"""Tables for spreadsheets: a name never is a formula there, and a number stays one."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

from tokensieve.core.foreign import plain

FORMULA = tuple("=+-@\N{FULLWIDTH EQUALS SIGN}\N{FULLWIDTH PLUS SIGN}"
                "\N{FULLWIDTH HYPHEN-MINUS}\N{FULLWIDTH COMMERCIAL AT}")  # fmt: skip
"""Signs at which a spreadsheet starts to calculate."""
QUOTE = "'"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(inf|nan)", re.IGNORECASE)


def spreadsheet(rows: Iterable[Sequence[object]]) -> str:
    """The rows as CSV."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([cell(value) for value in row] for row in rows)
    return buffer.getvalue()


def cell(value: object) -> str:
    """A number as it is, a text in one line; a quote before what looks calculable."""
    text = plain(str(value))
    if _NUMBER.fullmatch(text) or not text.lstrip().startswith(FORMULA):
        return text
    return QUOTE + text
