"""Short names that tell configurations apart."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

Config = Mapping[str, object]
"""Of a model or a task, as a cell keeps it."""


def distinct_labels(configs: Iterable[Config], ignored: frozenset[str]) -> dict[str, str]:
    """A short label for each configuration, by its canonical JSON.

    The name alone where it is unique; else followed by what tells the namesakes apart.
    """
    known = {canonical(config, ignored): _flat(config, ignored) for config in configs}
    labels = {}
    for key, flat in known.items():
        namesakes = [other for other in known.values() if other["name"] == flat["name"]]
        differing = [
            field
            for field in sorted({field for other in namesakes for field in other})
            if len({json.dumps(other.get(field)) for other in namesakes}) > 1
        ]
        shown = ", ".join(str(flat.get(field, "-")) for field in differing)
        labels[key] = f"{flat['name']} ({shown})" if shown else str(flat["name"])
    return labels


def canonical(config: Config, ignored: frozenset[str]) -> str:
    """A string that is equal for equal configurations."""
    return json.dumps(_flat(config, ignored), sort_keys=True)


def _flat(config: Config, ignored: frozenset[str], prefix: str = "") -> dict[str, object]:
    """The configuration without nesting: ``{"a": {"b": 1}}`` becomes ``{"a.b": 1}``."""
    flat: dict[str, object] = {}
    for key, value in config.items():
        if key in ignored:
            continue
        if isinstance(value, dict):
            flat.update(_flat(value, ignored, f"{prefix}{key}."))
        elif value is not None:
            flat[prefix + key] = value
    return flat


def budget_label(budget: object) -> str:
    """``{average: 32}`` -> ``32 tokens``, ``{share: 0.22}`` -> ``22 %``."""
    if isinstance(budget, dict) and len(budget) == 1:
        ((kind, value),) = budget.items()
        if kind == "flops":
            return f"{value * 100:g} % of FLOPs"
        budget = value
    if isinstance(budget, float) and budget <= 1:
        return f"{budget * 100:g} %"
    return f"{budget:g} tokens" if isinstance(budget, int | float) else str(budget)
