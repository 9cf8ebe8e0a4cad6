"""From the cells of a study to arrays that share their examples; see :mod:`results`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tokensieve.core.errors import StudyError
from tokensieve.core.names import UNTOUCHED
from tokensieve.core.report.findings.cells import (
    Answer,
    CellPlace,
    Labels,
    newest,
    of_one_identity,
    read_answers,
    read_cells,
    read_facts,
    token_scores,
)
from tokensieve.core.report.findings.ordering import put_in_order
from tokensieve.core.report.findings.results import Measured, ModelTask, Place, Results
from tokensieve.core.report.statistics.intervals import RESAMPLES, bootstrap_weights
from tokensieve.core.study.store.store import Cell

Answers = Mapping[CellPlace, Sequence[Answer]]


def read_results(folder: Path, *, resamples: int = RESAMPLES, seed: int = 0) -> Results:
    """Read a study's folder.

    Raises:
        StudyError: there is nothing to report on.
    """
    cells, problems = read_cells(folder)
    results = Results(read_facts(folder), problems=problems)
    cells = of_one_identity(cells, problems)
    labels, groups = Labels(cells), defaultdict[CellPlace, list[Cell]](list)
    for cell in cells:
        groups[labels.place(cell)].append(cell)
    older = len(cells) - len(groups)
    if older:
        problems.append(f"{older} older cells of the same places are left out")
    chosen = {place: newest(group) for place, group in groups.items()}
    for place, cell in sorted(chosen.items()):
        if cell.status != "done":
            without_score = results.unmet if cell.status == "unmet" else results.failed
            without_score.append((place.title, cell.error))
    done = {place: cell for place, cell in chosen.items() if cell.status == "done"}
    answered = {p: read_answers(cell) for p, cell in done.items() if not p.is_anatomy}
    if not done:
        raise StudyError(f"{folder}: no cell of the study is done")
    _measure(results, answered)
    for place, cell in done.items():
        if place.is_anatomy:
            own = results.anatomy.setdefault(ModelTask(place.model, place.task), [])
            own += [token_scores(record.plain()) for record in cell.anatomy]
    put_in_order(results)
    results.weights = {
        task: bootstrap_weights(len(ids), resamples, seed) for task, ids in results.ids.items()
    }
    return results


def _measure(results: Results, answered: Answers) -> None:
    """Fill in scores and costs, on the examples that all cells of a task share."""
    results.ids = _shared_ids(answered, results.problems)
    aligned = {}
    for cell, answers in answered.items():
        by_id = {answer.id: answer for answer in answers}
        aligned[cell] = [by_id[name] for name in results.ids[cell.task]]

    said: dict[ModelTask, list[str]] = {}
    groups: dict[Place, list[Sequence[Answer]]] = defaultdict(list)
    for cell, answers in aligned.items():
        if cell.method == UNTOUCHED and cell.seed == 0:
            on = ModelTask(cell.model, cell.task)
            said[on] = [answer.text for answer in answers]
            results.untouched[on] = _measured([answers], said[on], None)
    for cell in sorted(aligned):
        if cell.method != UNTOUCHED:
            place = Place(cell.model, cell.task, cell.budget, cell.method)
            groups[place].append(aligned[cell])
    for place, seeds in groups.items():
        on = place.model_task
        results.measured[place] = _measured(seeds, said.get(on), results.untouched.get(on))


def _shared_ids(answered: Answers, problems: list[str]) -> dict[str, tuple[str, ...]]:
    """Per task the examples that all of its cells have answered."""
    by_task: dict[str, list[list[str]]] = defaultdict(list)
    for cell, answers in answered.items():
        by_task[cell.task].append([answer.id for answer in answers])
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


def _measured(
    seeds: Sequence[Sequence[Answer]], said: Sequence[str] | None, whole: Measured | None
) -> Measured:
    """One method at one place; ``said`` and ``whole`` are the untouched model's."""
    agrees = None
    if said is not None:
        rows = [
            [answer.text == own for answer, own in zip(seed, said, strict=True)] for seed in seeds
        ]
        agrees = np.array(rows, dtype=float)
    answers = [answer for seed in seeds for answer in seed]
    tokens = _mean([answer.average_tokens for answer in answers])
    full = whole.tokens if whole is not None else _mean([a.visual_tokens for a in answers])
    return Measured(
        scores=np.array([[answer.score for answer in seed] for seed in seeds]),
        agrees=agrees,
        tokens=tokens,
        token_share=tokens / full if full else float("nan"),
        flops_share=_mean([answer.flops_share for answer in answers]),
    )


def _mean(values: Sequence[float | None]) -> float:
    """The mean of what is known; not a number if nothing is."""
    known = [float(value) for value in values if value is not None]
    return float(np.mean(known)) if known else float("nan")
