"""Scorers held against the leave-one-out truth, the relevant region, and the position."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tokensieve.core.report.findings.cells import TokenScores
from tokensieve.core.report.findings.results import ModelTask, Results
from tokensieve.core.report.statistics.intervals import (
    RESAMPLES,
    Floats,
    Interval,
    bootstrap_weights,
    percentile_interval,
)
from tokensieve.core.report.statistics.ranks import average_ranks, spearman
from tokensieve.core.report.statistics.significance import SIGNIFICANT, holm, sign_flip_test

TRUTH = "leave-one-out"
SINK_SHARE = 0.02  # of the tokens: the few that an attention sink would be among
BINS = 24
FEWEST = 2  # images that can be resampled


@dataclass(frozen=True)
class Profile:
    """One scorer on a set of images; every number is a mean over images.

    Attributes:
        truth: rank correlation with the leave-one-out worth; None for the worth itself.
        mass: share of the score's mass on the relevant tokens; ``hits``: share of the top tokens
            that are relevant, as many as there are relevant ones; ``chance``: share of relevant
            tokens. None where nobody knows which are relevant.
        position: rank correlation with the place in raster order.
        sink: share of the mass on the 2 % highest tokens.
        curve: mean rank (0..1) by place, in bins from the first token to the last.
    """

    scorer: str
    images: int
    truth: Interval | None
    mass: Interval | None
    hits: Interval | None
    chance: float | None
    position: Interval
    sink: Interval
    curve: Floats


@dataclass(frozen=True)
class Anatomy:
    """All scorers on one model and task; ``matrix`` holds mean rank correlations of ``names``."""

    on: ModelTask
    boundary: int
    names: tuple[str, ...]
    matrix: list[list[Interval]]
    profiles: tuple[Profile, ...]
    missing: dict[str, str]
    records: Sequence[TokenScores]


@dataclass(frozen=True)
class ScorerComparison:
    """One scorer against another on one model: the difference in closeness to the truth."""

    scorer: str
    other: str
    model: str
    difference: Interval
    p: float
    adjusted: float

    @property
    def outcome(self) -> int:
        """1 closer, -1 farther, 0 no evidence: interval and corrected test have to agree."""
        return self.difference.sign if self.adjusted < SIGNIFICANT else 0


def anatomies(results: Results) -> list[Anatomy]:
    """One for each model and task with anatomy cells, in reading order."""
    return [
        read_anatomy(on, records)
        for model in results.models
        for task in results.tasks
        if (records := results.anatomy.get(on := ModelTask(model, task)))
    ]


def read_anatomy(on: ModelTask, records: Sequence[TokenScores]) -> Anatomy:
    """Every scorer that looked at all images of this model and task."""
    first = records[0]
    shared = set(first.scores).intersection(*(record.scores for record in records))
    scorers = [name for name in first.scores if name in shared]
    names = (*scorers, TRUTH)
    weights = image_weights(len(records))
    matrix = [[_correlation(one, two, records, weights) for two in names] for one in names]
    profiles = tuple(_profile(name, records, weights) for name in names)
    return Anatomy(on, first.boundary, names, matrix, profiles, first.missing, records)


def pooled_profile(found: Sequence[Anatomy], scorer: str) -> Profile:
    """The scorer over all images of all models and tasks that it has looked at."""
    records = [r for anatomy in found if scorer in anatomy.names for r in anatomy.records]
    return _profile(scorer, records, image_weights(len(records)))


def _correlation(one: str, two: str, records: Sequence[TokenScores], weights: Floats) -> Interval:
    return mean_of(lambda r: spearman(values_of(r, one), values_of(r, two)), records, weights)


def image_weights(count: int) -> Floats:
    """The bootstrap over images."""
    return bootstrap_weights(count, RESAMPLES if count >= FEWEST else 1)


def values_of(record: TokenScores, name: str) -> Floats:
    """``[tokens]`` scores of a scorer, or the leave-one-out worth."""
    return record.worth if name == TRUTH else record.scores[name]


def mean_of(
    statistic: Callable[[TokenScores], float], records: Sequence[TokenScores], weights: Floats
) -> Interval:
    """Mean over images; images on which the statistic is no number are left out."""
    values = np.array([statistic(record) for record in records], dtype=float)
    known = np.isfinite(values)
    if not known.any():
        return Interval(math.nan, math.nan, math.nan)
    drawn = weights[:, known].sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        draws = (weights[:, known] @ values[known]) / drawn
    if known.sum() < FEWEST:
        return Interval(float(values[known].mean()), math.nan, math.nan)
    return percentile_interval(float(values[known].mean()), draws)


def _profile(name: str, records: Sequence[TokenScores], weights: Floats) -> Profile:
    placed = [record for record in records if any(record.relevant)]
    own_weights = image_weights(len(placed)) if placed else weights
    chance = float(np.mean([np.mean(record.relevant) for record in placed])) if placed else None

    def over(statistic: Callable[[Floats, Floats], float]) -> Interval | None:
        if not placed:
            return None
        return mean_of(
            lambda r: statistic(values_of(r, name), np.array(r.relevant, dtype=float)),
            placed,
            own_weights,
        )

    return Profile(
        scorer=name,
        images=len(records),
        truth=None if name == TRUTH else _correlation(name, TRUTH, records, weights),
        mass=over(mass_share),
        hits=over(top_share),
        chance=chance,
        position=mean_of(lambda r: position_bias(values_of(r, name)), records, weights),
        sink=mean_of(lambda r: sink_share(values_of(r, name)), records, weights),
        curve=np.mean([position_curve(values_of(record, name)) for record in records], axis=0),
    )


def masses(scores: Floats) -> Floats:
    """Scores as shares of their sum; those that can be negative count from their lowest."""
    positive = scores - min(float(scores.min()), 0.0)
    total = positive.sum()
    return positive / total if total > 0 else np.full(len(scores), 1 / len(scores))


def mass_share(scores: Floats, relevant: Floats) -> float:
    """Share of the mass on relevant tokens."""
    return float(masses(scores) @ relevant)


def top_share(scores: Floats, relevant: Floats) -> float:
    """Share of the top tokens that are relevant; as many are looked at as are relevant."""
    count = int(relevant.sum())
    top = np.argsort(-scores, kind="stable")[:count]
    return float(relevant[top].mean())


def position_bias(scores: Floats) -> float:
    """Rank correlation with the place: positive if late tokens score high."""
    return spearman(scores, np.arange(len(scores)))


def sink_share(scores: Floats) -> float:
    """Share of the mass on the highest tokens."""
    count = max(1, round(SINK_SHARE * len(scores)))
    return float(np.sort(masses(scores))[-count:].sum())


def position_curve(scores: Floats) -> Floats:
    """``[BINS]`` mean rank, 0 lowest to 1 highest, of the tokens in each bin of places."""
    ranks = (average_ranks(scores) - 1) / max(len(scores) - 1, 1)
    edges = np.linspace(0, len(scores), BINS + 1)
    bins = np.clip(np.searchsorted(edges, np.arange(len(scores)), side="right") - 1, 0, BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.bincount(bins, ranks, minlength=BINS) / counts)


def compare_scorers(
    found: Sequence[Anatomy], pairs: Sequence[tuple[str, str]]
) -> list[ScorerComparison]:
    """For each pair and model: the difference of the correlations with the truth, by image."""
    rows: list[ScorerComparison] = []
    for scorer, other in pairs:
        for model in dict.fromkeys(anatomy.on.model for anatomy in found):
            differences = np.array(
                [
                    spearman(values_of(record, scorer), values_of(record, TRUTH))
                    - spearman(values_of(record, other), values_of(record, TRUTH))
                    for anatomy in found
                    if anatomy.on.model == model and {scorer, other} <= set(anatomy.names)
                    for record in anatomy.records
                ],
                dtype=float,
            )
            known = differences[np.isfinite(differences)]
            if len(known) >= FEWEST:
                interval = percentile_interval(
                    float(known.mean()), image_weights(len(known)) @ known
                )
                rows.append(
                    ScorerComparison(scorer, other, model, interval, sign_flip_test(known), 1.0)
                )
    adjusted = holm([row.p for row in rows])
    return [replace(row, adjusted=p) for row, p in zip(rows, adjusted, strict=True)]
