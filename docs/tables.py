"""Write the generated tables of the documentation: ``python docs/tables.py``.

A page says where a table belongs by two comments, ``<!-- generated: NAME -->`` and
``<!-- end -->``; what is between them is replaced. ``tests/project/test_docs.py`` holds the pages
to what this program would write.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import typer.main
from api_page import module_part
from component_tables import (
    component_rows,
    deviations,
    key_rows,
    parameter_rows,
    registry,
)
from method_tables import budget_rows, method_deviations, method_rows
from rooms import DOOR, floor_of
from table_markup import code, table

from tokensieve.core.cli.app import app
from tokensieve.core.contract.adapted import AdaptedModel
from tokensieve.core.contract.signals import SIGNALS
from tokensieve.core.errors import TokensieveError
from tokensieve.core.models.sizes import SIZES
from tokensieve.core.pipeline.fit import check
from tokensieve.core.pipeline.loading import load_pipeline
from tokensieve.core.pipeline.pipeline import Pipeline
from tokensieve.core.testing import CHECKS

DOCS = Path(__file__).parent
PROJECT = DOCS.parent
NOT_HERE = "Not here: "
COUNTS = ("passed", "failed", "skipped")
PLACE = re.compile(r"(<!-- generated: ([\w-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def pages() -> list[Path]:
    """All Markdown pages of the documentation."""
    return sorted([*DOCS.rglob("*.md"), PROJECT / "README.md"])


def updated(text: str) -> str:
    """A page with its tables as they should be."""

    def fill(match: re.Match[str]) -> str:
        return f"{match[1]}\n{TABLES[match[2]]()}\n\n{match[4]}"

    return PLACE.sub(fill, text)


@lru_cache(maxsize=1)
def families() -> dict[str, AdaptedModel]:
    """A model of each family without weights, seen through its adapter."""
    import timm
    import torch
    from transformers import AutoModelForImageTextToText

    build: Any = AutoModelForImageTextToText.from_config
    adapted: dict[str, AdaptedModel] = {}
    for entry in registry().all("adapter"):
        with torch.device("meta"):
            if entry.value.answers_questions:
                size = next(size for size in SIZES.values() if size.adapter == entry.name)
                shallow = replace(size, dims=replace(size.dims, layers=32))
                model = build(entry.value.sized_config(shallow))
            else:  # a classifier with as many blocks
                model = timm.create_model("vit_huge_patch14_224")
        adapted[entry.name] = entry.value.bind(model)
    return adapted


def signal_rows() -> str:
    """What each signal is and which family gives it."""
    rows = []
    for name, meaning in SIGNALS.items():
        provided = [name in adapted.provides for adapted in families().values()]
        rows.append([f"`{name}`", meaning, *("yes" if given else "no" for given in provided)])
    return table(["signal", "meaning", *families()], rows)


def support_rows() -> str:
    """Which preset runs on which family."""
    rows = []
    for entry in registry().all("pipeline"):
        pipeline = load_pipeline(entry.value, registry=registry())
        rows.append(
            [f"`{entry.name}`", *(supported(pipeline, model) for model in families().values())]
        )
    return table(["preset", *families()], rows)


def supported(pipeline: Pipeline, adapted: AdaptedModel) -> str:
    """``yes``, or why not."""
    try:
        check(pipeline, adapted)
    except TokensieveError as error:
        reason = re.sub(r"^stage .+? at (boundary \d+|image): (adapter [\w-]+: )?", "", str(error))
        return f"no: {reason.split(': use another')[0]}"
    return "yes"


def adapter_rows() -> str:
    """The supported families."""
    rows = []
    for entry in registry().all("adapter"):
        module = sys.modules[entry.value.__module__].__name__.removeprefix("tokensieve.")
        path = f"{module.replace('.', '/')}.py"
        kinds = code(sorted(entry.value.model_types))
        rows.append([f"`{entry.name}`", kinds, entry.value.summary(), f"[`{path}`](../{path})"])
    return table(["adapter", "`model_type`", "family", "file"], rows)


def check_rows() -> str:
    """The rules of the conformance suite."""
    rows: dict[str, list[str]] = {}
    for kind, checks in CHECKS.items():
        for rule in checks:
            row = rows.setdefault(rule.name, [f"`{rule.name}`", rule.meaning, ""])
            row[2] = f"{row[2]}, {kind}".removeprefix(", ")
    return table(["check", "rule", "for"], rows.values())


def command_rows() -> str:
    """The commands of the command line."""
    group = typer.main.get_command(app)
    commands: dict[str, Any] = group.commands  # type: ignore[attr-defined]
    rows = [
        [f"`tokensieve {name}`", command.help.split("\n\n")[0]]
        for name, command in sorted(commands.items())
    ]
    return table(["command", "what it does"], rows)


def version_rows() -> str:
    """Which versions the subset of the tests was run on."""
    results = json.loads((DOCS / "data" / "versions.json").read_text(encoding="utf-8"))
    shown = ("transformers", "torch", "torchvision", "timm", "python")
    rows = [
        [title, *(run[name] for name in shown), *(str(run[kind]) for kind in COUNTS)]
        for title, run in results.items()
    ]
    return table(["run", *shown, *COUNTS], rows)


def hostile_rows() -> str:
    """How many hostile cases of each kind were tried, and how many held."""
    figures = json.loads((DOCS / "data" / "hostile.json").read_text(encoding="utf-8"))["cases"]
    rows = [
        [f"`tests/hostile/test_{kind}*.py`", f"{tried:,}", f"{held:,}"]
        for kind, (tried, held) in figures.items()
    ]
    totals = (f"{sum(row[n] for row in figures.values()):,}" for n in (0, 1))
    return table(["kind", "tried", "held"], [*rows, ["all", *totals]])


def paragraphs(path: Path) -> list[str]:
    """The paragraphs of a module's docstring, as Markdown."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return [" ".join(part.split()).replace("``", "`") for part in text.split("\n\n")]


def purpose(init: Path) -> tuple[str, str]:
    """The first paragraph of a room's ``__init__``, and the one of what is not in the room."""
    first, *others = paragraphs(init)
    beyond = next((part for part in others if part.startswith(NOT_HERE)), "")
    return first, beyond.removeprefix(NOT_HERE)


def room_rows(top: str, floors: bool = False) -> str:
    """The rooms under a folder: what their ``__init__`` says, and the files in them."""
    rows = []
    for init in sorted((PROJECT / top).rglob("__init__.py")):
        folder = init.parent.relative_to(PROJECT).as_posix()
        if folder == DOOR:
            continue
        files = ", ".join(p.stem for p in sorted(init.parent.glob("*.py")) if p != init)
        rows.append([f"[`{folder}/`](../{folder})", *purpose(init), files])
        if floors:
            rows[-1].insert(1, str(floor_of(folder)))
    titles = ["room", "what it is for", "what is not here", "files"]
    if floors:
        rows.sort(key=lambda row: -int(row[1]))
        titles.insert(1, "floor")
    return table(titles, rows)


def helper_rows() -> str:
    """The modules that test files share."""
    rows = []
    for path in sorted((PROJECT / "tests" / "helpers").glob("*.py")):
        name = path.relative_to(PROJECT).as_posix()
        rows.append([f"[`{path.stem}`](../{name})", paragraphs(path)[0]])
    return table(["helper", "what it holds"], rows)


def rooms_of_tests() -> str:
    """The folders of the tests, and how many files of tests are in them."""
    rows = []
    for folder in sorted(path for path in (PROJECT / "tests").iterdir() if path.is_dir()):
        count = len(list(folder.rglob("*.py")))
        if count:
            name = folder.relative_to(PROJECT).as_posix()
            rows.append([f"[`{name}/`](../{name})", str(count)])
    return table(["room", "files"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "scorers": lambda: component_rows("scorer"),
    "selectors": lambda: component_rows("selector"),
    "mergers": lambda: component_rows("merger"),
    "parameters": parameter_rows,
    "deviations": deviations,
    "methods": method_rows,
    "method-budgets": budget_rows,
    "method-deviations": method_deviations,
    "pipeline-keys": lambda: key_rows("pipeline"),
    "stage-keys": lambda: key_rows("stage"),
    "term-keys": lambda: key_rows("score-term"),
    "signals": signal_rows,
    "support": support_rows,
    "adapters": adapter_rows,
    "checks": check_rows,
    "commands": command_rows,
    "versions": version_rows,
    "hostile": hostile_rows,
    "core-rooms": lambda: room_rows("core", floors=True),
    "strategy-rooms": lambda: room_rows("strategies"),
    "adapter-rooms": lambda: room_rows("adapters"),
    "test-rooms": rooms_of_tests,
    "test-helpers": helper_rows,
    "api": lambda: module_part("tokensieve"),
    "api-plugin": lambda: module_part("tokensieve.plugin"),
    "api-testing": lambda: module_part("tokensieve.testing"),
}


def main() -> None:
    """Rewrite every page whose tables are out of date."""
    for path in pages():
        old = path.read_text(encoding="utf-8")
        new = updated(old)
        if new != old:
            path.write_text(new, encoding="utf-8")
            print(f"updated {path.relative_to(PROJECT)}")


if __name__ == "__main__":
    main()
