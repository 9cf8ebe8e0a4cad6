"""Verdicts on scorers: the truth, the relevant region, the place of a token."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tokensieve.core.report.findings.attribution import (
    TRUTH,
    Anatomy,
    Profile,
    compare_scorers,
    pooled_profile,
)
from tokensieve.core.report.verdicts.verdict import Kind, Verdict
from tokensieve.core.report.verdicts.wording import (
    coefficient,
    counted,
    listed,
    number,
    out_of,
    percents,
    span,
)

CLEAR_BIAS = 0.2  # rank correlation with the place from which on it is worth a sentence


def signal_verdicts(found: Sequence[Anatomy], claims: Sequence[tuple[str, str]]) -> list[Verdict]:
    """Verdicts on truth, relevance and position; and on which scorer is closer to the truth."""
    if not found:
        return []
    names = list(dict.fromkeys(p.scorer for a in found for p in a.profiles if p.scorer != TRUTH))
    pooled = {name: pooled_profile(found, name) for name in names}
    closeness = {
        name: profile.truth.value
        if profile.truth is not None and math.isfinite(profile.truth.value)
        else -1.0
        for name, profile in pooled.items()
    }
    scorers = sorted(names, key=lambda name: -closeness[name])
    truths = [(name, truth) for name in scorers if (truth := pooled[name].truth) is not None]
    known = [pair for pair in claims if set(pair) <= set(scorers)]
    return [
        _by_sign(
            "Which scorers know which tokens matter?",
            [(name, truth.sign, coefficient(truth)) for name, truth in truths],
            ("Rank tokens as leaving them out does", "Rank them the other way round"),
            "mean rank correlation with the leave-one-out worth, all images",
        ),
        *_closer(found, known or [(scorers[0], other) for other in scorers[1:]]),
        *_relevance(pooled, scorers),
        *_position(pooled, scorers),
    ]


def _relevance(pooled: dict[str, Profile], scorers: Sequence[str]) -> list[Verdict]:
    """Whether scorers put the relevant region on top more often than chance."""
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
    return [_by_sign("Which scorers point at the relevant region?", rows, words, basis)]


def _by_sign(
    topic: str, rows: Sequence[tuple[str, int, str]], words: tuple[str, str], basis: str
) -> Verdict:
    """A verdict on rows ``(name, sign, numbers)``: those above, those below, and the others."""
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
    """For each pair of scorers, the one that is closer to the truth."""
    compared, verdicts = compare_scorers(found, pairs), []
    for one, two in pairs:
        rows = [row for row in compared if (row.scorer, row.other) == (one, two)]
        if not rows:
            continue
        won, lost = ([row for row in rows if row.outcome == sign] for sign in (1, -1))
        detail = "; ".join(
            f"{row.model}: {number(row.difference.value, 2, plus=True)}, 95 % "
            f"{span(row.difference, 2, plus=True)}"
            for row in rows
        )
        kind: Kind = "yes" if won else "no"
        if won and lost:
            on, off = (listed([row.model for row in side]) for side in (won, lost))
            kind, text = "mixed", f"It depends: {one} on {on}, {two} on {off}"
        elif won or lost:
            better = one if won else two
            text = f"{better}, on {out_of(len(won or lost), len(rows), 'model')}"
        else:
            kind, text = "none", f"No evidence on any of {counted(len(rows), 'model')}"
        topic = f"Which is closer to the truth, {one} or {two}?"
        verdicts.append(
            Verdict(topic, kind, f"{text} (difference of rank correlations, {detail}).")
        )
    return verdicts


def _position(pooled: dict[str, Profile], scorers: Sequence[str]) -> list[Verdict]:
    """Whether the ranking of a scorer leans on the place of a token."""
    positions = [(scorer, pooled[scorer].position) for scorer in scorers]
    late, early = (
        [
            f"{scorer} ({coefficient(interval)})"
            for scorer, interval in positions
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
