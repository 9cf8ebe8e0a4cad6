"""Verdicts on methods: is there something to lose, is a baseline beaten, which one is better."""

from __future__ import annotations

from collections.abc import Sequence

from tokensieve.core.report.findings.comparing import PairSummary
from tokensieve.core.report.statistics.intervals import PLACES, Interval
from tokensieve.core.report.verdicts.verdict import Kind, Verdict
from tokensieve.core.report.verdicts.wording import counted, listed, number, out_of, p_value, points

MOST_CLAIMS = 10


def headroom(loss: Interval | None) -> list[Verdict]:
    """Whether pruning blindly hurts at all: if not, nothing below can be seen.

    ``loss`` is the accuracy that dropping tokens at random costs.
    """
    if loss is None:
        return []
    topic, shown = "Is there something to lose?", points(loss, plus=False)
    if loss.sign > 0:
        text = f"Yes: dropping tokens at random costs {shown}. The tasks can tell methods apart."
        return [Verdict(topic, "yes", text)]
    text = (
        f"No evidence: dropping tokens at random costs {shown}. Where nothing is lost, methods "
        "cannot differ; read all that follows with this in mind, or take smaller budgets."
    )
    return [Verdict(topic, "none", text)]


def against_baseline(summaries: Sequence[PairSummary], baseline: str) -> list[Verdict]:
    """Whether methods beat a baseline, and which of them do not."""
    own = [summary for summary in summaries if summary.other == baseline]
    if not own:
        return []
    everywhere = [t for t in own if t.won == len(t.by_model)]
    somewhere = [t for t in own if 0 < t.won < len(t.by_model)]
    worse = [t.method for t in own if not t.won and t.lost]
    silent = [t.method for t in own if not t.won and not t.lost]
    topic, parts = f"Is it better than {baseline}?", []
    if everywhere:
        best = max(everywhere, key=lambda t: round(t.overall.difference.value, PLACES))
        verb = "beats" if len(everywhere) == 1 else "beat"
        count = max(len(summary.by_model) for summary in own)
        models = "the one model" if count == 1 else f"all {count} models"
        if any(len(summary.by_model) < count for summary in own):
            models = "every model that they run on"
        parts.append(
            f"{out_of(len(everywhere), len(own), 'method')} {verb} {baseline} at equal cost on "
            f"{models}, most of all {best.method} ({points(best.overall.difference)})."
        )
    if somewhere:
        names = [f"{t.method} ({t.won} of {len(t.by_model)})" for t in somewhere]
        parts.append(f"On some models only: {listed(names)}.")
    if silent:
        parts.append(f"No evidence of any difference on any model: {listed(silent)}.")
    if worse:
        parts.append(
            f"Worse than {baseline} on at least one model and better on none: {listed(worse)}."
        )
    if not everywhere and not somewhere:
        parts.insert(0, f"No method is shown to beat {baseline} at equal cost.")
        return [Verdict(topic, "no" if worse else "none", " ".join(parts))]
    return [Verdict(topic, "yes" if len(everywhere) == len(own) else "mixed", " ".join(parts))]


def claims(summaries: Sequence[PairSummary]) -> list[Verdict]:
    """A verdict for each pair; one for many pairs that share their first method."""
    if len(summaries) <= MOST_CLAIMS or len({summary.method for summary in summaries}) > 1:
        return [claim(summary) for summary in summaries]
    best, models = summaries[0].method, len(summaries[0].by_model)
    groups: dict[str, list[str]] = {"ahead": [], "open": [], "behind": []}
    for summary in summaries:
        won, lost = (
            summary.won + (summary.overall.outcome > 0),
            summary.lost + (summary.overall.outcome < 0),
        )
        key = "ahead" if won and not lost else "behind" if lost and not won else "open"
        groups[key].append(
            f"{summary.other} ({number(100 * summary.overall.difference.value, plus=True)})"
        )
    words = {
        "ahead": f"Better on at least one of {counted(models, 'model')} than",
        "open": "No evidence, or both ways, against",
        "behind": "Worse than",
    }
    parts = [
        f"{words[key]} {listed(group, len(summaries))}." for key, group in groups.items() if group
    ]
    kind: Kind = "yes" if not groups["open"] and not groups["behind"] else "mixed"
    kind = kind if groups["ahead"] else "none"
    topic = f"Is {best}, the best on average, better than the others?"
    return [Verdict(topic, kind, f"{' '.join(parts)} In brackets: points over all models.")]


def claim(summary: PairSummary) -> Verdict:
    """``A beats B at equal cost on 2 of 3 models (over all +3.1 points, 95 % ...)``."""
    one, two, models = summary.method, summary.other, len(summary.by_model)
    topic = f"{one} or {two}?"
    if summary.won and summary.lost:
        on, off = (
            listed([c.models[0] for c in summary.by_model if c.outcome == sign]) for sign in (1, -1)
        )
        text = f"It depends on the model: {one} beats {two} on {on} and loses on {off}"
        return Verdict(topic, "mixed", f"{text} ({_overall(summary)}).")
    if summary.won or summary.lost:
        better, worse = (one, two) if summary.won else (two, one)
        count = out_of(summary.won or summary.lost, models, "model")
        rest = models - summary.won - summary.lost
        silent = f", no evidence on the other{'s' if rest > 1 else ''}" if rest else ""
        text = f"{better} beats {worse} at equal cost on {count}{silent}"
        kind: Kind = "yes" if summary.won else "no"
        return Verdict(topic, kind, f"{text} ({_overall(summary, 1 if summary.won else -1)}).")
    if summary.overall.outcome:
        better = one if summary.overall.outcome > 0 else two
        text = f"{better} is ahead over all models together, though on none alone"
        return Verdict(topic, "mixed", f"{text} ({_overall(summary, summary.overall.outcome)}).")
    size = 100 * max(abs(summary.overall.difference.low), abs(summary.overall.difference.high))
    text = (
        f"No evidence that {one} and {two} differ at equal cost on any of "
        f"{counted(models, 'model')} ({_overall(summary)}): over all, a difference above "
        f"{number(size)} points is unlikely."
    )
    return Verdict(topic, "none", text)


def _overall(summary: PairSummary, sign: int = 1) -> str:
    difference = points(summary.overall.difference.times(sign))
    apart = [c.models[0] for c in summary.by_model if c.models[0] not in summary.overall.models]
    but = f" but {listed(apart)}" if apart else ""
    return f"over all{but} {difference}; corrected {p_value(summary.overall.adjusted)}"
