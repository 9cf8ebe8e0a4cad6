"""What the scorers look at, in plain words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tokensieve.core.report.signals import (
    TRUTH,
    Anatomy,
    Closer,
    Profile,
    closer_to_truth,
    pooled_profile,
)
from tokensieve.core.report.verdicts import Kind, Verdict
from tokensieve.core.report.wording import (
    coefficient,
    counted,
    listed,
    number,
    out_of,
    percents,
    span,
)

CLEAR_BIAS = 0.2  # rank correlation with the place from which on it is worth a sentence
SIGNIFICANT = 0.05


def signal_verdicts(found: Sequence[Anatomy], claims: Sequence[tuple[str, str]]) -> list[Verdict]:
    """Truth, relevance and position; and who is closer to the truth."""
    if not found:
        return []
    names = list(dict.fromkeys(p.scorer for a in found for p in a.profiles if p.scorer != TRUTH))
    pooled = {name: pooled_profile(found, name) for name in names}
    scorers = sorted(names, key=lambda name: -_closeness(pooled[name]))
    known = [pair for pair in claims if set(pair) <= set(scorers)]
    return [
        _truth(pooled, scorers),
        *_closer(found, known or [(scorers[0], other) for other in scorers[1:]]),
        *_relevance(pooled, scorers),
        *_position(pooled, scorers),
    ]


def _closeness(profile: Profile) -> float:
    truth = profile.truth
    return truth.value if truth is not None and math.isfinite(truth.value) else -1.0


def _truth(pooled: dict[str, Profile], scorers: Sequence[str]) -> Verdict:
    """Does a scorer rank tokens as the answer needs them?"""
    own = [(name, truth) for name in scorers if (truth := pooled[name].truth) is not None]
    return _sorted_out(
        "Which scorers know which tokens matter?",
        [(name, truth.sign, coefficient(truth)) for name, truth in own],
        ("Rank tokens as leaving them out does", "Rank them the other way round"),
        "mean rank correlation with the leave-one-out worth, all images",
    )


def _relevance(pooled: dict[str, Profile], scorers: Sequence[str]) -> list[Verdict]:
    """Which scorers put the relevant region on top more often than chance."""
    rows, chance = [], 0.0
    for name in scorers:
        hits = pooled[name].hits
        if hits is not None:
            chance = pooled[name].chance or 0.0
            sign = int(hits.low > chance) - int(hits.high < chance)
            rows.append((name, sign, percents(hits)))
    if not rows:
        return []
    basis = f"share of a scorer's top tokens there, all images; chance {number(100 * chance)} %"
    words = ("More than chance would", "Less than chance would")
    return [_sorted_out("Which scorers point at the relevant region?", rows, words, basis)]


def _sorted_out(
    topic: str, rows: Sequence[tuple[str, int, str]], words: tuple[str, str], basis: str
) -> Verdict:
    """Rows ``(name, sign, numbers)``: those above, those below, and those without evidence."""
    groups = {
        sign: [f"{name} ({shown})" for name, own, shown in rows if own == sign]
        for sign in (1, -1, 0)
    }
    headings = {1: words[0], -1: words[1], 0: "No evidence either way"}
    parts = [f"{headings[sign]}: {listed(group)}." for sign, group in groups.items() if group]
    up, down = bool(groups[1]), bool(groups[-1])
    kind: Kind = (
        "mixed" if up and (down or groups[0]) else "yes" if up else "no" if down else "none"
    )
    return Verdict(topic, kind, f"{' '.join(parts)} ({basis[0].upper()}{basis[1:]}.)")


def _closer(found: Sequence[Anatomy], pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
    rows = closer_to_truth(found, pairs)
    return [
        _closer_verdict(*pair, own)
        for pair in pairs
        if (own := [row for row in rows if (row.scorer, row.other) == pair])
    ]


def _closer_verdict(one: str, two: str, rows: Sequence[Closer]) -> Verdict:
    won, lost = (
        [r for r in rows if r.difference.sign == sign and r.adjusted < SIGNIFICANT]
        for sign in (1, -1)
    )
    detail = "; ".join(
        f"{row.model}: {number(row.difference.value, 2, plus=True)}, 95 % "
        f"{span(row.difference, 2, plus=True)}"
        for row in rows
    )
    topic, tail = (
        f"Which is closer to the truth, {one} or {two}?",
        f"(difference of rank correlations, {detail})",
    )
    if won and lost:
        on, off = (listed([row.model for row in side]) for side in (won, lost))
        return Verdict(topic, "mixed", f"It depends: {one} on {on}, {two} on {off} {tail}.")
    if won or lost:
        better = one if won else two
        text = f"{better}, on {out_of(len(won or lost), len(rows), 'model')}"
        return Verdict(topic, "yes" if won else "no", f"{text} {tail}.")
    return Verdict(topic, "none", f"No evidence on any of {counted(len(rows), 'model')} {tail}.")


def _position(pooled: dict[str, Profile], scorers: Sequence[str]) -> list[Verdict]:
    """Scorers whose ranking leans on the place of a token."""

    found_here = [(scorer, pooled[scorer].position) for scorer in scorers]
    late, early = (
        [
            f"{scorer} ({coefficient(interval)})"
            for scorer, interval in found_here
            if sign * (interval.low if sign > 0 else interval.high) > CLEAR_BIAS
        ]
        for sign in (1, -1)
    )
    topic = "Does a token's place decide its score?"
    if not late and not early:
        text = (
            f"No evidence of a clear lean (rank correlation with the place beyond {CLEAR_BIAS}) in "
            "any scorer; see the profiles for what is not a straight line."
        )
        return [Verdict(topic, "none", text)]
    parts = [f"Late tokens score higher with {listed(late)}."] if late else []
    parts += [f"Early tokens score higher with {listed(early)}."] if early else []
    return [Verdict(topic, "mixed", " ".join(parts))]
