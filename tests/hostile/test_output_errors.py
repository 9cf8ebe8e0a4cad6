"""Errors of libraries in a line that says what is wrong, however many lines they are written in."""

from __future__ import annotations

import pytest
from command_line import clear

from tokensieve.core.foreign import reason, said

TEXTS = {
    "one line": ("it broke", "it broke"),
    "more lines": ("it broke\nbecause of this", "it broke"),
    "a heading": (
        "Validation error for 'x':\n    got a text",
        "Validation error for 'x': got a text",
    ),
    "a heading and more": ("Errors:\n one\n two", "Errors: one"),
    "a heading with spaces": ("Errors:  \r\n\tone", "Errors: one"),
    "a heading alone": ("Errors:", "Errors:"),
    "a heading before nothing": ("Errors:\n\n", "Errors:"),
    "a heading behind nothing": ("\n\nErrors:\none", "Errors: one"),
    "escapes behind a heading": ("Errors:\n\x1b[31mred\x07", "Errors: \\x1b[31mred\\x07"),
    "marks behind a heading": ("Errors:\n\u202eder", "Errors: \\u202eder"),
    "separators for lines": ("Errors:\u2028one\u2028two", "Errors: one"),
    "halves behind a heading": ("Errors:\n\ud800", "Errors: \\ud800"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_an_error_says_what_is_wrong(case: str) -> None:
    text, line = TEXTS[case]
    assert reason(ValueError(text)) == line
    assert said(KeyError(text)).startswith("KeyError: ")
    assert said(ValueError(text)) == f"ValueError: {line}"
    clear(reason(ValueError(text)))


@pytest.mark.parametrize("many", [1_000, 100_000])
def test_a_long_one_is_cut(many: int) -> None:
    assert len(reason(ValueError(f"Errors:\n{'x' * many}"))) < 300
