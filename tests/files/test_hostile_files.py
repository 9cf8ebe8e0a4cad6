"""Files as people have them, and as nobody should: one clear line, never somebody else's error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import Call, one_line
from PIL import Image

from tokensieve.core.errors import PipelineError, TaskError, TokensieveError
from tokensieve.core.files.text import filled_lines, read_text
from tokensieve.core.foreign import foreign, reason, shorten, shown
from tokensieve.core.pipeline.loading import load_pipeline
from tokensieve.core.plugins.discovery import build_registry
from tokensieve.core.study.spec.study import load_study

REGISTRY = build_registry()
STAGE = "at: 2\nscore: iga\nkeep: 0.5\n"
READERS: dict[str, Callable[[Path], object]] = {
    "pipeline": lambda path: load_pipeline(path, registry=REGISTRY),
    "study": lambda path: load_study(path, REGISTRY),
}

# YAML -> what the error says behind FILE
HOSTILE_YAML: dict[str, tuple[str | bytes, str]] = {
    "control character": ("a: 1\nname: x\x07\n", r":2:8: not valid YAML: the character \x07"),
    "NUL": ("name: \0\n", r":1:7: not valid YAML: the character \x00 is not allowed"),
    "delete": ("name: a\x7f\n", r":1:8: not valid YAML: the character \x7f is not allowed"),
    "escaped NUL": ('name: "a\\0b"\n', r":1:7: the character \x00 is not allowed"),
    "escaped half character": ('name: "\\ud83d"\n', r":1:7: the character \ud83d is not allowed"),
    "escaped key": ('"a\\x1b": 1\n', r":1:1: the character \x1b is not allowed"),
    "escape beyond Unicode": ('name: "\\UFFFFFFFF"\n', ":1:10: not valid YAML: OverflowError"),
    "line separator": ("name: a\u2028b\n", r":1:8: not valid YAML: the character \u2028 is not"),
    "next line": ("name: 'a\x85b'\n", r":1:9: not valid YAML: the character \x85 is not allowed"),
    "no end of brackets": ("a: " + "[" * 100_000, ":1:44: not valid YAML: lists and mapp"),
    "many brackets": ("a: " + "[" * 200 + "]" * 200, ":1:44: not valid YAML: lists and mapp"),
    "long number": ("keep: " + "9" * 5000, "9' is too long for a number"),
    "long version": ("%YAML 1." + "9" * 5000 + "\n---\na: 1\n", ":1:9: not valid YAML: Exceeds"),
    "long text": ("name: " + "A" * 200_000, ":1:7: a text of 200,000 characters, allowed: 10,000"),
    "long alias": ("a: *" + "b" * 3000, "found undefined alias"),
    "long tag": ("a: !<" + "x" * 5000 + "> b\n", "is not allowed: write plain values"),
    "long key twice": (f"? {'k' * 999}\n: 1\n? {'k' * 999}\n: 2\n", ":3:3: duplicate key 'kkk"),
    "tag of bytes": ("a: !%ff x\n", ":1:5: not valid YAML"),
    "two documents": ("a: 1\n---\na: 2\n", ":2:1: not valid YAML: but found another document"),
    "key of a list": ("? [a]\n: 1\n", ":1:3: a key must be plain text"),
    "UTF-16": (STAGE.encode("utf-16"), ":1:1: is not UTF-8 text, but UTF-16: save it as UTF-8"),
    "Latin-1": (b"a: 1\nname: caf\xe9\n", ":2:10: is not UTF-8 text (byte 14)"),
    "half character": (b"name: \xed\xa0\xbd\n", ":1:7: is not UTF-8 text (byte 6)"),
}  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("case", HOSTILE_YAML)
def test_hostile_yaml_has_a_place_and_one_line(case: str, reader: str, tmp_path: Path) -> None:
    text, message = HOSTILE_YAML[case]
    path = tmp_path / "x.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(PipelineError) as caught:
        READERS[reader](path)
    said = str(caught.value)
    assert message in said
    assert said.startswith(f"{path}:")
    assert len(said.splitlines()) == 1
    assert len(said) < 300 + len(str(path))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("\ufeffname: x\n", "x"),
        ("name: x\r\n", "x"),
        ('name: "\\ud83d\\ude00"\n', "\U0001f600"),  # as JSON escapes it
        ('name: "a\\u2028b"\n', "a\u2028b"),
        ("name: caf\u00e9\n", "caf\u00e9"),
    ],
)
def test_yaml_that_is_only_unusual(text: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text + STAGE, encoding="utf-8", newline="")
    assert load_pipeline(path, registry=REGISTRY).name == name


@pytest.mark.parametrize(
    "line",
    [
        "tasks: ~nobody_of_that_name/data.jsonl",
        f"tasks: {'a' * 3000}.jsonl",
        f"tasks: {'a' * 3000}",
        f"models: {'a' * 3000}",
        "models: ~nobody_of_that_name/x",
        f"pipelines: {'a' * 3000}.yaml",
        f"pipelines: {'a' * 3000}",
        f"seeds: [1, 2, {'9' * 4000}]",
        f"samples: '{'9' * 4000}'",
        f"budgets: {'9' * 4000}",
    ],
    ids=lambda line: line[:14],
)
def test_hostile_values_of_a_study(line: str, tmp_path: Path) -> None:
    document = {"models": "tiny-llava", "budgets": 0.5, "tasks": "digits"}
    key = line.partition(":")[0]
    others = [f"{name}: {value}" for name, value in document.items() if name != key]
    path = tmp_path / "x.yaml"
    path.write_text("\n".join([line, *others]))
    with pytest.raises(PipelineError) as caught:
        load_study(path, REGISTRY)
    said = str(caught.value)
    assert said.startswith(f"{path}:1:")
    assert len(said.splitlines()) == 1
    assert len(said) < 800, said  # presets are listed
    assert "a" * 250 not in said


# arguments of the command line -> what the line says
HOSTILE_CALLS: dict[str, tuple[list[str], str]] = {
    "prompt": (["run", "--prompt", "bad \udcff"], r"--prompt has half a character"),
    "prompt about a picture": (
        ["run", "--image", "a.png", "--prompt", "\ud83d"], r"bytes that are not UTF-8 (\ud83d)"),
    "keep": (["run", "--keep", "\x07"], r"--keep:1:1: not valid YAML: the character \x07"),
    "keep of bytes": (["run", "--keep", "\udcff"], r"--keep:1:1: not valid YAML"),
    "pipeline": (["run", "--pipeline", "f\udcffv"], r"unknown pipeline 'f\udcffv'"),
    "long pipeline": (["run", "--pipeline", "a" * 3000], "unknown pipeline 'aaa"),
    "long model": (["run", "--model", "a" * 3000], "unknown model 'aaa"),
    "picture": (["run", "--image", "\udcff.png", "--prompt", "x"], r"image \udcff.png does not"),
    "folder as picture": (["run", "--image", ".", "--prompt", "x"], "image . is a folder"),
    "study": (["study", "control.yaml"], r"control.yaml:1:7: not valid YAML: the character \x01"),
    "study in UTF-16": (["study", "utf16.yaml"], "utf16.yaml:1:1: is not UTF-8 text"),
    "long study": (["study", "a" * 3000], "unknown study 'aaa"),
    "long file of a study": (["study", "a" * 3000 + ".yaml"], "File name too long"),
    "task": (["study", "--model-id", "tiny-llava", "--task", "\udcff.jsonl"], "does not exist"),
    "row": (["study", "--model-id", "tiny-llava", "--task", "data.jsonl"], "data.jsonl:1: the q"),
    "claim": (["report", ".", "--claim", "\udcff"], "--claim"),
    "show": (["show", "\udcff"], r"unknown pipeline '\udcff'"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE_CALLS)
def test_hostile_arguments_give_one_line(case: str, call: Call, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "control.yaml").write_bytes(b"name: \x01")
    (tmp_path / "utf16.yaml").write_text("name: x", encoding="utf-16")
    row = {"image": "a.png", "question": "a \ud83d", "answer": "b"}
    (tmp_path / "data.jsonl").write_text(json.dumps(row))
    arguments, message = HOSTILE_CALLS[case]
    shown_to_user = call(*arguments)
    one_line(shown_to_user, message)
    assert len(shown_to_user.err) < 800


@pytest.mark.parametrize("config", ["[" * 100_000, "[]", '{"a": "\x07"}', "\xff", "5", ""])
def test_a_hostile_config_of_a_model(config: str, call: Call, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_bytes(config.encode("latin-1"))
    result = call("study", "--model-id", "m", "--task", "digits", "--dry-run")
    one_line(result, "m/config.json:")


class Odd(Exception):
    """Somebody else's."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("pixel_values"), "KeyError: 'pixel_values'"),
        (IndexError("list index out of range"), "IndexError: list index out of range"),
        (TypeError("one\ntwo"), "TypeError: one"),
        (Odd(), "Odd"),
        (ValueError("  \n"), "ValueError"),
        (ValueError("says enough\nand more"), "says enough"),
        (OSError(36, "File name too long", "a" * 3000), "File name too long"),
        (RecursionError("maximum recursion depth"), "it is nested too deep"),
        (StopIteration(), "StopIteration"),
        (ValueError("bell \x07 half \ud83d"), r"bell \x07 half \ud83d"),
    ],
)
def test_errors_of_others_become_one_line(error: Exception, said: str) -> None:
    with pytest.raises(TaskError) as caught, foreign(TaskError, "there"):
        raise error
    assert str(caught.value) == f"there: {said}"
    assert caught.value.__cause__ is error
    assert len(reason(type(error)("x" * 10_000))) < 300


def test_our_own_errors_stay_as_they_are() -> None:
    own = TaskError("a.jsonl:3: no")
    with pytest.raises(TokensieveError) as caught, foreign(PipelineError, "there"):
        raise own
    assert caught.value is own


def nested(depth: int) -> list[Any]:
    return [nested(depth - 1)] if depth else []


@pytest.mark.parametrize(
    "value",
    ["x" * 10**6, b"x" * 10**6, [["x" * 100] * 100] * 100, nested(500), 10**6000, {"k" * 999: 1}],
    ids=["text", "bytes", "lists", "nested", "number", "mapping"],
)
def test_values_are_never_echoed_whole(value: Any) -> None:
    assert 0 < len(shown(value)) < 300


def test_short_texts_are_kept_and_long_ones_keep_both_ends() -> None:
    assert shorten("caf\u00e9 \U0001f600") == "caf\u00e9 \U0001f600"
    long = shorten("/start/" + "x" * 999 + "/end.png")
    assert long.startswith("/start/")
    assert long.endswith("/end.png")
    assert "(1,014 characters)" in long


def test_lines_end_where_editors_end_them(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes("\ufeffa\u2028b\r\nc\x85d\n\x0be\x1cf".encode())
    lines = [line for _, line in filled_lines(read_text(path, TaskError))]
    assert lines == ["a\u2028b", "c\x85d", "\x0be\x1cf"]


def test_positions_behind_a_byte_order_mark_are_those_of_the_editor(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("\ufeffname: @", encoding="utf-8")
    with pytest.raises(PipelineError, match=r"x\.yaml:1:7: not valid YAML"):
        load_pipeline(tmp_path / "x.yaml", registry=REGISTRY)
