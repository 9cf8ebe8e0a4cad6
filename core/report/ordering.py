"""In which order a report names things, and over which models it sums."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from tokensieve.core.report.results import Results
from tokensieve.core.report.statistics import PLACES


def put_in_order(results: Results) -> None:
    """Names in the order in which they are shown."""
    places = list(results.measured)
    grounds = [*results.untouched, *results.anatomy]
    models, tasks = results.manifest.get("models") or [], results.manifest.get("tasks") or []
    results.models = _as_listed(
        {ground.model for ground in grounds} | {place.model for place in places}, models
    )
    results.tasks = _as_listed(
        {ground.task for ground in grounds} | {place.task for place in places}, tasks
    )
    results.pooled = _pooled(results)
    share: dict[str, list[float]] = defaultdict(list)
    level: dict[str, list[float]] = defaultdict(list)
    apart = {place.method for place in places} - {
        place.method for place in places if place.model in results.pooled
    }
    for place, measured in results.measured.items():
        share[place.budget].append(measured.token_share)
        if place.model in results.pooled or place.method in apart:
            level[place.method].append(float(measured.scores.mean()))
    # rounded: the order in which equal numbers were added is no reason for a place
    tokens = {name: round(float(np.nanmean(own)), PLACES) for name, own in share.items()}
    scores = {name: round(float(np.mean(own)), PLACES) for name, own in level.items()}
    results.budgets = tuple(sorted(tokens, key=lambda name: -tokens[name]))
    results.methods = tuple(sorted(scores, key=lambda name: (-scores[name], name)))


def _pooled(results: Results) -> tuple[str, ...]:
    """Models with results of half of all methods or more; all, if that leaves none."""
    by_model: dict[str, set[str]] = defaultdict(set)
    for place in results.measured:
        by_model[place.model].add(place.method)
    methods = set().union(*by_model.values())
    most = tuple(m for m in results.models if 2 * len(by_model[m]) >= len(methods))
    return most or results.models


def _as_listed(names: set[str], order: Sequence[str]) -> tuple[str, ...]:
    """In the order of the study's file; names it does not list come last."""
    known = [name for name in order if name in names]
    return (*known, *sorted(names - set(known)))
