"""Text in Markdown files: names from anywhere show as they are, and mark nothing up."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tokensieve.core.foreign import plain

_MARKS = re.compile(
    r"[\\`*|~$]"  # code, emphasis, columns, mathematics
    r"|(?<!\w)_|_(?!\w)"  # emphasis; not within a word
    r"|\](?=[(\[:])|!(?=\[)"  # links, notes and pictures
    r"|(?<=\w):(?=//)|(?<=www)\.|@(?=\w)",  # addresses, which become links by themselves
    re.IGNORECASE,
)
_START = re.compile(r"^(?:[#>+-]|=+$|\d+(?=[.)]))")  # headings, quotes, lists
_ENTITIES = {"<": "&lt;", "&": "&amp;"}
_TAGS = re.compile(r"<(?=[A-Za-z/!?])|&(?=#?\w+;)")


def escaped(text: str) -> str:
    """The text in one line, as Markdown that shows it literally."""
    named = _TAGS.sub(lambda found: _ENTITIES[found[0]], plain(" ".join(text.split())))
    return _MARKS.sub(lambda found: _guarded(found[0]), named)


def paragraph(text: str) -> str:
    """The text of :func:`escaped`, for the start of a line of the file."""
    return _START.sub(lambda found: _guarded(found[0]), escaped(text))


def _guarded(mark: str) -> str:
    """Escape a mark; a digit cannot be escaped, so what follows the number of a list is."""
    return f"{mark}\\" if mark.isdigit() else f"\\{mark}"


def pipe_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of literal texts."""
    lines = [_pipes(map(escaped, head)), "|" + " --- |" * len(head)]
    return "\n".join([*lines, *(_pipes(map(escaped, row)) for row in rows)])


def _pipes(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
