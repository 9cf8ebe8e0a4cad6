"""The cells that a report is about, and what to call their models, tasks and budgets."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokensieve.core.errors import StudyError
from tokensieve.core.study.manifest import read_manifest
from tokensieve.core.study.store import Cell, Store

Record = dict[str, Any]


def read_cells(folder: Path) -> tuple[list[Cell], list[str]]:
    """The cells of a study's folder, and a line if some are not there.

    Raises:
        StudyError: this is no study's folder, or it is empty.
    """
    store = Store(folder)
    if not os.path.isdir(store.folder):
        raise StudyError(f"{folder}: no folder of a study: there is no {store.folder.name}/ in it")
    cells = store.cells()
    if not cells:
        raise StudyError(f"{folder}: the study has no finished cell yet")
    planned = len(read_manifest(store).get("cells") or cells)
    lacking = planned - len(cells)
    if lacking > 0:
        return cells, [f"{lacking} of {planned} cells are not there: not yet run, or corrupt"]
    return cells, []


def is_anatomy(cell: Cell) -> bool:
    """Whether the cell holds scores of tokens instead of answers."""
    return cell.config.get("kind") == "anatomy"


def newest(cells: Iterable[Cell]) -> Cell:
    """The cell that was started last."""
    return max(cells, key=lambda cell: (str(cell.data.get("started")), cell.key))


def distinct_labels(configs: Iterable[Record], ignored: frozenset[str]) -> dict[str, str]:
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


def canonical(config: Record, ignored: frozenset[str]) -> str:
    """A string that is equal for equal configurations."""
    return json.dumps(_flat(config, ignored), sort_keys=True)


def _flat(config: Record, ignored: frozenset[str], prefix: str = "") -> Record:
    flat: Record = {}
    for key, value in config.items():
        if key in ignored:
            continue
        if isinstance(value, dict):
            flat.update(_flat(value, ignored, f"{prefix}{key}."))
        elif value is not None:
            flat[prefix + key] = value
    return flat


def budget_label(budget: Any) -> str:
    """``{average: 32}`` -> ``32 tokens``, ``{share: 0.22}`` -> ``22 %``."""
    if isinstance(budget, dict) and len(budget) == 1:
        ((kind, value),) = budget.items()
        if kind == "flops":
            return f"{value:.0%} of FLOPs".replace("%", " %")
        budget = value
    if isinstance(budget, float) and budget <= 1:
        return f"{budget * 100:g} %"
    return f"{budget:g} tokens" if isinstance(budget, int | float) else str(budget)
