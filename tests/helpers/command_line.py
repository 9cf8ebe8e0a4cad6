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


LONGEST = 1500  # characters: what is allowed may be a long list


def clear(said: str, *parts: str) -> None:
    """What an error says: one line that any terminal takes, with what it is to name."""
    assert len(said.strip().splitlines()) == 1, said
    assert_harmless(said)
    assert said.strip().isprintable(), ascii(said)
    assert len(said) < LONGEST, said
    assert "Traceback" not in said
    for part in parts:
        assert part in said, said


def one_line(result: Result, *parts: str) -> None:
    """A user's error: one line on stderr, nothing on stdout, exit code 2."""
    assert result.code == 2
    assert result.out == ""
    clear(result.err, *parts)


def assert_harmless(text: str) -> None:
    """No control codes but ends of lines, no marks that turn the writing, no half characters."""
    obeyed = [s for s in text if s != "\n" and unicodedata.category(s) in ("Cc", "Cs", "Zl", "Zp")]
    turned = [s for s in text if unicodedata.bidirectional(s) in BIDI]
    assert not obeyed + turned, ascii(text)


BIDI = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
