"""Stored cells and manifests: the keys that a report reads of them are spelled here only."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tokensieve.core.contract.panel import Panel
from tokensieve.core.errors import StudyError
from tokensieve.core.foreign import plain
from tokensieve.core.names import UNTOUCHED
from tokensieve.core.report.findings.labels import budget_label, canonical, distinct_labels
from tokensieve.core.report.statistics.intervals import Floats
from tokensieve.core.study.store.manifest import read_manifest
from tokensieve.core.study.store.store import Cell, Store

IDENTITY = {"model": ("sha256", "revision"), "task": ("examples",)}
"""Facts by which namesakes are another model, or a task with other questions."""
VOLATILE = frozenset({"sha256", "revision", "samples", "examples", "device"})
"""Parts of a configuration that tell no two models or tasks of one report apart."""


@dataclass(frozen=True)
class StudyFacts:
    """A study as its manifest describes it.

    Attributes:
        models: in the order of the study's file, like ``tasks``.
        run: names and values of how it was run.
    """

    name: str
    description: str
    models: Sequence[str]
    tasks: Sequence[str]
    run: tuple[tuple[str, str], ...]


def read_facts(folder: Path) -> StudyFacts:
    """The facts of a study's folder; its name is the folder's where there is no manifest."""
    manifest = read_manifest(Store(folder)).plain()
    starts = manifest.get("starts") or [{}]
    last = starts[-1]
    versions = ", ".join(
        f"{name} {number}" for name, number in (last.get("versions") or {}).items()
    )
    machines = dict.fromkeys(
        f"{facts.get('device_name', facts.get('device'))} ({facts.get('dtype')}, attention "
        f"{facts.get('attention')})"
        for facts in manifest.get("environments") or []
        if facts.get("device")
    )
    run = (
        ("started", str(last.get("started", ""))),
        ("starts", str(len(starts)) if len(starts) > 1 else ""),
        ("command", " ".join(map(str, last.get("command") or []))),
        ("git revision", str(last.get("git") or "")),
        ("Python", str(last.get("python", ""))),
        ("packages", versions),
        ("ran on", "; ".join(machines)),
        ("seeds of random pipelines", ", ".join(map(str, manifest.get("seeds") or []))),
    )
    return StudyFacts(
        name=str(manifest.get("name") or folder.resolve().name),
        description=str(manifest.get("description") or ""),
        models=manifest.get("models") or [],
        tasks=manifest.get("tasks") or [],
        run=tuple((name, value) for name, value in run if value),
    )


@dataclass(frozen=True)
class Answer:
    """One question of a cell: what was answered, its score, and what the answer cost.

    Costs that nobody measured are None.
    """

    id: str
    text: str
    score: float
    visual_tokens: float | None
    average_tokens: float | None
    flops_share: float | None


def read_answers(cell: Cell) -> list[Answer]:
    """The answers of an accuracy cell."""
    return [
        Answer(
            id=str(line["id"]),
            text=" ".join(str(line["answer"]).split()),
            score=float(line["score"]),
            visual_tokens=line.get("visual_tokens"),
            average_tokens=line.get("average_tokens"),
            flops_share=line.get("flops_share"),
        )
        for line in (record.plain() for record in cell.samples)
    ]


@dataclass(frozen=True)
class TokenScores:
    """One picture of an anatomy cell: what scorers say of its tokens, and what these are worth.

    Attributes:
        scores: ``[tokens]`` of each scorer that could look.
        missing: why the others could not.
        worth: ``[tokens]`` what leaving a token out costs the answer's log-likelihood.
        relevant: ``[tokens]`` 1 where the answer is; empty if nobody knows.
        panels: of each picture, where its tokens are.
        pictures: JPEG files in base64.
    """

    scores: dict[str, Floats]
    missing: dict[str, str]
    worth: Floats
    relevant: Sequence[int]
    boundary: int
    question: str
    answer: str
    panels: tuple[tuple[Panel, ...], ...]
    pictures: Sequence[str]


def token_scores(record: Mapping[str, Any]) -> TokenScores:
    """A line of ``anatomy.jsonl``; its scorers are named as figures and tables can show them."""
    scores, missing = record.get("scores") or {}, record.get("missing") or {}
    return TokenScores(
        scores={plain(name): np.array(own, dtype=float) for name, own in scores.items()},
        missing={plain(name): str(why) for name, why in missing.items()},
        worth=np.array(record["loo"], dtype=float),
        relevant=record.get("relevant") or [],
        boundary=int(record.get("boundary", 0)),
        question=str(record.get("question", "")),
        answer=str(record.get("answer", "")),
        panels=tuple(
            tuple(Panel(rows, columns, tuple(box)) for rows, columns, box in group)
            for group in record.get("panels") or []
        ),
        pictures=record.get("pictures") or [],
    )


class CellPlace(NamedTuple):
    """A cell's place in the grid of a study, in the words of the report."""

    kind: str
    model: str
    task: str
    budget: str
    method: str
    seed: int

    @property
    def is_anatomy(self) -> bool:
        """Whether the cell holds scores of tokens instead of answers."""
        return self.kind == "anatomy"

    @property
    def title(self) -> str:
        """The place in one line, for a cell without a score."""
        parts = (self.model, self.task, self.method or self.kind, self.budget)
        what = ", ".join(part for part in parts if part)
        return f"{what}, seed {self.seed}" if self.seed else what


class Labels:
    """Names of models and tasks, told apart where two share a name."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.models = distinct_labels((cell.config["model"] for cell in cells), VOLATILE)
        self.tasks = distinct_labels((cell.config["task"] for cell in cells), VOLATILE)

    def place(self, cell: Cell) -> CellPlace:
        """The place of a cell."""
        config = cell.config
        method = str((config.get("pipeline") or {}).get("name", ""))
        budget = "" if method in ("", UNTOUCHED) else budget_label(config.get("budget"))
        return CellPlace(
            str(config.get("kind", "accuracy")),
            plain(self.models[canonical(config["model"], VOLATILE)]),
            plain(self.tasks[canonical(config["task"], VOLATILE)]),
            plain(budget),
            plain(method),
            int(config.get("seed") or 0),
        )


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
    """The cells without those of other weights or other questions than their newest namesake.

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
            last = newest(group).config[part]
            for cell in group:
                if all(cell.config[part].get(fact) == last.get(fact) for fact in facts):
                    own.add(cell.key)
        if len(own) < len(left):
            what = "weights" if part == "model" else "questions"
            problems.append(f"{len(left) - len(own)} cells of other {what} are left out")
        left = [cell for cell in left if cell.key in own]
    return left


def newest(cells: Iterable[Cell]) -> Cell:
    """The cell that was started last."""
    return max(cells, key=lambda cell: (str(cell.data.get("started")), cell.key))
