"""Results are of what was planned: examples, code, data, weights, stored cells and names."""

from __future__ import annotations

import copy
import json
import re
import shutil
import unicodedata
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from command_line import Call, one_line
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from plugin_sources import good_source, write
from pydantic import BaseModel
from study_helpers import spec_of, study_of

from tokensieve.core import plugins as plugins_module
from tokensieve.core.errors import PipelineError, PluginError, StudyError, TaskError
from tokensieve.core.fingerprints import fingerprint
from tokensieve.core.loading import load_pipeline
from tokensieve.core.names import CONTROLS, RESERVED
from tokensieve.core.plugins import build_registry
from tokensieve.core.study.cell import Worker
from tokensieve.core.study.executors.ray import RemoteWorker
from tokensieve.core.study.executors.slurm import RunShare
from tokensieve.core.study.flaws import sum_of
from tokensieve.core.study.grid import PlannedCell, key_of
from tokensieve.core.study.identity import model_files
from tokensieve.core.study.store import (
    CellResult,
    CorruptCell,
    Store,
    check_folder_name,
    unfinished,
)
from tokensieve.core.tasks import Box, Example
from tokensieve.core.yaml_source import read_yaml

GREY = Image.new("RGB", (4, 4), (90, 90, 90))


def clear(error: BaseException | str, *parts: str) -> None:
    """One line of bearable length that names its parts."""
    (line,) = str(error).splitlines()
    assert len(line) < 500
    for part in parts:
        assert part in line


# --------------------------------------------------------------------- examples


@dataclass(frozen=True)
class Wide(Example):
    """What a plugin's task may give."""

    answers: tuple[str, ...] = ()
    extra: Any = None


@dataclass(frozen=True)
class Late(Example):
    """A field that is not given."""

    rule: str = field(default="exact", init=False)


class Loose(Example):
    """Attributes that no field says."""

    def __init__(self, weight: Any) -> None:
        super().__init__("1", (GREY,), "?", "a")
        object.__setattr__(self, "weight", weight)


class Slots(Example):
    """Attributes in slots, one of them private to the class."""

    __slots__ = ("__secret", "shown")

    def __init__(self, secret: Any, shown: Any = 0) -> None:
        super().__init__("1", (GREY,), "?", "a")
        object.__setattr__(self, "_Slots__secret", secret)
        object.__setattr__(self, "shown", shown)


class Quiet(Wide):
    """Pickles itself without its answers."""

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "answers"}


class Terse(Wide):
    """Says nothing of itself."""

    def __repr__(self) -> str:
        return "Terse()"

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


class Numbers(list[Any]):
    """A list that knows more."""

    def __init__(self, unit: str) -> None:
        super().__init__([1, 2])
        self.unit = unit


class Text(str):
    """A text that knows more."""

    language = ""


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Rule(BaseModel):
    limit: float = 0.5
    _hidden: int = 0


def wide(**changes: Any) -> Wide:
    given_: dict[str, Any] = {"id": "1", "images": (GREY,), "question": "?", "answer": "a"}
    return Wide(**{**given_, **changes})


def extra(value: Any) -> Wide:
    return wide(extra=value)


def picture(mode: str = "RGB", value: Any = 0, size: tuple[int, int] = (4, 4), **info: Any) -> Wide:
    image = Image.new(mode, size, value)
    image.info.update(info)
    return wide(images=(image,))


def palette(colours: list[int]) -> Wide:
    image = Image.new("P", (4, 4))
    image.putpalette(colours)
    return wide(images=(image,))


def turned(turn: int) -> Wide:
    image = Image.new("RGB", (4, 2))
    image.getexif()[274] = turn
    return wide(images=(image,))


def added(name: str, value: Any) -> Wide:
    example = wide()
    object.__setattr__(example, name, value)
    return example


def private(value: int) -> Rule:
    rule = Rule()
    rule._hidden = value
    return rule


def spoken(language: str) -> Text:
    text = Text("a")
    text.language = language
    return text


def later(value: str) -> Late:
    example = Late("1", (GREY,), "?", "a")
    object.__setattr__(example, "rule", value)
    return example


DIFFERENT: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "id": (wide, lambda: wide(id="2")),
    "kind of id": (lambda: wide(id="1"), lambda: wide(id=1)),
    "question": (wide, lambda: wide(question="!")),
    "space in a question": (wide, lambda: wide(question="? ")),
    "answer": (wide, lambda: wide(answer="A")),
    "form of an answer": (lambda: wide(answer="\u00e9"), lambda: wide(answer="e\u0301")),
    "answer and question swapped": (
        lambda: wide(question="a", answer="b"), lambda: wide(question="b", answer="a")),
    "text moved between fields": (
        lambda: wide(question="ab", answer="c"), lambda: wide(question="a", answer="bc")),
    "answers widened": (lambda: wide(answers=("a",)), lambda: wide(answers=("a", "b"))),
    "answers in another order": (
        lambda: wide(answers=("a", "b")), lambda: wide(answers=("b", "a"))),
    "answers joined": (lambda: wide(answers=("ab",)), lambda: wide(answers=("a", "b"))),
    "answers as a list": (lambda: wide(answers=("a",)), lambda: wide(answers=["a"])),
    "box": (lambda: wide(boxes=((Box(0, 0, 1, 1),),)), lambda: wide(boxes=((Box(0, 0, 1, 0.5),),))),
    "box of another picture": (
        lambda: wide(boxes=((Box(0, 0, 1, 1),), ())), lambda: wide(boxes=((), (Box(0, 0, 1, 1),)))),
    "no boxes": (lambda: wide(boxes=((),)), wide),
    "a picture more": (wide, lambda: wide(images=(GREY, GREY))),
    "no picture": (wide, lambda: wide(images=())),
    "pixels": (picture, lambda: picture(value=(0, 0, 1))),
    "size": (picture, lambda: picture(size=(2, 8))),
    "mode": (lambda: picture("L"), lambda: picture("P")),
    "palette": (lambda: palette([0, 0, 0]), lambda: palette([9, 9, 9])),
    "alpha": (lambda: picture("RGBA", (0, 0, 0, 0)), lambda: picture("RGBA", (0, 0, 0, 255))),
    "transparent colour": (picture, lambda: picture(transparency=(0, 0, 0))),
    "metadata": (picture, lambda: picture(comment="left")),
    "turned by metadata": (lambda: turned(1), lambda: turned(6)),
    "mirrored by metadata": (lambda: turned(1), lambda: turned(2)),
    "field of a subclass": (lambda: extra(1), lambda: extra(2)),
    "whole number and fraction": (lambda: extra(1), lambda: extra(1.0)),
    "truth and number": (lambda: extra(1), lambda: extra(True)),
    "text and number": (lambda: extra("1"), lambda: extra(1)),
    "text and bytes": (lambda: extra("1"), lambda: extra(b"1")),
    "nothing and empty": (lambda: extra(None), lambda: extra("")),
    "minus zero": (lambda: extra(0.0), lambda: extra(-0.0)),
    "last bit": (lambda: extra(0.1), lambda: extra(0.1 + 2**-56)),
    "NaN": (lambda: extra(float("nan")), lambda: extra(float("inf"))),
    "complex": (lambda: extra(1j), lambda: extra(-1j)),
    "long number": (lambda: extra(10**6000), lambda: extra(10**6000 + 1)),
    "lone surrogate": (lambda: extra("\ud800"), lambda: extra("\ud801")),
    "nested list": (lambda: extra([[1], [2]]), lambda: extra([[1, 2], []])),
    "list and tuple": (lambda: extra([1]), lambda: extra((1,))),
    "mapping": (lambda: extra({"a": 1}), lambda: extra({"a": 2})),
    "key of a mapping": (lambda: extra({"a": 1}), lambda: extra({"b": 1})),
    "kind of a key": (lambda: extra({1: 1}), lambda: extra({"1": 1})),
    "order of a mapping": (lambda: extra({"a": 1, "b": 2}), lambda: extra({"b": 2, "a": 1})),
    "set": (lambda: extra({1}), lambda: extra({1, 2})),
    "set and frozenset": (lambda: extra({1}), lambda: extra(frozenset({1}))),
    "deque": (lambda: extra(deque([1])), lambda: extra(deque([2]))),
    "ordered mapping": (lambda: extra(OrderedDict(a=1)), lambda: extra(OrderedDict(a=2))),
    "mapping with a default": (
        lambda: extra(defaultdict(list, a=[1])), lambda: extra(defaultdict(list, a=[2]))),
    "array": (lambda: extra(np.arange(3)), lambda: extra(np.arange(1, 4))),
    "type of an array": (
        lambda: extra(np.zeros(2, np.float32)), lambda: extra(np.zeros(2, np.int32))),
    "shape of an array": (lambda: extra(np.zeros((2, 3))), lambda: extra(np.zeros((3, 2)))),
    "array of objects": (
        lambda: extra(np.array(["a", None])), lambda: extra(np.array(["b", None]))),
    "middle of a long array": (
        lambda: extra(np.zeros(5000)), lambda: extra(np.eye(1, 5000, 2500)[0])),
    "date": (lambda: extra(date(2026, 1, 1)), lambda: extra(date(2026, 1, 2))),
    "digits of a decimal": (lambda: extra(Decimal("1.0")), lambda: extra(Decimal("1.00"))),
    "ratio": (lambda: extra(Fraction(1, 3)), lambda: extra(Fraction(1, 4))),
    "pattern": (lambda: extra(re.compile("a")), lambda: extra(re.compile("b"))),
    "flags of a pattern": (lambda: extra(re.compile("a")), lambda: extra(re.compile("a", re.I))),
    "enumeration": (lambda: extra(Colour.RED), lambda: extra(Colour.BLUE)),
    "model": (lambda: extra(Rule()), lambda: extra(Rule(limit=0.6))),
    "private part of a model": (lambda: extra(private(0)), lambda: extra(private(1))),
    "plain object": (
        lambda: extra(SimpleNamespace(a=1)), lambda: extra(SimpleNamespace(a=2))),
    "another class": (lambda: extra(SimpleNamespace(a=1)), lambda: extra({"a": 1})),
    "range": (lambda: extra(range(3)), lambda: extra(range(4))),
    "named function": (lambda: extra(len), lambda: extra(max)),
    "picture in a field": (lambda: extra(GREY), lambda: extra(GREY.point(lambda v: v + 1))),
    "example in a field": (lambda: extra(wide()), lambda: extra(wide(answer="b"))),
    "attribute of a list": (lambda: extra(Numbers("m")), lambda: extra(Numbers("km"))),
    "attribute of a text": (lambda: extra(spoken("de")), lambda: extra(spoken("en"))),
    "attribute that is added": (wide, lambda: added("weight", 1)),
    "value of an added attribute": (lambda: added("weight", 1), lambda: added("weight", 2)),
    "private attribute": (lambda: added("_weight", 1), lambda: added("_weight", 2)),
    "attribute without a field": (lambda: Loose(1), lambda: Loose(2)),
    "slot": (lambda: Slots(1, 1), lambda: Slots(1, 2)),
    "private slot": (lambda: Slots(1), lambda: Slots(2)),
    "field that is not given": (lambda: later("exact"), lambda: later("near")),
    "left out of its pickle": (
        lambda: Quiet("1", (), "?", "a", (), ("a",)), lambda: Quiet("1", (), "?", "a", (), ("b",))),
    "silent and equal to all": (
        lambda: Terse("1", (), "?", "a", (), ("a",)), lambda: Terse("1", (), "?", "a", (), ("b",))),
    "class of an example": (lambda: Wide("1", (), "?", "a"), lambda: Example("1", (), "?", "a")),
}  # fmt: skip


@pytest.mark.parametrize("case", DIFFERENT)
def test_whatever_differs_in_an_example_shows(case: str) -> None:
    one, other = DIFFERENT[case]
    assert fingerprint([one()]) != fingerprint([other()])
    assert fingerprint([one()]) == fingerprint([one()])
    assert fingerprint([other()]) == fingerprint([other()])


@pytest.mark.parametrize("case", ["order", "number", "twice"])
def test_whatever_differs_among_examples_shows(case: str) -> None:
    one, other = wide(), wide(id="2")
    lists = {"order": [other, one], "number": [one], "twice": [one, other, other]}
    assert fingerprint(lists[case]) != fingerprint([one, other])


def test_data_of_a_class_shows() -> None:
    def kind(answers: Any) -> Any:
        return type("Of", (Example,), {"answers": answers})("1", (), "?", "a")

    assert fingerprint([kind(["a"])]) != fingerprint([kind(["b"])])
    assert fingerprint([kind(["a"])]) == fingerprint([kind(["a"])])


def loop() -> list[Any]:
    itself: list[Any] = []
    itself.append(itself)
    return itself


def deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(5000):
        value = [value]
    return value


class Refusing:
    def __reduce_ex__(self, protocol: Any) -> Any:
        raise RuntimeError("no\nand more")


def nested() -> Callable[[], None]:
    def inner() -> None: ...

    return inner


NOT_COMPARED: dict[str, Callable[[], Any]] = {
    "lambda": lambda: lambda: 1,
    "function of a function": nested,
    "generator": lambda: (n for n in [1]),
    "open file": lambda: open(__file__),
    "lock": lambda: __import__("threading").Lock(),
    "memory": lambda: memoryview(b"x"),
    "path": lambda: Path("answers.txt"),
    "list that holds itself": loop,
    "5,000 lists": deep,
    "module": lambda: re,
    "object that refuses": Refusing,
    "in a list": lambda: [1, [lambda: 2]],
    "in a mapping": lambda: {"a": lambda: 2},
    "as a key": lambda: {(lambda: 2): 1},
    "in a set": lambda: {lambda: 2},
    "in an object": lambda: SimpleNamespace(a=lambda: 2),
    "in an array": lambda: np.array([lambda: 2, 1]),
    "class of a function": lambda: type("Free", (), {}),
}


@pytest.mark.parametrize("case", NOT_COMPARED)
@pytest.mark.parametrize("place", ["field", "attribute"])
def test_what_cannot_be_compared_is_refused(case: str, place: str) -> None:
    value = NOT_COMPARED[case]()
    example = wide(extra=value) if place == "field" else added("weight", value)
    with pytest.raises(TaskError) as caught:
        fingerprint([example])
    clear(caught.value, "example '1'", "extra" if place == "field" else "weight")
    if hasattr(value, "close"):
        value.close()


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner)
    | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=150, deadline=None, derandomize=True)
@given(one=PLAIN, other=PLAIN)
def test_equal_prints_are_equal_values(one: Any, other: Any) -> None:
    same = repr(one) == repr(other)
    assert (fingerprint([extra(one)]) == fingerprint([extra(other)])) == same


@settings(max_examples=100, deadline=None, derandomize=True)
@given(value=PLAIN)
def test_a_copy_has_the_same_print(value: Any) -> None:
    assert fingerprint([extra(value)]) == fingerprint([extra(copy.deepcopy(value))])


# ------------------------------------------------------------- code, data, weights

TASK = """
from PIL import Image
import tokensieve

def read(file, mode="r"):
    with open(file, mode) as stream:
        return stream.read()

{imports}

class Grey(tokensieve.Task):
    name = "grey"

    def examples(self, count, seed):
        image = Image.new("RGB", (96, 96))
        return [tokensieve.Example({id}, (image,), {question}, "grey") for n in range(count)]

    def score(self, example, answer):
        return {score}

@tokensieve.hookimpl
def tokensieve_register(registry):
    registry.add(Grey)
"""


def task_source(**changes: str) -> str:
    parts = {"imports": "", "id": "str(n)", "question": "'what?'", "score": "0.5", **changes}
    return TASK.format(**parts)


MINE = {"pipeline": {"at": 1, "score": "mine", "keep": 9}, "name": "mine"}
ONE: dict[str, Any] = {"tasks": [{"task": "digits", "samples": 1}], "max_new_tokens": 1}


def planned(name: str, plugins: list[Path], **changes: Any) -> PlannedCell:
    """The first cell of the pipeline called so."""
    cells = study_of(plugins, **{**ONE, **changes}).cells
    return next(c for c in cells if (c.config["pipeline"] or {"name": "anatomy"})["name"] == name)


@pytest.fixture(scope="module")
def worker() -> Worker:
    return Worker()


def failed(result: CellResult, *parts: str) -> None:
    assert result.status == "failed", result.cell
    clear(result.cell["error"], *parts)
    assert result.lines == {}


def helper(text: str) -> str:
    """A scorer whose numbers come from another module."""
    return text + good_source("mine").replace("view.hidden", "helper.FACTOR * view.hidden")


PATHS = "import sys; sys.path.insert(0, {folder!r})\n"
BY_FILE = """
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("helper_{unique}", {folder!r} + "/helper_{unique}.py")
helper = module_from_spec(spec)
sys.modules[spec.name] = helper
spec.loader.exec_module(helper)
"""
# how a plugin imports its helper; {unique} keeps the modules of the tests apart
IMPORTS = {
    "import": "import helper_{unique} as helper\n",
    "from": "import types; from helper_{unique} import FACTOR\n"
            "helper = types.SimpleNamespace(FACTOR=FACTOR)\n",
    "star": "import types; from helper_{unique} import *\n"
            "helper = types.SimpleNamespace(FACTOR=FACTOR)\n",
    "by name": "from importlib import import_module\n"
               "helper = import_module('helper_{unique}')\n",
    "late": "class helper:\n    FACTOR = 1\n"
            "def later():\n    import helper_{unique}\n",
    "guarded": "try:\n    import helper_{unique} as helper\nexcept ImportError:\n    pass\n",
    "by file": BY_FILE,
    "through another": "import through_{unique}; helper = through_{unique}.helper\n",
    "of a package": "import pack_{unique}.inner as inner; helper = inner.helper\n",
}  # fmt: skip


def write_plugin(folder: Path, how: str) -> tuple[Path, Path]:
    """The plugin and the helper that it imports."""
    unique = f"{abs(hash(folder)) % 10**8}"
    name = f"helper_{unique}.py"
    file = write(folder / name, "FACTOR = 2\n")
    if how == "through another":
        write(folder / f"through_{unique}.py", f"import helper_{unique} as helper\n")
    if how == "of a package":
        write(folder / f"pack_{unique}" / "__init__.py", "")
        write(folder / f"pack_{unique}" / "inner.py", "from . import helper\n")
        file = write(folder / f"pack_{unique}" / "helper.py", "FACTOR = 2\n")
    text = (PATHS + IMPORTS[how]).format(folder=str(folder), unique=unique)
    return write(folder / "plugin.py", helper(text)), file


@pytest.mark.parametrize("change", ["edited", "commented", "removed"])
@pytest.mark.parametrize("how", IMPORTS)
def test_what_a_plugin_imports_is_part_of_it(
    how: str, change: str, tmp_path: Path, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    plugin, file = write_plugin(tmp_path, how)
    before = planned("mine", [plugin], pipelines=[MINE])
    if change == "removed":
        file.unlink()
        failed(worker.run(before), file.name)
        return
    write(file, "FACTOR = 3\n" if change == "edited" else "FACTOR = 2  # two\n")
    after = planned("mine", [plugin], pipelines=[MINE])
    assert after.key != before.key
    failed(worker.run(before), str(file), "has changed since the study was planned")


EDITS: dict[str, Callable[[Path], object]] = {
    "edited": lambda file: write(file, file.read_text().replace("dim=-1", "dim=-1, p=1")),
    "commented": lambda file: write(file, file.read_text() + "# end\n"),
    "renamed component": lambda file: write(file, file.read_text().replace("mine", "other")),
    "registers nothing": lambda file: write(file, "import tokensieve\n"),
    "no Python": lambda file: write(file, "def (\n"),
    "raises": lambda file: write(file, "raise SystemExit(0)\n"),
    "empty": lambda file: write(file, ""),
    "removed": lambda file: file.unlink(),
    "folder instead": lambda file: (file.unlink(), file.mkdir()),
    "another name": lambda file: file.rename(file.with_suffix(".bak")),
}
ENTRIES = ["worker", "ray", "slurm"]


def run_by(entry: str, cell: PlannedCell, worker: Worker, out: Path) -> CellResult:
    """The cell's result, as each executor has it made."""
    if entry == "worker":
        return worker.run(cell)
    if entry == "ray":
        return RemoteWorker(None).run(cell)
    RunShare()([cell], str(out))
    (found,) = Store(out).cells()
    return CellResult(found.key, found.data, {"samples.jsonl": found.samples} if found.samples
                      else {})  # fmt: skip


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_plugin_gives_no_result(
    edit: str, entry: str, tmp_path: Path, worker: Worker
) -> None:
    plugin = write(tmp_path / "plugin.py", good_source("mine"))
    cell = planned("mine", [plugin], pipelines=[MINE])
    EDITS[edit](plugin)
    failed(run_by(entry, cell, worker, tmp_path / "out"), str(plugin))


def test_a_plugin_that_is_as_it_was_gives_a_result(tmp_path: Path, worker: Worker) -> None:
    plugin = write(tmp_path / "plugin.py", good_source("mine"))
    cell = planned("mine", [plugin], pipelines=[MINE])
    write(plugin, "")
    failed(worker.run(cell), str(plugin))
    write(plugin, good_source("mine"))
    assert worker.run(cell).status == "done"


def test_a_plugin_that_changes_while_its_cell_runs_gives_no_result(
    tmp_path: Path, worker: Worker
) -> None:
    """It writes to its own file as soon as it is asked."""
    once = "(open(__file__, 'a').write('#'), view.hidden.norm(dim=-1))[1]"
    source = good_source("mine").replace("view.hidden.norm(dim=-1)", once)
    plugin = write(tmp_path / "plugin.py", source)
    failed(worker.run(planned("mine", [plugin], pipelines=[MINE])), str(plugin))


@pytest.mark.parametrize("edited", ["a", "b"])
def test_two_plugins_of_one_file_name_are_both_looked_at(
    edited: str, tmp_path: Path, worker: Worker
) -> None:
    plugins = [write(tmp_path / name / "same.py", good_source(f"mine-{name}")) for name in "ab"]
    terms = [{"scorer": "mine-a"}, {"scorer": "mine-b"}]
    mine = {"pipeline": {"at": 1, "score": terms, "keep": 9}, "name": "mine"}
    before = planned("mine", plugins, pipelines=[mine])
    file = tmp_path / edited / "same.py"
    write(file, file.read_text() + "#\n")
    assert planned("mine", plugins, pipelines=[mine]).key != before.key
    failed(worker.run(before), str(file))


TASKS = {
    "score": {"score": "1.0"},
    "question": {"question": "'which?'"},
    "id": {"id": "'n' + str(n)"},
    "comment": {"imports": "# nothing"},
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("change", TASKS)
def test_an_edited_task_gives_no_result(
    change: str, entry: str, tmp_path: Path, worker: Worker
) -> None:
    plugin = write(tmp_path / "grey.py", task_source())
    cell = planned("none", [plugin], tasks=[{"task": "grey", "samples": 2}])
    write(plugin, task_source(**TASKS[change]))
    failed(run_by(entry, cell, worker, tmp_path / "out"), str(plugin))


def test_two_tasks_with_the_same_examples_have_their_own_scores(
    tmp_path: Path, worker: Worker
) -> None:
    plugins = []
    for name, score in (("grey", "0.25"), ("gray", "0.75")):
        source = task_source(score=score).replace('"grey"\n\n', f'"{name}"\n\n')
        plugins.append(write(tmp_path / f"{name}.py", source))
    tasks = [{"task": "grey", "samples": 2}, {"task": "gray", "samples": 2}]
    cells = [cell for cell in study_of(plugins, **{**ONE, "tasks": tasks}).cells
             if cell.config["pipeline"]["name"] == "none"]  # fmt: skip
    assert [worker.run(cell).cell["summary"]["accuracy"] for cell in cells] == [0.25, 0.75]


# how examples come to differ: imports, question; what shows it is a second look or a new process
RESTLESS = {
    "clock": ("import time", "str(time.time_ns())"),
    "random numbers": ("import random", "str(random.random())"),
    "random numbers of numpy": ("import numpy", "str(numpy.random.default_rng().random())"),
    "seeded by the system": ("import random", "str(random.Random(None).random())"),
    "a counter": ("import itertools; C = itertools.count()", "str(next(C))"),
    "a list that grows": ("L = []", "str(L.append(1) or len(L))"),
    "name of an object": ("", "str(id(object()) + __import__('time').time_ns())"),
    "unique": ("import uuid", "str(uuid.uuid4())"),
    "bytes of the system": ("import os", "os.urandom(8).hex()"),
    "hash of a text": ("", "str(hash('text'))"),
    "order of a set": ("", "str({str(n) for n in range(50)})"),
    "hash as seed": ("import random", "str(random.Random(hash('a')).random())"),
    "process": ("import os", "str(os.getpid())"),
    "clock of the start": ("import time; T = time.time_ns()", "str(T)"),
    "random numbers of the start": ("import random; R = random.random()", "str(R)"),
    "hash seed of the environment": ("import os", "str(os.environ.get('PYTHONHASHSEED'))"),
}


@pytest.mark.parametrize("case", RESTLESS)
def test_a_task_that_draws_otherwise_at_every_start_is_refused(case: str, tmp_path: Path) -> None:
    imports, question = RESTLESS[case]
    plugin = write(tmp_path / "grey.py", task_source(imports=imports, question=question))
    with pytest.raises(TaskError) as caught:
        planned("none", [plugin], tasks=[{"task": "grey", "samples": 2}])
    clear(caught.value, "task 'grey'", "others at every start")


def test_the_command_line_says_so_too(call: Call, tmp_path: Path) -> None:
    plugin = write(tmp_path / "grey.py", task_source(question="str(hash('text'))"))
    result = call("study", "--model-id", "tiny-llava", "--task", "grey", "--plugin", plugin,
                  "--samples", "2", "--out", tmp_path / "out")  # fmt: skip
    one_line(result, "task 'grey'", "others at every start")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("case", ["same id", "lambda", "no examples", "raises", "no picture"])
def test_examples_that_nobody_can_tell_apart_are_refused(case: str, tmp_path: Path) -> None:
    changes = {
        "same id": {"id": "'x'"},
        "lambda": {"question": "lambda: 1"},
        "no examples": {"id": "str(n)) for n in () for _ in (1,)] or [] if 1 else [(0"},
        "raises": {"question": "str(1 / 0)"},
        "no picture": {"imports": "Image.new = lambda *a: (lambda: 1)"},
    }[case]
    if case == "no examples":
        changes = {"imports": "range = lambda count: ()"}
    before = Image.new
    try:
        plugin = write(tmp_path / "grey.py", task_source(**changes))
        with pytest.raises((TaskError, StudyError)) as caught:
            planned("none", [plugin], tasks=[{"task": "grey", "samples": 2}])
    finally:
        Image.new = before
    clear(caught.value, "task 'grey'")


READS = {
    "at import, for scores": {
        "imports": "KNOWN = read({file!r})", "score": "len(KNOWN) / 100"},
    "at import, for questions": {
        "imports": "KNOWN = read({file!r})", "question": "KNOWN"},
    "while drawing": {"question": "read({file!r})"},
    "while drawing, for scores": {
        "imports": "KEPT = []", "question": "'?' + str(KEPT.append(read({file!r})))",
        "score": "len(KEPT[0]) / 100"},
    "as bytes": {"question": "str(read({file!r}, 'rb'))"},
    "by pathlib": {
        "imports": "from pathlib import Path; KNOWN = Path({file!r}).read_text()",
        "score": "len(KNOWN) / 100"},
    "by numpy": {
        "imports": "import numpy; KNOWN = str(numpy.genfromtxt({file!r}, 'U9'))",
        "score": "len(KNOWN) / 100"},
    "by Pillow": {
        "imports": "try:\n    Image.open({file!r})\nexcept OSError:\n    pass"},
    "by a function of the system": {
        "imports": "import os; KNOWN = os.read(os.open({file!r}, os.O_RDONLY), 99)",
        "score": "len(KNOWN) / 100"},
}  # fmt: skip


@pytest.mark.parametrize("change", ["edited", "removed", "emptied"])
@pytest.mark.parametrize("case", READS)
def test_data_that_a_task_reads_by_itself_is_part_of_it(
    case: str, change: str, tmp_path: Path, worker: Worker
) -> None:
    file = write(tmp_path / "known.txt", "grey")
    parts = {key: text.format(file=str(file)) for key, text in READS[case].items()}
    plugin = write(tmp_path / "grey.py", task_source(**parts))
    changes: dict[str, Any] = {"tasks": [{"task": "grey", "samples": 2}]}
    cell = planned("none", [plugin], **changes)
    if change == "removed":
        file.unlink()
    else:
        write(file, "gray, or grey" if change == "edited" else "")
        plugins_module._build.cache_clear()  # as in a new process
        assert planned("none", [plugin], **changes).key != cell.key
    result = Worker().run(cell)
    failed(result, file.name)
    write(file, "grey")
    assert worker.run(cell).status == "done"


@pytest.mark.parametrize("how", ["pathlib.Path({!r}).read_bytes()", "numpy.load({!r})"])
def test_data_that_a_scorer_reads_is_part_of_it(how: str, tmp_path: Path, worker: Worker) -> None:
    file = tmp_path / "factors.npy"
    np.save(file, np.arange(3))
    source = f"import numpy, pathlib\nKNOWN = {how.format(str(file))}\n{good_source('mine')}"
    plugin = write(tmp_path / "plugin.py", source)
    cell = planned("mine", [plugin], pipelines=[MINE])
    assert worker.run(cell).status == "done"
    np.save(file, np.arange(4))
    failed(worker.run(cell), str(file))


def rows(*given_: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in given_)


ROW = {"id": "a", "image": "a.png", "question": "what?", "answer": "x"}
TWO = {"id": "b", "images": ["b.png", "a.png"], "question": "which?", "answers": ["y", "z"]}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A file of two questions about two pictures."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name, grey in (("a.png", 10), ("b.png", 200)):
        Image.new("RGB", (96, 96), (grey, grey, grey)).save(folder / name)
    return write(folder / "data.jsonl", rows(ROW, TWO))


def exif(file: Path) -> None:
    image = Image.open(file)
    image.getexif()[274] = 6
    image.putpixel((0, 0), (255, 0, 0))
    image.save(file, exif=image.getexif())


# what is done to the folder, and the file that the error names
DATA: dict[str, tuple[Callable[[Path], object], str]] = {
    "question": (lambda f: write(f / "data.jsonl", rows({**ROW, "question": "!"}, TWO)), "data"),
    "answer": (lambda f: write(f / "data.jsonl", rows({**ROW, "answer": "w"}, TWO)), "data"),
    "answers widened": (
        lambda f: write(f / "data.jsonl", rows(ROW, {**TWO, "answers": ["y", "z", "w"]})), "data"),
    "answers reordered": (
        lambda f: write(f / "data.jsonl", rows(ROW, {**TWO, "answers": ["z", "y"]})), "data"),
    "id": (lambda f: write(f / "data.jsonl", rows({**ROW, "id": "c"}, TWO)), "data.jsonl"),
    "boxes": (
        lambda f: write(f / "data.jsonl", rows({**ROW, "boxes": [[0, 0, 1, 1]]}, TWO)), "data"),
    "another picture": (
        lambda f: write(f / "data.jsonl", rows({**ROW, "image": "b.png"}, TWO)), "data.jsonl"),
    "order of pictures": (
        lambda f: write(f / "data.jsonl", rows(ROW, {**TWO, "images": ["a.png", "b.png"]})),
        "data.jsonl"),
    "order of rows": (lambda f: write(f / "data.jsonl", rows(TWO, ROW)), "data.jsonl"),
    "a row less": (lambda f: write(f / "data.jsonl", rows(ROW)), "data.jsonl"),
    "a row more": (
        lambda f: write(f / "data.jsonl", rows({**ROW, "id": "0"}, ROW, TWO)), "data.jsonl"),
    "no rows": (lambda f: write(f / "data.jsonl", ""), "data.jsonl"),
    "no JSON": (lambda f: write(f / "data.jsonl", "{"), "data.jsonl"),
    "file gone": (lambda f: (f / "data.jsonl").unlink(), "data.jsonl"),
    "pixel": (lambda f: Image.new("RGB", (96, 96), (10, 10, 11)).save(f / "a.png"), "a.png"),
    "pixel of the second": (lambda f: Image.new("RGB", (96, 96)).save(f / "b.png"), "b.png"),
    "size of a picture": (
        lambda f: Image.new("RGB", (95, 96), (10, 10, 10)).save(f / "a.png"), "a.png"),
    "picture turned": (lambda f: exif(f / "a.png"), "a.png"),
    "clear picture": (lambda f: Image.new("RGBA", (96, 96)).save(f / "a.png"), "a.png"),
    "picture gone": (lambda f: (f / "b.png").unlink(), "b.png"),
    "no picture": (lambda f: write(f / "b.png", "x"), "b.png"),
    "pictures swapped": (
        lambda f: (f / "a.png").rename(f / "c") and (f / "b.png").rename(f / "a.png")
        and (f / "c").rename(f / "b.png"), ".png"),
    "link to another": (
        lambda f: ((f / "a.png").unlink(), (f / "a.png").symlink_to(f / "b.png")), "a.png"),
}  # fmt: skip


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("case", DATA)
def test_data_that_changed_gives_no_result(
    case: str, entry: str, data: Path, worker: Worker
) -> None:
    cell = planned("none", [], tasks=[str(data)])
    change, named = DATA[case]
    change(data.parent)
    failed(run_by(entry, cell, worker, data.parent / "out"), named)
    try:
        again = planned("none", [], tasks=[str(data)])
    except TaskError as error:  # what cannot be read is refused while planning
        clear(error, named)
    except PipelineError as error:
        clear(error, named)
    else:
        assert again.key != cell.key


SAME: dict[str, Callable[[Path], object]] = {
    "times": lambda f: __import__("os").utime(f / "a.png", (1, 1)),
    "written again": lambda f: write(f / "data.jsonl", rows(ROW, TWO)),
    "white space": lambda f: write(f / "data.jsonl", rows(ROW, TWO).replace(": ", ":   ")),
    "blank lines": lambda f: write(f / "data.jsonl", rows(ROW, TWO) + "\n\n"),
    "order of keys": lambda f: write(
        f / "data.jsonl", rows(dict(sorted(ROW.items())), dict(sorted(TWO.items())))
    ),
    "a file beside": lambda f: write(f / "notes.txt", "x"),
    "picture stored anew": lambda f: Image.open(f / "a.png").save(f / "a.png", optimize=True),
}


@pytest.mark.parametrize("case", SAME)
def test_data_that_says_the_same_gives_the_result(case: str, data: Path, worker: Worker) -> None:
    cell = planned("none", [], tasks=[str(data)])
    SAME[case](data.parent)
    assert worker.run(cell).status == "done"
    assert planned("none", [], tasks=[str(data)]).key == cell.key


def test_data_that_moved_gives_the_same_key(data: Path, tmp_path: Path) -> None:
    before = planned("none", [], tasks=[str(data)])
    moved = shutil.copytree(data.parent, tmp_path / "elsewhere" / "data")
    assert planned("none", [], tasks=[str(moved / "data.jsonl")]).key == before.key


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = build_registry().get("model", "tiny-llava")
    place = shutil.copytree(source, tmp_path_factory.mktemp("models") / "copy")
    write(place / "additional_chat_templates" / "tool.jinja", "x")
    return place


def flip(file: Path, place: int = -1) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def member(file: Path, key: str, value: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))


WEIGHTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "last bit of the weights": (lambda f: flip(f / "model.safetensors"), "model.safetensors"),
    "first bit of the weights": (lambda f: flip(f / "model.safetensors", 0), "model.safetensors"),
    "middle of the weights": (lambda f: flip(f / "model.safetensors", 3 << 20), "model.safetens"),
    "weights cut": (
        lambda f: (f / "model.safetensors").write_bytes(
            (f / "model.safetensors").read_bytes()[:-1]), "model.safetensors"),
    "weights gone": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors"),
    "weights twice": (
        lambda f: shutil.copy(f / "model.safetensors", f / "more.safetensors"), "more.safetens"),
    "config": (lambda f: member(f / "config.json", "unheard", 1), "config.json"),
    "dtype": (lambda f: member(f / "config.json", "dtype", "bfloat16"), "config.json"),
    "config gone": (lambda f: (f / "config.json").unlink(), ""),
    "generation": (
        lambda f: member(f / "generation_config.json", "do_sample", True), "generation_config"),
    "tokenizer": (lambda f: member(f / "tokenizer.json", "unheard", 1), "tokenizer.json"),
    "its config": (
        lambda f: member(f / "tokenizer_config.json", "padding_side", "right"), "tokenizer_con"),
    "processor": (lambda f: member(f / "processor_config.json", "x", 1), "processor_config"),
    "template": (lambda f: write(f / "chat_template.jinja", "x"), "chat_template.jinja"),
    "another template": (
        lambda f: write(f / "additional_chat_templates" / "tool.jinja", "y"), "tool.jinja"),
    "a template more": (
        lambda f: write(f / "additional_chat_templates" / "rag.jinja", "y"), "rag.jinja"),
    "a file more": (lambda f: write(f / "special_tokens_map.json", "{}"), "special_tokens_map"),
    "a file less": (lambda f: (f / "generation_config.json").unlink(), "generation_config"),
    "names swapped": (
        lambda f: (f / "tokenizer.json").rename(f / "x") and (f / "processor_config.json").rename(
            f / "tokenizer.json") and (f / "x").rename(f / "processor_config.json"), ".json"),
    "folder gone": (shutil.rmtree, ""),
}  # fmt: skip


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights_that_changed_give_no_result(case: str, checkpoint: Path, tmp_path: Path) -> None:
    place = shutil.copytree(checkpoint, tmp_path / "copy")
    cell = planned("none", [], models=[str(place)])
    change, named = WEIGHTS[case]
    change(place)
    failed(Worker().run(cell), str(place), named)


def test_weights_that_change_while_they_are_read_give_no_result(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = shutil.copytree(checkpoint, tmp_path / "copy")
    cell = planned("none", [], models=[str(place)])
    load = Worker._model.__globals__["load_model"]

    def loading(*arguments: Any, **named: Any) -> Any:
        loaded = load(*arguments, **named)
        flip(place / "model.safetensors")
        return loaded

    monkeypatch.setattr("tokensieve.core.study.cell.load_model", loading)
    failed(Worker().run(cell), str(place / "model.safetensors"))


@pytest.mark.parametrize("case", ["README.md", "pytorch_model.bin", "x.py", ".git/config.json"])
def test_what_no_model_is_loaded_from_changes_nothing(
    case: str, checkpoint: Path, tmp_path: Path
) -> None:
    place = shutil.copytree(checkpoint, tmp_path / "copy")
    before = model_files(place)
    write(place / case, "x")
    assert model_files(place) == before


@pytest.mark.parametrize("package", ["tokensieve", "torch", "transformers"])
def test_another_version_gives_no_result(package: str, worker: Worker) -> None:
    cell = planned("none", [])
    config = {**cell.config, "versions": {**cell.config["versions"], package: "0.0.1"}}
    other = PlannedCell(key_of(config), config, cell.how)
    failed(worker.run(other), package, "0.0.1")


# ------------------------------------------------------------------ stored cells


@pytest.fixture(scope="module")
def cell() -> PlannedCell:
    return planned("mine", [], pipelines=[{"pipeline": "fastv", "name": "mine"}],
                   tasks=[{"task": "digits", "samples": 3}])  # fmt: skip


def stored(cell: PlannedCell, folder: Path) -> Path:
    """A whole cell on disk."""
    records = [{"id": str(n), "score": 0.5} for n in range(3)]
    facts = {"config": cell.config, "status": "done", "error": None, "summary": {"samples": 3}}
    return Store(folder).write(CellResult(cell.key, facts, {"samples.jsonl": records}))


def forge(place: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change ``cell.json`` so that its own checksum is right again."""
    data = json.loads((place / "cell.json").read_text())
    change(data)
    data.pop("checksum", None)
    (place / "cell.json").write_text(json.dumps({**data, "checksum": sum_of(data)}))


def refill(place: Path, *records: Any) -> None:
    """Other results, with their checksum."""
    import hashlib

    text = "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in records)
    (place / "samples.jsonl").write_text(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    forge(place, lambda data: data.update(files={"samples.jsonl": digest}))


def change(**values: Any) -> Callable[[Path], None]:
    return lambda place: forge(place, lambda data: data.update(values))


def without(key: str) -> Callable[[Path], None]:
    return lambda place: forge(place, lambda data: data.pop(key))


def configured(**values: Any) -> Callable[[Path], None]:
    """Another configuration, under the key that it has."""

    def spoil(place: Path) -> None:
        forge(place, lambda data: data["config"].update(values))
        config = json.loads((place / "cell.json").read_text())["config"]
        place.rename(place.parent / key_of(config))

    return spoil


def fifo(place: Path) -> None:
    import os

    place.unlink()
    os.mkfifo(place)


def scored(score: Any) -> Callable[[Path], None]:
    return lambda place: refill(place, *({"id": str(n), "score": score} for n in range(3)))


def two(place: Path) -> None:
    refill(place, {"id": "0", "score": 1}, {"id": "1", "score": 1})


HELD = {"id": "0", "score": 1}
CORRUPT: dict[str, Callable[[Path], object]] = {
    **{f"status {s!r}": change(status=s)
       for s in ("Done", "done ", "", "finished", "running", None, True, 1, [], {}, ["done"])},
    "no status": without("status"),
    "no files listed": change(files={}),
    "files are none": change(files=None),
    "files are a list": change(files=["samples.jsonl"]),
    "files not named": without("files"),
    "another file listed": lambda p: forge(p, lambda d: d["files"].update({"more.jsonl": "x"})),
    "a file outside": lambda p: forge(p, lambda d: d["files"].update({"../../x": "x"})),
    "an absolute file": lambda p: forge(p, lambda d: d["files"].update({"/etc/passwd": "x"})),
    "a device": lambda p: forge(p, lambda d: d["files"].update({"/dev/zero": "x"})),
    "samples gone": lambda p: (p / "samples.jsonl").unlink(),
    "samples gone and not listed": lambda p: ((p / "samples.jsonl").unlink(),
                                              forge(p, lambda d: d.update(files={}))),
    "samples are a folder": lambda p: ((p / "samples.jsonl").unlink(),
                                       (p / "samples.jsonl").mkdir()),
    "samples are a pipe": lambda p: fifo(p / "samples.jsonl"),
    "samples empty": refill,
    "a result less": two,
    "a result more": lambda p: refill(p, *({"id": str(n), "score": 1} for n in range(4))),
    "one result thrice": lambda p: refill(p, HELD, HELD, HELD),
    "result without id": lambda p: refill(p, HELD, {"score": 1}, {"score": 1}),
    "result without score": lambda p: refill(p, *({"id": str(n)} for n in range(3))),
    "results are lists": lambda p: refill(p, [1], [2], [3]),
    "results are no JSON": lambda p: refill(p, "{", "{", "{"),
    "results are no text": lambda p: (p / "samples.jsonl").write_bytes(b"\xff\xfe"),
    "results of another cell": lambda p: write(p / "samples.jsonl", rows(HELD)),
    **{f"score {s!r}": scored(s)
       for s in (float("nan"), float("inf"), -0.1, 1.1, 85, None, "1", [], {})},
    "a file that is not listed": lambda p: write(p / "anatomy.jsonl", rows(HELD)),
    "other seed": lambda p: forge(p, lambda d: d["config"].update(seed=7)),
    "other pipeline": lambda p: forge(p, lambda d: d["config"]["pipeline"].update(name="x")),
    "other questions": lambda p: forge(p, lambda d: d["config"]["task"].update(examples="x")),
    "other weights": lambda p: forge(p, lambda d: d["config"]["model"].update(sha256="x")),
    "no configuration": without("config"),
    "configuration is text": change(config="x"),
    "another format": change(format=2),
    "format as text": change(format="1"),
    "no format": without("format"),
    "cell empty": lambda p: write(p / "cell.json", ""),
    "cell is null": lambda p: write(p / "cell.json", "null"),
    "cell is a list": lambda p: write(p / "cell.json", "[]"),
    "cell is a number": lambda p: write(p / "cell.json", "1"),
    "cell nested deep": lambda p: write(p / "cell.json", "[" * 100_000),
    "cell cut": lambda p: write(p / "cell.json", (p / "cell.json").read_text()[:-9]),
    "cell is no text": lambda p: (p / "cell.json").write_bytes(b"\xff"),
    "cell gone": lambda p: (p / "cell.json").unlink(),
    "cell is a folder": lambda p: ((p / "cell.json").unlink(), (p / "cell.json").mkdir()),
    "cell is a pipe": lambda p: fifo(p / "cell.json"),
    "checksum gone": lambda p: write(p / "cell.json", json.dumps(
        {k: v for k, v in json.loads((p / "cell.json").read_text()).items() if k != "checksum"})),
    "folder empty": lambda p: (shutil.rmtree(p), p.mkdir()),
    "file instead of folder": lambda p: (shutil.rmtree(p), write(p, "x")),
}  # fmt: skip


@pytest.mark.parametrize("case", CORRUPT)
def test_a_cell_that_is_not_what_it_says_is_run_again(
    case: str, cell: PlannedCell, tmp_path: Path
) -> None:
    store = Store(tmp_path)
    CORRUPT[case](stored(cell, tmp_path))
    said: list[str] = []
    assert unfinished(store, [cell.key], said.append) == ([cell.key], {})
    (line,) = said
    clear(line, str(store.folder / cell.key), "corrupt", "it is run again")


@pytest.mark.parametrize("case", CORRUPT)
def test_a_cell_that_is_not_what_it_says_is_in_no_report(
    case: str, cell: PlannedCell, tmp_path: Path, call: Call
) -> None:
    CORRUPT[case](stored(cell, tmp_path / "study"))
    said: list[str] = []
    assert Store(tmp_path / "study").cells(every=True, say=said.append) == []
    clear(said[0], cell.key)
    result = call("report", tmp_path / "study")
    assert result.code == 2
    assert "Traceback" not in result.err
    assert cell.key in result.err


STAGES = {"stages": [{"at": 2, "score": "attention", "keep": 9}]}
SHAPES: dict[str, Callable[[Path], None]] = {
    "kind": configured(kind="guess"),
    "no task": configured(task=None),
    "task is text": configured(task="digits"),
    "model is a list": configured(model=[]),
    "no budget": configured(budget=5),
    "pipeline is text": configured(pipeline="fastv"),
    "pruned and called none": configured(pipeline={"name": "none", "resolved": STAGES}),
    "other number of questions": configured(task={"name": "digits", "samples": 2}),
    "number of questions as text": configured(task={"name": "digits", "samples": "3"}),
    "anatomy without its file": configured(kind="anatomy"),
}


@pytest.mark.parametrize("case", SHAPES)
def test_a_configuration_of_another_shape_is_corrupt(
    case: str, cell: PlannedCell, tmp_path: Path
) -> None:
    SHAPES[case](stored(cell, tmp_path))
    (place,) = Store(tmp_path).folder.iterdir()
    with pytest.raises(CorruptCell) as caught:
        Store(tmp_path).read(place.name)
    clear(caught.value, place.name, "corrupt")


@pytest.mark.parametrize("status", ["unmet", "failed"])
def test_what_was_refused_needs_no_results(status: str, cell: PlannedCell, tmp_path: Path) -> None:
    facts = {"config": cell.config, "status": status, "error": "no"}
    Store(tmp_path).write(CellResult(cell.key, facts))
    found = Store(tmp_path).read(cell.key)
    assert found is not None
    assert found.status == status


# ------------------------------------------------------------------------ folders

LISTS: dict[str, Any] = {
    "text": "abc", "number": 5, "mapping": {"a": 1}, "numbers": [1, 2], "paths": ["../../etc"],
    "empty text": [""], "dots": [".."], "absolute": ["/etc"], "null": None, "long": ["a" * 5000],
    "NUL": ["\0" * 16], "upper case": ["A" * 16],
}  # fmt: skip


@pytest.mark.parametrize("case", LISTS)
def test_a_manifest_that_lists_no_cells_hides_none(
    case: str, cell: PlannedCell, tmp_path: Path
) -> None:
    stored(cell, tmp_path)
    write(tmp_path / "manifest.json", json.dumps({"cells": LISTS[case]}))
    assert [one.key for one in Store(tmp_path).cells()] == [cell.key]


@pytest.mark.parametrize("how", ["moved", "copied", "linked", "renamed"])
def test_a_folder_elsewhere_holds_the_same_cells(
    how: str, cell: PlannedCell, tmp_path: Path
) -> None:
    old, new = tmp_path / "runs" / "old", tmp_path / "new" / "place"
    stored(cell, old)
    new.parent.mkdir()
    {"moved": shutil.move, "copied": shutil.copytree, "renamed": lambda a, b: a.rename(b),
     "linked": lambda a, b: b.symlink_to(a)}[how](old, new)  # fmt: skip
    assert unfinished(Store(new), [cell.key], print)[0] == []


def test_a_cell_in_the_folder_of_another_is_none(cell: PlannedCell, tmp_path: Path) -> None:
    place = stored(cell, tmp_path)
    shutil.copytree(place, place.parent / ("0" * 16))
    with pytest.raises(CorruptCell, match="its configuration is not its own"):
        Store(tmp_path).read("0" * 16)


COST = {"average_tokens": 4, "visual_tokens": 9, "flops_share": 0.5}


def other(config: dict[str, Any], part: str, **facts: Any) -> CellResult:
    changed = {**config, part: {**config[part], **facts}}
    changed["pipeline"] = {**config["pipeline"], "name": "older"}
    records = [{**COST, "id": str(n), "score": 1.0, "answer": "a"} for n in range(3)]
    data = {"config": changed, "status": "done", "started": "2020-01-01T00:00:00+00:00"}
    return CellResult(key_of(changed), data, {"samples.jsonl": records})


@pytest.mark.parametrize(
    ("part", "facts"),
    [("task", {"examples": "other"}), ("model", {"sha256": "other"}),
     ("model", {"revision": "other"})],
    ids=["questions", "weights", "revision"],
)  # fmt: skip
def test_results_of_other_data_or_weights_are_not_compared(
    part: str, facts: dict[str, Any], cell: PlannedCell, tmp_path: Path
) -> None:
    """The list of the study's cells is lost, and an older version of it lies in the folder."""
    from tokensieve.core.study.report.reading import read_results

    store = Store(tmp_path)
    records = [{**COST, "id": str(n), "score": 0.5, "answer": "b"} for n in range(3)]
    data = {"config": cell.config, "status": "done", "started": "2026-01-01T00:00:00+00:00"}
    store.write(CellResult(cell.key, data, {"samples.jsonl": records}))
    store.write(other(cell.config, part, **facts))
    found = read_results(tmp_path, resamples=10)
    assert found.methods == ("mine",)
    assert any("1 cells of other" in line for line in found.problems)


PAIRS = {
    "case": ("fast", "Fast"),
    "upper case": ("fast", "FAST"),
    "form": ("caf\u00e9", "cafe\u0301"),
    "sharp s": ("stra\u00dfe", "strasse"),
    "full width": ("fast", "\uff46\uff41\uff53\uff54"),
    "ligature": ("first", "\ufb01rst"),
    "invisible": ("fast", "fa\u200bst"),
    "joiner": ("fast", "fast\u200d"),
    "direction": ("fast", "\u202efast"),
    "soft hyphen": ("fast", "fa\u00adst"),
    "white space": ("a b", "a  b"),
    "hard space": ("a b", "a\u00a0b"),
    "Kelvin": ("k", "\u212a"),
    "sigma": ("\u03c3", "\u03c2"),
    "same": ("fast", "fast"),
}


@pytest.mark.parametrize("part", ["models", "pipelines", "tasks"])
@pytest.mark.parametrize("pair", PAIRS)
def test_entries_of_one_title_are_refused(pair: str, part: str) -> None:
    key, value = {"models": ("model", "tiny-llava"), "pipelines": ("pipeline", "fastv"),
                  "tasks": ("task", "digits")}[part]  # fmt: skip
    with pytest.raises(PipelineError) as caught:
        spec_of(**{part: [{key: value, "name": name} for name in PAIRS[pair]]})
    clear(caught.value, f"{part}[1]")


@pytest.mark.parametrize("pair", PAIRS)
def test_folders_that_meet_elsewhere_are_refused(pair: str, tmp_path: Path) -> None:
    one, other_ = PAIRS[pair]
    (tmp_path / one).mkdir()
    if one == other_ or (tmp_path / other_).exists():  # the same folder here: it is gone on with
        check_folder_name(tmp_path / other_)
        return
    with pytest.raises(StudyError) as caught:
        check_folder_name(tmp_path / other_)
    clear(caught.value, repr(one), "--out")


BUDGETS: dict[str, list[Any]] = {
    "same": [0.25, 0.25],
    "number and average": [32, {"average": 32}],
    "whole and fraction": [{"average": 32}, {"average": 32.0}],
    "too close to tell": [0.25, 0.2500000001],
    "too close to tell in FLOPs": [{"flops": 0.4}, {"flops": 0.40000001}],
    "too close to tell in tokens": [{"average": 32}, {"average": 32.00001}],
}


@pytest.mark.parametrize("case", BUDGETS)
def test_budgets_of_one_title_are_refused(case: str) -> None:
    with pytest.raises(PipelineError) as caught:
        spec_of(budgets=BUDGETS[case])
    clear(caught.value, "budgets", "is there twice")


@pytest.mark.parametrize("values", [(0.401, 0.404), (0.25, 0.2501), (0.005, 0.004)], ids=str)
def test_budgets_that_differ_are_labelled_apart(values: tuple[float, float]) -> None:
    from tokensieve.core.study.report.cells import budget_label

    assert len({budget_label({"flops": value}) for value in values}) == 2
    assert len({budget_label({"share": value}) for value in values}) == 2


# -------------------------------------------------------------------------- names

SPELLINGS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "upper case": str.upper,
    "full width": lambda name: "".join(chr(ord(c) + 0xFEE0) if c.isalpha() else c for c in name),
    "invisible": lambda name: f"{name[:2]}\u200b{name[2:]}",
    "spaces": lambda name: f" {name} ",
}
LIE: dict[str, Any] = {"at": 2, "score": "hidden-change", "keep": 9}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("name", RESERVED)
@pytest.mark.parametrize("place", ["entry", "in place", "pipeline", "file", "name in a file"])
def test_a_reserved_name_can_only_name_what_it_is(
    place: str, name: str, spelling: str, tmp_path: Path
) -> None:
    taken = SPELLINGS[spelling](name)
    text = "at: 2\nscore: hidden-change\nkeep: 9\n"
    with pytest.raises(PipelineError) as caught:
        if place == "entry":
            spec_of(pipelines=[{"pipeline": "fastv", "name": taken}])
        elif place == "in place":
            spec_of(pipelines=[{"pipeline": {**LIE, "name": taken}, "name": "mine"}])
        elif place == "pipeline":
            load_pipeline({**LIE, "name": taken})
        elif place == "file":
            load_pipeline(write(tmp_path / f"{taken}.yaml", text))
        else:
            load_pipeline(write(tmp_path / "x.yaml", f"name: {json.dumps(taken)}\n{text}"))
    clear(caught.value, "is reserved for", repr(name))


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("name", RESERVED)
def test_a_preset_of_a_plugin_cannot_take_a_reserved_name(
    name: str, spelling: str, tmp_path: Path
) -> None:
    folder = tmp_path / "presets"
    write(folder / f"{SPELLINGS[spelling](name)}.yaml", "at: 2\nscore: ttv\nkeep: 9\n")
    source = (
        "import tokensieve\n\n@tokensieve.hookimpl\ndef tokensieve_register(registry):\n"
        f"    registry.add_pipelines({str(folder)!r})\n"
    )
    plugin = write(tmp_path / "plugin.py", source)
    with pytest.raises(PluginError) as caught:
        build_registry([plugin])
    clear(caught.value, name, str(plugin))


@pytest.mark.parametrize("name", RESERVED)
def test_the_command_line_refuses_a_file_of_a_reserved_name(
    name: str, call: Call, tmp_path: Path
) -> None:
    file = write(tmp_path / f"{name}.yaml", "at: 2\nscore: hidden-change\nkeep: 9\n")
    options = ("--model-id", "tiny-llava", "--task", "digits", "--dry-run")
    one_line(call("study", *options, "--pipeline", file), "is reserved for", name)
    one_line(call("validate", file), "is reserved for", f"{name}.yaml")


@pytest.mark.parametrize("keep", [0.5, 9, {"flops": 0.4}], ids=str)
@pytest.mark.parametrize("name", [name for name in RESERVED if name not in CONTROLS])
def test_what_it_is_can_have_its_name_at_any_budget(name: str, keep: Any) -> None:
    pipeline = load_pipeline(name, keep=keep)
    assert load_pipeline(pipeline.to_plain()) == pipeline
    assert spec_of(pipelines=[{"pipeline": pipeline.to_plain(), "name": name}])
    assert spec_of(pipelines=[{"pipeline": name, "name": "mine"}]).pipelines[0].title == "mine"


def test_the_controls_are_the_pipelines_that_built_in_studies_write_in_place() -> None:
    registry = build_registry()
    written = {
        entry["name"]: entry["pipeline"]
        for study in registry.all("study")
        for entry in read_yaml(study.value).data["pipelines"]
        if isinstance(entry, dict) and isinstance(entry["pipeline"], dict)
    }
    assert sorted(written) == sorted(CONTROLS)
    for name, pipeline in written.items():
        assert spec_of(pipelines=[{"pipeline": pipeline, "name": name}])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(name=st.sampled_from(RESERVED), data=st.data())
def test_no_spelling_of_a_reserved_name_gets_through(name: str, data: Any) -> None:
    signs = [data.draw(st.sampled_from([c, c.upper(), f"{c}\u200b", f"\u2060{c}"])) for c in name]
    taken = unicodedata.normalize(
        data.draw(st.sampled_from(["NFC", "NFD", "NFKC"])), "".join(signs)
    )
    with pytest.raises(PipelineError, match="is reserved for"):
        load_pipeline({**LIE, "name": taken})


@pytest.mark.parametrize("name", ["none-2", "nonee", "randomly", "n\u00f6ne", "uni form", "0"])
def test_other_names_are_free(name: str) -> None:
    assert load_pipeline({**LIE, "name": name}).name == name
