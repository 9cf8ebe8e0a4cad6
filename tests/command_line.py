"""Calling the command line in tests: what came back, and what an error looks like."""

from __future__ import annotations

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
    assert len(result.err.strip().splitlines()) == 1, result.err
    for part in parts:
        assert part in result.err
