"""Scores of a benchmark: from what lmms-eval logs to one per question, paired by its number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from tokensieve.core.errors import TaskError, did_you_mean

CLOSE = 1e-6


@dataclass(frozen=True)
class Metrics:
    """A benchmark's metrics in its own order, and what it says about them.

    ``score_key`` is where a metric that gives a mapping per question has its number.
    """

    names: Sequence[str]
    lower_is_better: frozenset[str] = frozenset()
    score_key: str = "score"
    wanted: str = ""


@dataclass(frozen=True)
class Scores:
    """The score of every question by its number, and the metrics that it was taken from."""

    by_document: dict[int, float]
    metrics: tuple[str, ...]
    logged: dict[int, Mapping[str, Any]] = field(default_factory=dict)


def read_scores(samples: Sequence[Mapping[str, Any]], metrics: Metrics) -> Scores:
    """The first metric that gives numbers per question (a question may lack it: then the next).

    Raises:
        TaskError: no metric does, or one gives no number for some question. Never a 0 instead.
    """
    first: dict[int, Mapping[str, Any]] = {}
    for sample in samples:  # further answer filters repeat every question
        first.setdefault(int(sample["doc_id"]), sample)
    if metrics.wanted and metrics.wanted not in metrics.names:
        hint = did_you_mean(metrics.wanted, metrics.names)
        raise TaskError(f"unknown metric {metrics.wanted!r}{hint}")
    if metrics.wanted in metrics.lower_is_better:
        raise TaskError(f"metric {metrics.wanted!r} is better when lower: no score of a study")
    names = [metrics.wanted] if metrics.wanted else []
    for name in () if names else metrics.names:  # with a number for some question: then for all
        numbers = (_number(one.get(name), metrics.score_key) for one in first.values())
        if name not in metrics.lower_is_better and any(one is not None for one in numbers):
            names.append(name)
    if not names:
        raise TaskError(_reason(first, metrics))
    found, used = {}, dict.fromkeys(names, False)
    for number, sample in first.items():
        own = next((name for name in names if name in sample), None)
        value = None if own is None else _number(sample[own], metrics.score_key)
        if own is None or value is None:
            shown = "nothing" if own is None else f"{sample[own]!r}"[:80]
            raise TaskError(f"question {number}: metric {own or names[0]!r} gives {shown}")
        found[number], used[own] = value, True
    return Scores(found, tuple(name for name in names if used[name]), first)


def _number(value: Any, key: str) -> float | None:
    if isinstance(value, Mapping):
        value = value.get(key)
    if hasattr(value, "item") and getattr(value, "size", 0) == 1:  # of numpy
        value = value.item()
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _reason(samples: Mapping[int, Mapping[str, Any]], metrics: Metrics) -> str:
    """The reason why no metric can be paired."""
    one: Mapping[str, Any] = next(iter(samples.values()), {})
    shown = []
    for name in metrics.names:
        if name in metrics.lower_is_better:
            shown.append(f"{name} (better when lower)")
        elif name in one:
            shown.append(f"{name} ({f'{one[name]!r}'[:40]})")
        else:
            shown.append(name)
    return (
        "no metric of it gives a number per question, so that answers cannot be compared question "
        f"by question: {', '.join(shown) or 'it has none'}"
    )


def note_of(scores: Scores, aggregated: Mapping[str, Any]) -> str | None:
    """A note where the study's mean is not what the benchmark itself reports."""
    values = list(scores.by_document.values())
    mean, name = fmean(values), scores.metrics[0]
    own = [value for key, value in aggregated.items() if key.partition(",")[0] == name]
    notes = []
    if len(scores.metrics) > 1:
        notes.append(f"scores are taken from {', '.join(scores.metrics)}, whichever a question has")
    elif own and isinstance(own[0], int | float) and not math.isclose(own[0], mean, abs_tol=CLOSE):
        notes.append(
            f"the benchmark makes {own[0]:.6g} of {name}, whose mean over questions is {mean:.6g}"
        )
    if min(values) < 0 or max(values) > 1:
        notes.append("scores are not between 0 and 1: their mean is no share of right answers")
    return "; ".join(notes) or None
