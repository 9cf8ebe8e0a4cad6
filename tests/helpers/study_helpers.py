"""Small studies in tests: a spec, cells that run in this process, plugins that misbehave."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokensieve.core.files.yaml_source import Source
from tokensieve.core.plugins.registry import build_registry
from tokensieve.core.study.executors import ExecutorOptions, ProgressListener
from tokensieve.core.study.plan.cells import plan
from tokensieve.core.study.plan.records import Costs, PlannedCell
from tokensieve.core.study.running import Study, run_study
from tokensieve.core.study.spec.study import StudySpec, read_study
from tokensieve.core.study.store.store import Cell, CellResult
from tokensieve.core.study.work.worker import Worker

SMALL: dict[str, Any] = {
    "name": "small",
    "models": ["tiny-llava"],
    "pipelines": ["fastv"],
    "budgets": [{"average": 32}],
    "tasks": [{"task": "digits", "samples": 6}],
    "max_new_tokens": 3,
    "batch": 4,
}

HOOK = """
@tokensieve.hookimpl
def tokensieve_register(registry):
    registry.add(Found)
"""
RAISING = f"""
import tokensieve

class Found(tokensieve.Scorer):
    \"\"\"Raises.\"\"\"

    name = "raising"

    def score(self, view):
        raise RuntimeError("the scorer has no idea\\nand says more")
{HOOK}"""


def deadly(marker: Path, *, always: bool = False) -> str:
    """A scorer that kills its process, the first time only or always."""
    return f"""
import os
from pathlib import Path

import tokensieve

MARKER = Path({str(marker)!r})

class Found(tokensieve.Scorer):
    \"\"\"Kills its process.\"\"\"

    name = "deadly"

    def score(self, view):
        deaths = len(MARKER.read_text()) if MARKER.exists() else 0
        if {always} or not deaths:
            MARKER.write_text("x" * (deaths + 1))
            os.kill(os.getpid(), 9)
        return -view.index.float()
{HOOK}"""


def spec_of(**changes: Any) -> StudySpec:
    return read_study(
        Source("<test>", json.loads(json.dumps({**SMALL, **changes}))), build_registry(), Path()
    )


def study_of(plugins: Sequence[Path] = (), folder: Path = Path(), **changes: Any) -> Study:
    document = {**SMALL, **changes}
    registry = build_registry(list(plugins))
    spec = read_study(Source("<test>", json.loads(json.dumps(document))), registry, folder)
    return Study(spec, plan(spec, registry, plugins), document)


class Heard(ProgressListener):
    """What a run reported."""

    def __init__(self) -> None:
        self.pending: list[PlannedCell] = []
        self.costs: Costs = {}
        self.there: list[Cell] = []
        self.ticks: dict[str, int] = {}
        self.statuses: list[tuple[str, str]] = []
        self.said: list[str] = []

    def start(self, pending: Sequence[PlannedCell], costs: Costs, there: Sequence[Cell]) -> None:
        self.pending, self.costs, self.there = list(pending), costs, list(there)

    def tick(self, cell: PlannedCell, samples: int) -> None:
        self.ticks[cell.key] = self.ticks.get(cell.key, 0) + samples

    def done(self, cell: PlannedCell, result: CellResult) -> None:
        self.statuses.append((cell.title, result.status))

    def say(self, line: str) -> None:
        self.said.append(line)


def in_process(
    cells: Sequence[PlannedCell], listener: ProgressListener, options: ExecutorOptions
) -> None:
    """An executor without processes."""
    worker = Worker()
    for cell in cells:

        def tick(samples: int, cell: PlannedCell = cell) -> None:
            listener.tick(cell, samples)

        listener.done(cell, worker.run(cell, tick))


def run_here(study: Study, out: Path, monkeypatch: Any) -> tuple[list[Cell], Heard]:
    heard = Heard()
    monkeypatch.setattr("tokensieve.core.study.running.find_executor", lambda name: in_process)
    return run_study(study, out, heard), heard


def deadly_study(tmp_path: Path, *, always: bool = False) -> Study:
    """One pipeline kills its process once; with ``always`` another one does so every time."""
    plugins = [tmp_path / "deadly.py"]
    plugins[0].write_text(deadly(tmp_path / "once"))
    mine = [{"pipeline": {"at": 1, "score": "deadly", "keep": 9}, "name": "mine"}]
    if always:
        plugins.append(tmp_path / "fatal.py")
        plugins[1].write_text(deadly(tmp_path / "always", always=True).replace("deadly", "fatal"))
        mine.append({"pipeline": {"at": 1, "score": "fatal", "keep": 9}, "name": "worst"})
    return study_of(plugins, pipelines=mine)


def with_how(cells: Sequence[PlannedCell], **changes: Any) -> list[PlannedCell]:
    return [replace(cell, how=replace(cell.how, **changes)) for cell in cells]
