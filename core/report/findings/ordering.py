"""The order in which a report names things, and the models that it sums over."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from tokensieve.core.report.findings.results import Results
from tokensieve.core.report.statistics.intervals import PLACES


def put_in_order(results: Results) -> None:
    """Sort all names as they are shown: as the study's file lists them, or by their results."""
    places = list(results.measured)
    on = [*results.untouched, *results.anatomy, *(place.model_task for place in places)]
    results.models = _as_listed({each.model for each in on}, results.facts.models)
    results.tasks = _as_listed({each.task for each in on}, results.facts.tasks)
    methods_of: dict[str, set[str]] = defaultdict(set)
    for place in places:
        methods_of[place.model].add(place.method)
    everything = set[str]().union(*methods_of.values())
    # sums are over the models with results of half of all methods or more; all, if there are none
    most = tuple(m for m in results.models if 2 * len(methods_of[m]) >= len(everything))
    results.pooled = most or results.models
    apart = everything.difference(*(methods_of[model] for model in results.pooled))
    share: dict[str, list[float]] = defaultdict(list)
    level: dict[str, list[float]] = defaultdict(list)
    for place, measured in results.measured.items():
        share[place.budget].append(measured.token_share)
        if place.model in results.pooled or place.method in apart:
            level[place.method].append(float(measured.scores.mean()))
    # rounded: the order in which equal numbers were added is no reason for a place
    tokens = {name: round(float(np.nanmean(own)), PLACES) for name, own in share.items()}
    scores = {name: round(float(np.mean(own)), PLACES) for name, own in level.items()}
    results.budgets = tuple(sorted(tokens, key=lambda name: -tokens[name]))
    results.methods = tuple(sorted(scores, key=lambda name: (-scores[name], name)))


def _as_listed(names: set[str], order: Sequence[str]) -> tuple[str, ...]:
    """The names in the order of the study's file; those that it does not list come last."""
    known = [name for name in order if name in names]
    return (*known, *sorted(names - set(known)))
