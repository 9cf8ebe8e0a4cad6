"""Output is data too: names, answers and errors of strangers are shown, never obeyed."""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import Call, assert_harmless, clear
from hostile_names import NAMES, UNPAIRED, cases
from hypothesis import given, settings
from hypothesis import strategies as st

from tokensieve.core.bench.overhead import Overhead, Overheads, show_overheads
from tokensieve.core.bench.result import Spread
from tokensieve.core.cli import study_report
from tokensieve.core.cli.study_progress import StudyProgress
from tokensieve.core.foreign import plain
from tokensieve.core.output.terminal import Screen, say, table, to_json, warn
from tokensieve.core.study.store.records import CellDocument
from tokensieve.core.study.store.store import Cell

# The terminal: every command, whatever the name is a name of


TYPED = {key: UNPAIRED[key] for key in (
    "escape", "screen", "C1", "newline", "return", "backspace", "separator", "turned", "isolate",
    "invisible", "tab", "markup", "emoji code", "format", "long", "half character",
)}  # fmt: skip


def calls(name: str, folder: Path) -> dict[str, list[str]]:
    """A name wherever people give one."""
    model = ["--model-id", "tiny-llava", "--task", "digits", "--dry-run"]
    return {
        "pipeline": ["show", name],
        "file": ["validate", name],
        "model": ["show", "fastv", "--model", name],
        "study": ["study", name],
        "kind": ["list", name],
        "command": [name],
        "option": ["show", "fastv", f"--{name}"],
        "keep": ["show", "fastv", "--keep", name],
        "device": ["check", "x.py", "--device", name],
        "plugin": ["list", "--plugin", name],
        "folder": ["report", name],
        "out": ["report", "planted", "--out", name],
        "claim": ["report", str(folder), "--claim", f"{name} > b"],
        "task": ["study", "--model-id", "tiny-llava", "--task", name, "--dry-run"],
        "budget": ["study", *model, "--budget", name],
        "dtype": ["study", *model, "--dtype", name],
        "overlay": ["run", "--overlay", name],
        "image": ["run", "--image", name, "--prompt", "x"],
    }


@cases(TYPED)
@pytest.mark.parametrize("place", calls("", Path()))
def test_a_name_on_the_command_line_is_one_line(
    place: str, name: str, call: Call, tmp_path: Path
) -> None:
    result = call(*calls(name, tmp_path)[place])
    assert result.code == 2
    clear(result.err)
    assert_harmless(result.out)
    assert len(result.err) < 1500
    assert result.out == ""


OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # refused in YAML
IN_YAML = {key: name for key, name in NAMES.items() if not OBEYED.search(name) and len(name) < 99}


def stage(name: str) -> dict[str, Any]:
    return {"name": name, "at": 2, "score": "iga", "keep": 0.5}


@cases(IN_YAML)
@pytest.mark.parametrize("command", ["validate", "show", "costs", "plan"])
def test_a_pipeline_of_that_name_is_shown(
    command: str, name: str, call: Call, tmp_path: Path
) -> None:
    (tmp_path / "p.yaml").write_text(json.dumps(stage(name)))
    study = {"models": "tiny-llava", "budgets": 0.5, "tasks": "digits", "pipelines": ["p.yaml"]}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(study))
    arguments = {
        "validate": ["validate", "p.yaml"],
        "show": ["show", "p.yaml"],
        "costs": ["show", "p.yaml", "--model", "small"],
        "plan": ["study", "s.yaml", "--dry-run"],
    }[command]
    result = call(*arguments)
    assert_harmless(result.out + result.err)
    if result.code:
        clear(result.err)
    elif command == "show":
        assert yaml.safe_load(result.out)["name"] == name
    else:
        shown = " ".join(result.out.split())
        assert " ".join(plain(name).split()) in shown


@cases(UNPAIRED)
@pytest.mark.parametrize("way", ["say", "warn", "print", "row", "header"])
def test_every_way_to_the_terminal_escapes(
    way: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = table("a", name if way == "header" else "b")
    rows.add_row("1", name if way == "row" else "2")
    {
        "say": lambda: say(name),
        "warn": lambda: warn(name),
        "print": lambda: Screen().print(name, soft_wrap=True),
        "row": lambda: Screen().print(rows),
        "header": lambda: Screen().print(rows),
    }[way]()
    shown = "".join(capsys.readouterr())
    assert_harmless(shown)
    assert len(shown.splitlines()) == (3 if way in ("row", "header") else 1)
    assert plain(name).strip() in shown


def overheads(name: str) -> Overheads:
    where = {"device_name": name, "dtype": "float32", "attention": "sdpa", "threads": 1}
    rows = [Overhead(name, refused=f"because of {name}"), Overhead("fastv", refused="no")]
    return Overheads(where, "small", 576, 64, 5, Spread.of([0.1, 0.2, 0.3]), rows)


@cases(UNPAIRED)
@pytest.mark.parametrize("width", [20, 200])
def test_costs_of_a_pipeline_of_that_name(width: int, name: str) -> None:
    stream = io.StringIO()
    screen = Screen(file=stream, width=width, force_terminal=True, color_system=None)
    show_overheads(overheads(name), screen)
    assert_harmless(stream.getvalue())
    shown, wanted = ("".join(text.split()) for text in (stream.getvalue(), plain(name)))
    assert wanted in shown


@cases(UNPAIRED)
def test_a_cell_of_that_name_that_failed(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = {"model": {"name": name}, "task": {"name": name}, "pipeline": {"name": name},
              "kind": "accuracy", "budget": None, "seed": 0}  # fmt: skip
    data = {"config": config, "status": "failed", "error": f"ValueError: {name}"}
    cell = Cell(tmp_path / "key", CellDocument.model_validate(data))
    for line in study_report._failures([cell], 1):
        warn(line)
    progress = StudyProgress(1)
    progress.say(f"[1/1] {cell.title}")
    shown = capsys.readouterr().err
    assert_harmless(shown)
    assert len(shown.splitlines()) == 3
    assert plain(name) in shown


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.text(max_size=40))
def test_any_text_is_one_harmless_line(text: str) -> None:
    shown = plain(text)
    assert_harmless(shown)
    assert len(shown.splitlines()) <= 1
    assert plain(shown) == shown
    if text.isascii() and text.isprintable():
        assert shown == text


@pytest.mark.parametrize(
    "text",
    ["caf\u00e9", "a\u00a0b", "\u3000", "\u0646\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
     "\u0915\u094d\u200d\u0937", "\u65e5\u672c\u8a9e", "\U0001f600", "\u05e9\u05dc\u05d5\u05dd"],
    ids=ascii,
)  # fmt: skip
def test_writing_of_all_kinds_stays(text: str) -> None:
    assert plain(text) == text


# JSON


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("depth", range(4))
@pytest.mark.parametrize("holder", ["list", "mapping", "tuple"])
def test_what_is_no_number_is_null(holder: str, depth: int, number: float) -> None:
    data: Any = number
    for _ in range(depth):
        data = {"list": [data, 1], "mapping": {"a": data}, "tuple": (data, 1)}[holder]
    text = to_json(data)
    assert "NaN" not in text
    assert "Infinity" not in text
    assert "null" in text

    def refused(constant: str) -> Any:
        raise AssertionError(constant)

    json.loads(text, parse_constant=refused)


@cases(UNPAIRED)
def test_json_is_ascii_and_gives_the_name_back(name: str) -> None:
    text = to_json({name: [name]})
    assert text.isascii()
    assert_harmless(text)
    assert json.loads(text) == {name: [name]}
