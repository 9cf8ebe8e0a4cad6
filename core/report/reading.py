"""From the cells of a study to arrays that share their examples; see :mod:`results`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tokensieve.core.errors import StudyError
from tokensieve.core.foreign import plain
from tokensieve.core.report.cells import (
    Record,
    budget_label,
    canonical,
    distinct_labels,
    is_anatomy,
    newest,
    of_one_identity,
    read_cells,
)
from tokensieve.core.report.ordering import put_in_order
from tokensieve.core.report.results import UNTOUCHED, Ground, Measured, Place, Results
from tokensieve.core.report.statistics import RESAMPLES, bootstrap_weights
from tokensieve.core.study.store.manifest import read_manifest
from tokensieve.core.study.store.store import Cell, Store

VOLATILE = frozenset({"sha256", "revision", "samples", "examples", "device"})
"""Parts of a configuration that tell no two models or tasks of one report apart."""


def read_results(folder: Path, *, resamples: int = RESAMPLES, seed: int = 0) -> Results:
    """Read a study's folder.

    Raises:
        StudyError: there is nothing to report on.
    """
    cells, problems = read_cells(folder)
    manifest = read_manifest(Store(folder)).plain()
    name = str(manifest.get("name") or folder.resolve().name)
    results = Results(name=name, problems=problems, manifest=manifest)
    cells = of_one_identity(cells, problems)
    labels = Labels(cells)
    chosen = _newest_of_each(cells, labels, problems)
    _sort_out(results, chosen)
    done = {key: cell for key, cell in chosen.items() if cell.status == "done"}
    answers = {
        key: [record.plain() for record in cell.samples]
        for key, cell in done.items()
        if not is_anatomy(cell)
    }
    if not done:
        raise StudyError(f"{folder}: no cell of the study is done")
    _fill(results, answers)
    for key, cell in done.items():
        if is_anatomy(cell):
            records = [_named_plainly(record.plain()) for record in cell.anatomy]
            results.anatomy.setdefault(Ground(key[1], key[2]), []).extend(records)
    put_in_order(results)
    results.weights = {
        task: bootstrap_weights(len(ids), resamples, seed) for task, ids in results.ids.items()
    }
    return results


Key = tuple[str, str, str, str, str, int]
"""Kind, model, task, budget, method, seed."""


class Labels:
    """Names of models and tasks, told apart where two share a name."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.models = distinct_labels((cell.config["model"] for cell in cells), VOLATILE)
        self.tasks = distinct_labels((cell.config["task"] for cell in cells), VOLATILE)

    def key(self, cell: Cell) -> Key:
        """Where the cell belongs."""
        config = cell.config
        method = str((config.get("pipeline") or {}).get("name", ""))
        budget = "" if method in ("", UNTOUCHED) else budget_label(config.get("budget"))
        return (
            str(config.get("kind", "accuracy")),
            plain(self.models[canonical(config["model"], VOLATILE)]),
            plain(self.tasks[canonical(config["task"], VOLATILE)]),
            plain(budget),
            plain(method),
            int(config.get("seed") or 0),
        )


def _newest_of_each(cells: Iterable[Cell], labels: Labels, problems: list[str]) -> dict[Key, Cell]:
    groups: dict[Key, list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[labels.key(cell)].append(cell)
    older = sum(len(group) - 1 for group in groups.values())
    if older:
        problems.append(f"{older} older cells of the same places are left out")
    return {key: newest(group) for key, group in groups.items()}


def _sort_out(results: Results, chosen: dict[Key, Cell]) -> None:
    """Write down the cells that have no score, and why."""
    for (kind, model, task, budget, method, seed), cell in sorted(chosen.items()):
        if cell.status == "done":
            continue
        what = ", ".join(part for part in (model, task, method or kind, budget) if part)
        where = results.unmet if cell.status == "unmet" else results.failed
        where.append((f"{what}, seed {seed}" if seed else what, cell.error))


def _fill(results: Results, answers: dict[Key, list[Record]]) -> None:
    """Scores on the examples that all cells of a task share."""
    results.ids = _shared_ids(answers, results.problems)
    said: dict[Ground, list[str]] = {}
    for (_, model, task, _, method, seed), lines in answers.items():
        if method == UNTOUCHED and seed == 0:
            ground, chosen = Ground(model, task), _aligned(lines, results.ids[task])
            said[ground] = [_plain(line["answer"]) for line in chosen]
            results.untouched[ground] = _measured([chosen], said[ground], None)
    groups: dict[Place, list[list[Record]]] = defaultdict(list)
    for (_, model, task, budget, method, _), lines in sorted(answers.items()):
        if method != UNTOUCHED:
            groups[Place(model, task, budget, method)].append(_aligned(lines, results.ids[task]))
    for place, seeds in groups.items():
        ground = Ground(place.model, place.task)
        results.measured[place] = _measured(seeds, said.get(ground), results.untouched.get(ground))


def _shared_ids(
    answers: dict[Key, list[Record]], problems: list[str]
) -> dict[str, tuple[str, ...]]:
    by_task: dict[str, list[list[str]]] = defaultdict(list)
    for (_, _, task, *_), lines in answers.items():
        by_task[task].append([str(line["id"]) for line in lines])
    shared = {}
    for task, lists in by_task.items():
        common = set(lists[0]).intersection(*lists)
        if not common:
            raise StudyError(f"task {task}: its cells have no example in common")
        longest = max(map(len, lists))
        if len(common) < longest:
            problems.append(
                f"task {task}: only {len(common)} of {longest} examples are in all cells"
            )
        shared[task] = tuple(sorted(common))
    return shared


def _aligned(lines: list[Record], ids: tuple[str, ...]) -> list[Record]:
    by_id = {str(line["id"]): line for line in lines}
    return [by_id[name] for name in ids]


def _named_plainly(record: Record) -> Record:
    """The scorers of a record of anatomy, as figures and tables can show them."""
    by_scorer = {key: record.get(key) or {} for key in ("scores", "missing")}
    named = {key: {plain(n): v for n, v in found.items()} for key, found in by_scorer.items()}
    return {**record, **named}


def _plain(answer: Any) -> str:
    return " ".join(str(answer).split())


def _measured(
    seeds: list[list[Record]], said: list[str] | None, whole: Measured | None
) -> Measured:
    agrees = None
    if said is not None:
        rows = [
            [_plain(line["answer"]) == own for line, own in zip(seed, said, strict=True)]
            for seed in seeds
        ]
        agrees = np.array(rows, dtype=float)
    tokens = _mean(seeds, "average_tokens")
    full = whole.tokens if whole is not None else _mean(seeds, "visual_tokens")
    return Measured(
        scores=np.array([[float(line["score"]) for line in seed] for seed in seeds]),
        agrees=agrees,
        tokens=tokens,
        token_share=tokens / full if full else float("nan"),
        flops_share=_mean(seeds, "flops_share"),
    )


def _mean(seeds: list[list[Record]], key: str) -> float:
    values = [line.get(key) for seed in seeds for line in seed]
    known = [float(value) for value in values if value is not None]
    return float(np.mean(known)) if known else float("nan")
