"""The cells that a report is about, and what to call their models, tasks and budgets."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokensieve.core.errors import StudyError
from tokensieve.core.study.store.manifest import read_manifest
from tokensieve.core.study.store.store import Cell, Store

Record = dict[str, Any]
IDENTITY = {"model": ("sha256", "revision"), "task": ("examples",)}
"""Facts by which namesakes are another model, or a task with other questions."""


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


def of_one_identity(cells: Iterable[Cell], problems: list[str]) -> list[Cell]:
    """Without those of other weights or other questions than the newest of the same name.

    A folder may hold results of earlier studies; they cannot be compared question by question.
    """
    left = list(cells)
    for part, facts in IDENTITY.items():
        groups: dict[str, list[Cell]] = {}
        for cell in left:
            named = canonical(cell.config[part], frozenset({*facts, "device"}))
            groups.setdefault(named, []).append(cell)
        own: set[str] = set()
        for group in groups.values():
            valid = _facts(newest(group), part)
            own |= {cell.key for cell in group if _facts(cell, part) == valid}
        if len(own) < len(left):
            what = "weights" if part == "model" else "questions"
            problems.append(f"{len(left) - len(own)} cells of other {what} are left out")
        left = [cell for cell in left if cell.key in own]
    return left


def _facts(cell: Cell, part: str) -> list[Any]:
    return [cell.config[part].get(fact) for fact in IDENTITY[part]]


def is_anatomy(cell: Cell) -> bool:
    """Whether the cell holds scores of tokens instead of answers."""
    return cell.config.kind == "anatomy"


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
            return f"{value * 100:g} % of FLOPs"
        budget = value
    if isinstance(budget, float) and budget <= 1:
        return f"{budget * 100:g} %"
    return f"{budget:g} tokens" if isinstance(budget, int | float) else str(budget)
