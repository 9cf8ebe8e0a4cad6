"""Calling the command line in tests: what came back, and what an error looks like."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


Call = Callable[..., Result]


def one_line(result: Result, *parts: str) -> None:
    """A user's error: one line on stderr, nothing on stdout, exit code 2."""
    assert result.code == 2
    assert result.out == ""
    assert_one_line(result.err)
    for part in parts:
        assert part in result.err


def assert_one_line(text: str) -> None:
    """One line, in which there is nothing that a terminal obeys, and no traceback."""
    assert len(text.strip().splitlines()) == 1, text
    assert_harmless(text)
    assert "Traceback" not in text


def assert_harmless(text: str) -> None:
    """No control codes but ends of lines, no marks that turn the writing, no half characters."""
    obeyed = [s for s in text if s != "\n" and unicodedata.category(s) in ("Cc", "Cs", "Zl", "Zp")]
    turned = [s for s in text if unicodedata.bidirectional(s) in BIDI]
    assert not obeyed + turned, ascii(text)


BIDI = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
