"""Words for numbers and lists, the same in verdicts, tables and figures."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tokensieve.core.report.statistics.intervals import Interval

MINUS = "\N{MINUS SIGN}"
UNKNOWN = "\N{EN DASH}"
SMALLEST_P = 0.001
FEW_NAMES = 6


def number(value: float, digits: int = 1, *, plus: bool = False) -> str:
    """``+3.1`` or ``0.4`` with a minus; a dash for what is no number, and no negative zero."""
    if not math.isfinite(value):
        return UNKNOWN
    rounded = round(value, digits)
    sign = MINUS if rounded < 0 else "+" if plus and rounded > 0 else ""
    return f"{sign}{abs(rounded):.{digits}f}"


def span(interval: Interval, digits: int = 1, *, plus: bool = False) -> str:
    """``0.4 to 5.9``."""
    low, high = (number(end, digits, plus=plus) for end in (interval.low, interval.high))
    return f"{low} to {high}"


def points(interval: Interval, *, plus: bool = True) -> str:
    """``+3.1 points, 95 % +0.4 to +5.9``: a difference of accuracies."""
    hundred = interval.times(100)
    return f"{number(hundred.value, plus=plus)} points, 95 % {span(hundred, plus=plus)}"


def percents(interval: Interval) -> str:
    """``91.2 %, 95 % 88.0 to 94.1``: a share."""
    hundred = interval.times(100)
    return f"{number(hundred.value)} %, 95 % {span(hundred)}"


def coefficient(interval: Interval) -> str:
    """``0.71, 95 % 0.52 to 0.84``: a correlation."""
    return f"{number(interval.value, 2)}, 95 % {span(interval, 2)}"


def in_cell(interval: Interval | None, digits: int = 1, factor: float = 100) -> str:
    """``91.2 [88.0, 94.1]``, for a table."""
    if interval is None:
        return UNKNOWN
    scaled = interval.times(factor)
    low, high = number(scaled.low, digits), number(scaled.high, digits)
    return f"{number(scaled.value, digits)} [{low}, {high}]"


def p_value(value: float) -> str:
    """``p < 0.001`` or ``p = 0.034``."""
    return "p < 0.001" if value < SMALLEST_P else f"p = {value:.3f}"


def listed(names: Sequence[str], most: int = FEW_NAMES) -> str:
    """``a, b and c``; many names are cut short and counted."""
    if len(names) > most:
        return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more"
    if len(names) <= 1:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def counted(count: int, noun: str) -> str:
    """``1 method``, ``3 methods``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def out_of(part: int, whole: int, noun: str) -> str:
    """``2 of 3 models``."""
    return f"{part} of {counted(whole, noun)}"
