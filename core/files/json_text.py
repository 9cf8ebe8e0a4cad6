"""JSON that somebody else wrote: read so that nothing in it is lost, or its flaw has a place."""

from __future__ import annotations

import json
import math
import re
from itertools import accumulate
from pathlib import Path
from typing import Any

from tokensieve.core.errors import TokensieveError
from tokensieve.core.files.plain import MEGABYTE
from tokensieve.core.files.text import read_text
from tokensieve.core.foreign import shorten, shown

MAX_DEPTH = 64  # the files of a checkpoint have ten or so
_STRING = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?'  # to the end of the text if nobody ends it
_TOKEN = re.compile(rf'({_STRING})(\s*:)?|[\[\]{{}}]|[^\s\[\]{{}}",:]+', re.DOTALL)
_ALL_ELSE = re.compile(rf'{_STRING}|[^\[\]{{}}"]+', re.DOTALL)
_STEPS = {"[": 1, "{": 1, "]": -1, "}": -1}
TOO_DEEP = f"lists and mappings in more than {MAX_DEPTH} others"


class JsonFlaw(ValueError):
    """A flaw of a text of JSON; ``position`` counts the characters before it."""

    def __init__(self, problem: str, position: int) -> None:
        super().__init__(problem)
        self.position = position


def parse_json(text: str) -> object:
    """Read JSON as plain data; a key that is given twice and a number that is none are flaws.

    Raises:
        JsonFlaw: with the place.
    """
    if text.count("[") + text.count("{") > MAX_DEPTH:  # parsing takes stack for each open one
        steps = map(_STEPS.__getitem__, _ALL_ELSE.sub("", text))
        if max(accumulate(steps), default=0) > MAX_DEPTH:
            raise _flaw(text) or JsonFlaw(TOO_DEEP, 0)
    try:
        data: object = json.loads(
            text, object_pairs_hook=_mapping, parse_constant=_number, parse_float=_number
        )
    except json.JSONDecodeError as error:
        raise JsonFlaw(error.msg, error.pos) from None
    except ValueError as error:  # ours, or of integers with thousands of digits
        raise _flaw(text) or JsonFlaw(str(error), 0) from None
    return data


def read_json(path: Path, kind: type[TokensieveError], most: int = MEGABYTE) -> Any:
    """The data that a file of JSON holds.

    Raises:
        TokensieveError: of that kind: it cannot be read, or with ``FILE:LINE:COL`` what is wrong.
    """
    text = read_text(path, kind, most)
    try:
        return parse_json(text)
    except JsonFlaw as flaw:
        before = text[: flaw.position]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        place = f"{shorten(str(path))}:{line}:{column}"
        raise kind(f"{place}: not valid JSON: {flaw}") from None


def _mapping(pairs: list[tuple[str, object]]) -> dict[str, object]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        raise ValueError("a key is given twice")
    return mapping


def _number(text: str) -> float:
    problem = _no_number(text)
    if problem:
        raise ValueError(problem)
    return float(text)


def _no_number(text: str) -> str | None:
    """The reason why a text in the place of a number is none; None for numbers and for words."""
    try:
        if text.removeprefix("-").isdecimal():
            int(text)
        elif not math.isfinite(float(text)):
            return f"{shorten(text, 60)} is no number that can be compared"
    except ValueError:
        digits = sum(map(str.isdigit, text))  # Python reads no integers of thousands of digits
        long = digits == len(text.removeprefix("-"))
        return f"a number of {digits:,} digits is too long" if long else None
    return None


def _flaw(text: str) -> JsonFlaw | None:
    """The first flaw that the grammar of JSON allows; what it forbids is found elsewhere."""
    levels: list[set[str] | None] = []
    for token in _TOKEN.finditer(text):
        sign, problem = token[0][0], None
        if sign in "[{":
            levels.append(set() if sign == "{" else None)
            problem = TOO_DEEP if len(levels) > MAX_DEPTH else None
        elif sign in "]}":
            del levels[-1:]
        elif token[1] is None:
            problem = _no_number(token[0])
        elif token[2] and levels and levels[-1] is not None:
            try:
                key = json.loads(token[1])
            except ValueError:  # the grammar says so with a better text
                continue
            problem = f"the key {shown(key)} is given twice" if key in levels[-1] else None
            levels[-1].add(key)
        if problem:
            return JsonFlaw(problem, token.start())
    return None
