"""What the numbers say, in plain words, "no evidence" included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from tokensieve.core.report.comparing import (
    Contest,
    contests_by_model,
    corrected,
    pooled_contest,
)
from tokensieve.core.report.generalizing import HeldOut, RankAgreement
from tokensieve.core.report.results import Ground, Results
from tokensieve.core.report.statistics import PLACES, Interval, percentile_interval
from tokensieve.core.report.wording import (
    coefficient,
    counted,
    listed,
    number,
    out_of,
    p_value,
    percents,
    points,
    span,
)

Kind = Literal["yes", "no", "mixed", "none"]
MOST_CLAIMS = 10
FEW_RIVALS = 5  # so few are all compared with each other; of more, the best with the others


@dataclass(frozen=True)
class Verdict:
    """A sentence made from numbers.

    ``kind``: the evidence is for it, against it, goes both ways, or there is none.
    """

    topic: str
    kind: Kind
    text: str


@dataclass(frozen=True)
class Tally:
    """One method against another, over all models and on each."""

    method: str
    other: str
    overall: Contest
    by_model: tuple[Contest, ...]

    @property
    def won(self) -> int:
        """Models on which it is better."""
        return sum(contest.outcome > 0 for contest in self.by_model)

    @property
    def lost(self) -> int:
        """Models on which it is worse."""
        return sum(contest.outcome < 0 for contest in self.by_model)


def tallies(results: Results, pairs: Sequence[tuple[str, str]]) -> list[Tally]:
    """Each pair that was measured; p-values are corrected for all of them together."""
    by_model = contests_by_model(results, pairs)
    found = [
        pooled_contest(results, *pair, results.pooled)
        or pooled_contest(results, *pair, results.models)
        for pair in pairs
    ]
    known = {
        (contest.method, contest.other): contest
        for contest in corrected([contest for contest in found if contest is not None])
    }
    return [
        Tally(
            *pair,
            known[pair],
            tuple(c for c in by_model if (c.method, c.other) == pair),
        )
        for pair in pairs
        if pair in known
    ]


def default_claims(results: Results) -> list[tuple[str, str]]:
    """Pairs to compare where nobody named any: the better method stands first."""
    rivals = results.rivals
    if len(rivals) <= FEW_RIVALS:
        return list(combinations(rivals, 2))
    return [(rivals[0], other) for other in rivals[1:]]


def stakes(results: Results) -> list[Verdict]:
    """Whether pruning blindly hurts at all: if not, nothing below can be seen."""
    losses, draws = [], []
    for place in results.places():
        whole = results.untouched.get(Ground(place.model, place.task))
        if place.method == "random" and whole is not None:
            lost = whole.scores.mean(axis=0) - results.scores(place)
            losses.append(float(lost.mean()))
            draws.append(results.weights[place.task] @ lost)
    if not losses:
        return []
    loss = percentile_interval(float(np.mean(losses)), np.mean(draws, axis=0))
    topic, shown = "Is there something to lose?", points(loss, plus=False)
    if loss.sign > 0:
        text = f"Yes: dropping tokens at random costs {shown}. The tasks can tell methods apart."
        return [Verdict(topic, "yes", text)]
    text = (
        f"No evidence: dropping tokens at random costs {shown}. Where nothing is lost, methods "
        "cannot differ; read all that follows with this in mind, or take smaller budgets."
    )
    return [Verdict(topic, "none", text)]


def against_floor(held: Sequence[Tally], floor: str) -> list[Verdict]:
    """How many methods beat a baseline, and which do not."""
    own = [tally for tally in held if tally.other == floor]
    if not own:
        return []
    models = {len(tally.by_model) for tally in own}
    everywhere = [t for t in own if t.won == len(t.by_model)]
    somewhere = [t for t in own if 0 < t.won < len(t.by_model)]
    worse = [t.method for t in own if not t.won and t.lost]
    silent = [t.method for t in own if not t.won and not t.lost]
    topic, parts = f"Is it better than {floor}?", []
    if everywhere:
        best = max(everywhere, key=lambda t: round(t.overall.difference.value, PLACES))
        verb = "beats" if len(everywhere) == 1 else "beat"
        parts.append(
            f"{out_of(len(everywhere), len(own), 'method')} {verb} {floor} at equal cost on "
            f"{_every(models)}, most of all {best.method} ({points(best.overall.difference)})."
        )
    if somewhere:
        names = [f"{t.method} ({t.won} of {len(t.by_model)})" for t in somewhere]
        parts.append(f"On some models only: {listed(names)}.")
    if silent:
        parts.append(f"No evidence of any difference on any model: {listed(silent)}.")
    if worse:
        parts.append(
            f"Worse than {floor} on at least one model and better on none: {listed(worse)}."
        )
    if not everywhere and not somewhere:
        parts.insert(0, f"No method is shown to beat {floor} at equal cost.")
        return [Verdict(topic, "no" if worse else "none", " ".join(parts))]
    return [Verdict(topic, "yes" if len(everywhere) == len(own) else "mixed", " ".join(parts))]


def _every(models: set[int]) -> str:
    """On all models; some methods run on fewer of them than others."""
    if len(models) > 1:
        return "every model that they run on"
    (count,) = models
    return "the one model" if count == 1 else f"all {count} models"


def claims(held: Sequence[Tally]) -> list[Verdict]:
    """A verdict for each pair; one for many pairs that share their first method."""
    if len(held) <= MOST_CLAIMS or len({tally.method for tally in held}) > 1:
        return [claim(tally) for tally in held]
    best, models = held[0].method, len(held[0].by_model)
    groups: dict[str, list[str]] = {"ahead": [], "open": [], "behind": []}
    for tally in held:
        won, lost = (
            tally.won + (tally.overall.outcome > 0),
            tally.lost + (tally.overall.outcome < 0),
        )
        key = "ahead" if won and not lost else "behind" if lost and not won else "open"
        groups[key].append(
            f"{tally.other} ({number(100 * tally.overall.difference.value, plus=True)})"
        )
    words = {
        "ahead": f"Better on at least one of {counted(models, 'model')} than",
        "open": "No evidence, or both ways, against",
        "behind": "Worse than",
    }
    parts = [f"{words[key]} {listed(group, len(held))}." for key, group in groups.items() if group]
    kind: Kind = "yes" if not groups["open"] and not groups["behind"] else "mixed"
    kind = kind if groups["ahead"] else "none"
    topic = f"Is {best}, the best on average, better than the others?"
    return [Verdict(topic, kind, f"{' '.join(parts)} In brackets: points over all models.")]


def claim(tally: Tally) -> Verdict:
    """``A beats B at equal cost on 2 of 3 models (over all +3.1 points, 95 % ...)``."""
    one, two, models = tally.method, tally.other, len(tally.by_model)
    topic = f"{one} or {two}?"
    if tally.won and tally.lost:
        on, off = (
            listed([c.models[0] for c in tally.by_model if c.outcome == sign]) for sign in (1, -1)
        )
        text = f"It depends on the model: {one} beats {two} on {on} and loses on {off}"
        return Verdict(topic, "mixed", f"{text} ({_overall(tally)}).")
    if tally.won or tally.lost:
        better, worse = (one, two) if tally.won else (two, one)
        count = out_of(tally.won or tally.lost, models, "model")
        rest = models - tally.won - tally.lost
        silent = f", no evidence on the other{'s' if rest > 1 else ''}" if rest else ""
        text = f"{better} beats {worse} at equal cost on {count}{silent}"
        kind: Kind = "yes" if tally.won else "no"
        return Verdict(topic, kind, f"{text} ({_overall(tally, 1 if tally.won else -1)}).")
    if tally.overall.outcome:
        better = one if tally.overall.outcome > 0 else two
        text = f"{better} is ahead over all models together, though on none alone"
        return Verdict(topic, "mixed", f"{text} ({_overall(tally, tally.overall.outcome)}).")
    size = 100 * max(abs(tally.overall.difference.low), abs(tally.overall.difference.high))
    text = (
        f"No evidence that {one} and {two} differ at equal cost on any of "
        f"{counted(models, 'model')} ({_overall(tally)}): over all, a difference above "
        f"{number(size)} points is unlikely."
    )
    return Verdict(topic, "none", text)


def _overall(tally: Tally, sign: int = 1) -> str:
    difference = points(tally.overall.difference.times(sign))
    apart = [c.models[0] for c in tally.by_model if c.models[0] not in tally.overall.models]
    but = f" but {listed(apart)}" if apart else ""
    return f"over all{but} {difference}; corrected {p_value(tally.overall.adjusted)}"


def ranking(agreement: RankAgreement | None, between: str) -> list[Verdict]:
    """Whether the order of the methods carries over between models or tasks."""
    if agreement is None:
        return []
    tau, topic = agreement.mean, f"Do rankings carry over between {between}s?"
    shown = f"Kendall's tau {coefficient(tau)}, mean over pairs of {between}s"
    if tau.sign > 0 and tau.low >= 0.5:  # noqa: PLR2004 - three of four pairs in the same order
        return [Verdict(topic, "yes", f"Yes: {between}s rank the methods much alike ({shown}).")]
    if tau.sign > 0:
        text = f"In part: {between}s rank the methods more alike than chance would ({shown})."
        return [Verdict(topic, "mixed", text)]
    if tau.sign < 0:
        return [
            Verdict(topic, "no", f"No: {between}s rank the methods against each other ({shown}).")
        ]
    return [Verdict(topic, "none", f"No evidence that they do ({shown}).")]


def held_out(entries: Sequence[HeldOut]) -> list[Verdict]:
    """What choosing by the other models is worth."""
    return [_held_out_verdict(entry) for entry in entries]


def _held_out_verdict(entry: HeldOut) -> Verdict:
    topic, hundred = f"Is the others' favorite good on {entry.model}?", entry.loss.times(100)
    if entry.choice == entry.best:
        text = (
            f"{entry.choice}, best on the other models, is best here too (loss 95 % "
            f"{span(hundred)} points)"
        )
    else:
        text = (
            f"{entry.choice}, best on the other models, is {number(hundred.value)} points (95 % "
            f"{span(hundred)}) behind {entry.best}, the best here"
        )
    if entry.gain is None:
        return Verdict(topic, "none", f"{text}.")
    against = f"against random {points(entry.gain)}"
    if entry.gain.sign <= 0:
        kind: Kind = "no" if entry.gain.sign else "none"
        tail = against if entry.gain.sign else f"no evidence of a gain {against}"
        return Verdict(topic, kind, f"{text}; {tail}.")
    return Verdict(topic, "mixed" if entry.loss.low > 0 else "yes", f"{text}; {against}.")


def variance(shares: dict[str, Interval]) -> list[Verdict]:
    """Which of model, task, method and their interplay makes the difference."""
    if not shares:
        return []
    method, noise = shares["method"], shares["drawn examples"]
    interplay = [share for name, share in shares.items() if "method" in name and name != "method"]
    together = Interval(
        *(sum(getattr(s, end) for s in interplay) for end in ("value", "low", "high"))
    )
    text = (
        f"Of the variance between cells at equal cost, the method alone makes {percents(method)}; "
        f"its interplay with model and task, all terms together, {percents(together)}; the draw of "
        f"examples {percents(noise)}."
    )
    topic = "Method, or method for a model?"
    if method.low > together.high:
        return [Verdict(topic, "yes", f"{text} A method's merit is mostly its own.")]
    if method.high < together.low:
        return [Verdict(topic, "no", f"{text} What a method is worth depends on where it is used.")]
    return [Verdict(topic, "none", f"{text} No evidence which of the two is larger.")]
