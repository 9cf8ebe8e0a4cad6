"""Output for people: text as it is, and nothing in it that a terminal would obey.

All output of commands goes through here. Names, answers and errors may come from anybody: they
are escaped here, once, whatever prints them. Text made of ``rich``'s own parts has been.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group
from rich.measure import Measurement
from rich.progress import Progress, TextColumn
from rich.table import Table
from rich.text import Text

from tokensieve.core.foreign import plain, shorten

LONGEST = 1000  # characters of what is wrong: names may be of any length
NO_WRAP = 10_000  # columns of output that goes to a file or a pipe: one row is one line
SPINNER = "line"  # of ASCII


def say(text: object = "") -> None:
    """Print one line on standard output."""
    print(plain(str(text)))


def warn(text: object) -> None:
    """Print one line on standard error."""
    print(plain(str(text)), file=sys.stderr)


def complain(error: Exception) -> None:
    """Print one line on standard error for each of the problems that an error is about."""
    for problem in getattr(error, "problems", (str(error),)):
        warn(shorten(problem, LONGEST))


def to_json(data: object, indent: int = 1) -> str:
    """Data as JSON that every parser takes: in ASCII, and null for what is no number."""
    return json.dumps(_finite(data), indent=indent, allow_nan=False)


def _finite(data: object) -> object:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


class Rows(Table):
    """A plain table of escaped texts; one that does not fit can be read as a list instead."""

    def __init__(self, **options: Any) -> None:
        super().__init__(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, **options)
        self.texts: list[list[Text]] = []

    def add_column(self, header: object = "", *arguments: Any, **options: Any) -> None:
        """Add a column, whose header is a text and no markup."""
        super().add_column(_text(header), *arguments, **options)

    def add_row(self, *cells: object, **options: Any) -> None:
        """Add a row of texts, none of them markup."""
        self.texts.append([_text(cell) for cell in cells])
        super().add_row(*self.texts[-1], **options)

    def as_list(self) -> Group:
        """Every row as lines of ``header: cell``; empty cells are left out."""
        headers = [_text(column.header) for column in self.columns]
        lines: list[Text] = []
        for row in self.texts:
            pairs = zip(headers, row, strict=False)
            for header, cell in pairs:
                if cell.plain.strip():
                    label = (header, ": ") if header.plain.strip() else ()
                    lines.append(Text.assemble(*label, Text(" ").join(cell.split("\n"))))
            lines.append(Text())
        return Group(*lines[:-1])

    def slack(self) -> int:
        """Columns of a terminal that can be saved where words may be wrapped."""
        saved = 0
        for number, column in enumerate(self.columns):
            texts = [
                _text(column.header),
                *(row[number] for row in self.texts if number < len(row)),
            ]
            lines = [line for text in texts for line in text.plain.splitlines()]
            words = [word for line in lines for word in line.split()]
            if not column.no_wrap:
                saved += max(map(cell_len, lines), default=0) - max(map(cell_len, words), default=0)
        return saved


def _text(value: object) -> Text:
    return value if isinstance(value, Text) else Text(plain(str(value)))


class Screen(Console):
    """A console that prints text as it is: no markup, no emoji codes, no coloring of numbers."""

    def __init__(self, *, stderr: bool = False, **options: Any) -> None:
        stream = sys.stderr if stderr else sys.stdout
        on_screen = stream is not None and stream.isatty()
        options = {"width": None if on_screen else NO_WRAP, **options}
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False, **options)

    def print(self, *objects: object, **options: Any) -> None:
        """Print texts escaped, and tables that are too wide as lists: no number is cropped."""
        fitted = list[object]()
        for thing in objects:
            if isinstance(thing, str):
                fitted.append(Text(plain(thing)))
            elif isinstance(thing, Rows):
                natural = Measurement.get(self, self.options.update(width=NO_WRAP), thing).maximum
                fits = natural - thing.slack() <= self.width
                fitted.append(thing if fits else thing.as_list())
            else:
                fitted.append(thing)
        super().print(*fitted, **options)


def console(*, stderr: bool = False) -> Screen:
    """Standard output, or standard error."""
    return Screen(stderr=stderr)


def table(*columns: str, left: Sequence[str] = ()) -> Rows:
    """A plain table; columns are flush right but those in ``left``."""
    result = Rows()
    for column in columns:
        flush_left = column in left
        result.add_column(
            column,
            justify="left" if flush_left else "right",
            no_wrap=not flush_left,
            overflow="fold",
        )
    return result


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """A sign of life on a terminal's standard error."""
    with console(stderr=True).status(Text(plain(text)), spinner=SPINNER):
        yield


def steps() -> Progress:
    """A bar on a terminal's standard error that is gone afterwards; see :func:`Progress`."""
    described = TextColumn("{task.description}", markup=False)
    bar = Progress.get_default_columns()[1:]
    return Progress(described, *bar, console=console(stderr=True), transient=True)
