"""Only what a plugin itself reads is part of it: libraries that come along are known by version."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from identity_changes import ONE, task_source
from plugin_sources import good_source, write
from study_helpers import SMALL, study_of
from synthetic_study import write_study

from tokensieve.core.plugins.watching import watched
from tokensieve.core.study.store.store import Store
from tokensieve.core.study.work.worker import Worker

SECONDS = 120
MINE = {"pipeline": {"at": 1, "score": "mine", "keep": 9}, "name": "mine"}
START = (
    "from tokensieve.core.cli.entry import program\n\nif __name__ == '__main__':\n    program()\n"
)


@pytest.mark.parametrize("line", ["import torch", "import timm, transformers", "import PIL.Image"])
def test_a_plugin_that_imports_a_library_first(tmp_path: Path, line: str) -> None:
    """Where it is planned nobody has imported the library yet; where its cell runs it is there."""
    write(tmp_path / "mine.py", f"{line}\n{good_source('mine')}")
    write(tmp_path / "start.py", START)
    write(tmp_path / "s.yaml", json.dumps({**SMALL, **ONE, "pipelines": [MINE]}))
    options = ["--plugin", "mine.py", "--no-report", "--out", "out", "--workers", "1"]
    run = subprocess.run(
        [sys.executable, "start.py", "study", "s.yaml", *options],
        cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    configs = [cell.config for cell in Store(tmp_path / "out").cells()]
    pipelines = [config["pipeline"] or {} for config in configs]
    code = next(pipeline["code"] for pipeline in pipelines if pipeline.get("name") == "mine")
    assert set(code) == {"mine.py", "top_k.py"}


# ways to read a file; those of the library's import and of its lines are nobody's choice
LOOKS = {
    "open": ("open({data!r}).close()", True),
    "Path": ("__import__('pathlib').Path({data!r}).read_text()", True),
    "json": ("with open({data!r}) as f: __import__('json').load(f)", True),
    "os": ("import os; os.close(os.open({data!r}, 0))", True),
    "numpy": ("__import__('numpy').fromfile({data!r}, 'u1')", True),
    "exec": ('exec("open({data!r}).close()")', True),
    "compiled": ("exec(compile(\"open({data!r}).close()\", {data!r}, 'exec'))", True),
    "thread": (
        "import threading; t = threading.Thread(target=lambda: open({data!r}).close());"
        "t.start(); t.join()",
        True,
    ),
    "function of a library": ("__import__('{library}').read({data!r})", True),
    "import of a library": ("__import__('{library}_eager')", False),
    "import within that import": ("__import__('{library}_outer')", False),
    "import by a function of a library": ("__import__('{library}').late()", False),
    "lines of a traceback": ("__import__('linecache').getline({data!r}, 1)", False),
    "lines of a warning": ("__import__('{library}').warned({data!r})", False),
}
LIBRARY = """
def read(name):
    with open(name) as stream:
        return stream.read()

def late():
    import {library}_eager

def warned(name):
    import warnings
    return warnings.formatwarning("text", UserWarning, name, 1)
"""


@pytest.mark.parametrize("way", LOOKS)
def test_what_is_read_by_choice_is_part_of_it(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, counts = LOOKS[way]
    data, site = write(tmp_path / "data.json", "[1]"), tmp_path / "site-packages"
    library = f"library_{abs(hash(tmp_path)) % 10**8}"
    write(site / f"{library}.py", LIBRARY.format(library=library))
    write(site / f"{library}_eager.py", f"open({str(data)!r}).close()\n")
    write(site / f"{library}_outer.py", f"import {library}_eager\n")
    monkeypatch.syspath_prepend(str(site))
    import_module(library)
    with watched() as seen:
        exec(look.format(data=str(data), library=library), {"__name__": "plugin"})
    assert (str(data) in seen) == counts


@pytest.mark.parametrize("times", [2, 3])
def test_cells_that_a_manifest_lists_more_than_once_are_one(tmp_path: Path, times: int) -> None:
    """Else a report speaks of other weights and older cells that there are not."""
    write_study(tmp_path, anatomy=False)
    file, store = tmp_path / "manifest.json", Store(tmp_path)
    before = [cell.key for cell in store.cells()]
    listed = json.loads(file.read_text())
    file.write_text(json.dumps({**listed, "cells": listed["cells"] * times}))
    assert [cell.key for cell in store.cells()] == before


# what a task may do to an example while it scores it; the next cell is asked the same again
WRITES = {
    "answer": "object.__setattr__(example, 'answer', 'red')",
    "picture": "example.images[0].paste((255, 0, 0), (0, 0, 96, 96))",
    "question": "object.__setattr__(example, 'question', 'why?')",
    "attribute": "example.__dict__.update(seen=True)",
    "what cannot be compared": "example.__dict__.update(seen=open)",
    "gone": "example.__dict__.clear()",
    "and it fails": "(object.__setattr__(example, 'answer', 'red'), 1 / 0)",
    "nothing": "None",
}
FAILS = ("gone", "and it fails")


@pytest.mark.parametrize("way", WRITES)
def test_what_a_task_writes_to_an_example_is_in_no_later_cell(way: str, tmp_path: Path) -> None:
    """Two cells in one worker; the second is what it would be in a process of its own."""
    seen = "0.5 if (example.answer, example.question) == ('grey', 'what?') else 0.0"
    score = f"(lambda: (total := {seen}, {WRITES[way]})[0])()"
    plugin = write(tmp_path / "plugin.py", task_source(score=score))
    cells = study_of([plugin], **{**ONE, "tasks": ["grey"], "samples": 2}).cells[:2]
    worker = Worker()
    for cell in cells:
        result = worker.run(cell)
        assert result.status == ("failed" if way in FAILS else "done"), result.cell
        if result.status == "done":
            assert [line["score"] for line in result.lines["samples.jsonl"]] == [0.5, 0.5]
        assert "not what was planned" not in str(result.cell["error"])
