"""Tasks: the built-in ones ask held-out questions, files need no code, mistakes have a place."""

from __future__ import annotations

import io
import json
import sys
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

import tokensieve
from tokensieve.core.contract.tasks import Example, Task
from tokensieve.core.errors import PluginError, TaskError
from tokensieve.core.plugins.discovery import build_registry
from tokensieve.core.plugins.registry import Registry
from tokensieve.core.study.plan.fingerprints import fingerprint
from tokensieve.core.study.spec.task_files import FileTask

REGISTRY = build_registry()
TASKS = [entry.name for entry in REGISTRY.all("task")]


@pytest.mark.parametrize("name", TASKS)
def test_a_registered_task_is_deterministic_and_begins_alike(name: str) -> None:
    task: Task = REGISTRY.get("task", name)()
    many, few = task.examples(6, 0), task.examples(3, 0)
    assert fingerprint(many[:3]) == fingerprint(few)
    assert fingerprint(task.examples(3, 1)) != fingerprint(few)
    assert len({example.id for example in many}) == 6
    for example in many:
        assert task.score(example, f" {example.answer.upper()} ") == 1
        assert task.score(example, "nonsense") == 0
        assert len(example.boxes) in (0, len(example.images))


@pytest.mark.parametrize("name", TASKS)
def test_boxes_lie_inside_the_picture_and_show_something(name: str) -> None:
    task: Task = REGISTRY.get("task", name)()
    for example in task.examples(4, 0):
        for image, boxes in zip(example.images, example.boxes, strict=True):
            pixels = np.asarray(image, dtype=float)
            for box in boxes:
                assert 0 <= box.left < box.right <= 1
                assert 0 <= box.top < box.bottom <= 1
                rows = slice(round(box.top * image.height), round(box.bottom * image.height))
                columns = slice(round(box.left * image.width), round(box.right * image.width))
                assert pixels[rows, columns].std() > 20


def test_digits_are_those_the_model_never_saw() -> None:
    from tokensieve.adapters.zoo.tasks import digit_scenes

    (example,) = REGISTRY.get("task", "digits")().examples(1, 0)
    scene = digit_scenes.make_scene("heldout", 0)
    assert np.array_equal(np.asarray(example.images[0]), scene.image)


@pytest.mark.parametrize(("name", "side"), [("signs", 96), ("needle", 192), ("needle", 96)])
def test_scenes_are_held_out_ones_of_the_side(name: str, side: int) -> None:
    from tokensieve.adapters.zoo.tasks import pictures as tasks

    kind: type[Task] = REGISTRY.get("task", name)
    default = kind.model_fields["side"].default
    asked = kind() if side == default else kind.model_validate({"side": side})
    for index, example in enumerate(asked.examples(8, 0)):
        scene = tasks.TASKS[name].scene(index, "heldout", side)
        (question,) = tasks.TASKS[name].questions(scene, index, "heldout", 1)
        assert np.array_equal(np.asarray(example.images[0]), scene.image)
        assert (example.question, example.answer) == (question.text, question.answer)
        (boxes,) = example.boxes
        corners = [tuple(round(share * side) for share in vars(box).values()) for box in boxes]
        assert corners == list(question.boxes(scene))
        assert not np.array_equal(scene.image, tasks.TASKS[name].scene(index, "train", side).image)


def test_the_digit_of_a_classifier_is_held_out() -> None:
    from tokensieve.adapters.zoo import tiny_timm

    for index, example in enumerate(REGISTRY.get("task", "digit")().examples(4, 0)):
        scene = tiny_timm.make_scene("heldout", index)
        assert np.array_equal(np.asarray(example.images[0]), scene.image)
        assert example.answer == str(scene.digit)
        (box,) = example.boxes[0]
        assert (box.left * 64, box.top * 64) == scene.corner
        assert (box.right - box.left) * 64 == (box.bottom - box.top) * 64 == 16


def test_words_of_an_answer_may_stand_apart() -> None:
    task: Task = REGISTRY.get("task", "signs")()
    read = next(example for example in task.examples(3, 0) if " " in example.answer)
    one, two, three = read.answer.split()
    assert task.score(read, f" {one.upper()}  {two}\n{three}") == 1
    assert task.score(read, one + two + three) == 0
    assert task.score(read, f"{one} {three} {two}") == 0


@pytest.mark.parametrize(
    ("name", "side", "largest"), [("digits", 100, 384), ("signs", 48, 192), ("needle", 240, 192)]
)
def test_sides_that_are_not_allowed(name: str, side: int, largest: int) -> None:
    message = f"a side of {side} pixels, allowed: multiples of 48 from 96 to {largest}"
    with pytest.raises(ValidationError, match=message):
        REGISTRY.get("task", name).model_validate({"side": side})


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [("signs", "matplotlib", "matplotlib"), ("needle", "sklearn", "scikit-learn"),
     ("digit", "sklearn", "scikit-learn")],
)  # fmt: skip
def test_a_task_says_what_to_install(
    name: str, module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokensieve.adapters.zoo import tiny_timm
    from tokensieve.adapters.zoo.tasks import digit_scenes, glyphs

    for cached in (digit_scenes._digit_bank, glyphs.letter_bank, glyphs._photographs):
        cached.cache_clear()
    tiny_timm._bank.cache_clear()
    hidden = [loaded for loaded in sys.modules if loaded.partition(".")[0] == module]
    for loaded in {module, f"{module}.datasets", *hidden}:
        monkeypatch.setitem(sys.modules, loaded, None)
    with pytest.raises(TaskError, match=f"task '{name}' needs {module}: pip install {package}$"):
        REGISTRY.get("task", name)().examples(1, 0)


# ---------------------------------------------------------------------- files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 4), (len(name), 0, 0)).save(tmp_path / name)
    return tmp_path


def write(folder: Path, *rows: Any, name: str = "data.jsonl") -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder / name


GOOD = {"image": "a.png", "question": "What?", "answer": "yes"}


def test_a_jsonl_file_is_a_task_without_code(folder: Path) -> None:
    box = [0.1, 0.2, 0.5, 0.6]
    write(
        folder,
        {**GOOD, "id": "one", "boxes": [box]},
        "",
        {"images": ["a.png", "b.png"], "question": "Both?", "answers": ["No", "nope"],
         "boxes": [[box], []]},
        {**GOOD, "answer": 7},
    )  # fmt: skip
    task = FileTask(file=folder)
    found = {example.id: example for example in task.examples(10, 0)}
    assert set(found) == {"one", "1", "2"}
    assert found["one"].boxes[0][0].right == 0.5
    assert found["one"].images[0].size == (8, 4)
    two = found["1"]
    assert len(two.images) == 2
    assert [len(boxes) for boxes in two.boxes] == [1, 0]
    assert [task.score(two, said) for said in ("no", " NOPE", "yes")] == [1, 1, 0]
    assert task.score(found["2"], "7") == 1


def test_a_draw_takes_rows_from_everywhere_and_grows(folder: Path) -> None:
    file = write(folder, *({**GOOD, "id": str(number)} for number in range(20)))
    task = FileTask(file=file)
    ids = [example.id for example in task.examples(8, 0)]
    assert ids == [example.id for example in task.examples(12, 0)][:8]
    assert ids != [str(number) for number in range(8)]


WRONG = {
    "no json": ("{", r"data.jsonl:2: not valid JSON"),
    "no mapping": ("[1]", r"data.jsonl:2: a row is a mapping"),
    "unknown key": (
        {**GOOD, "anwser": "x"},
        r"2: unknown key 'anwser' \(did you mean 'answer'\?\)",
    ),
    "no question": ({"image": "a.png", "answer": "x"}, "2: 'question' is missing"),
    "no answer": ({"image": "a.png", "question": "x"}, "2: 'answer' is missing"),
    "no image": ({"question": "x", "answer": "x"}, "2: 'image' is missing"),
    "lost image": ({**GOOD, "image": "c.png"}, "2: image .*c.png does not exist"),
    "number as image": ({**GOOD, "image": 3}, "2: an image is a path, not 3"),
    "mapping as answer": ({**GOOD, "answer": {}}, "2: an answer is text"),
    "box of three": ({**GOOD, "boxes": [[0, 0, 1]]}, "2: 'boxes' is a list of"),
    "pixels": ({**GOOD, "boxes": [[0, 0, 10, 10]]}, "2: 'boxes' is a list of"),
    "boxes of one": ({**GOOD, "images": ["a.png"] * 2, "boxes": [[0, 0, 1, 1]]}, "its 2 pictures"),
    "same id": ({**GOOD, "id": "0"}, "2: the id '0' is given twice, first at .*data.jsonl:1 "),
    "same id as a fraction": ({**GOOD, "id": 0.0}, "the id '0' is given twice"),
    "list as id": ({**GOOD, "id": [1]}, r"2: an id is text, not \[1\]"),
    "NaN": ({**GOOD, "answer": float("nan")}, "2: not valid JSON: NaN is no number"),
    "infinity": ({**GOOD, "answer": -float("inf")}, "2: not valid JSON: -Infinity is no number"),
    "infinity by size": (json.dumps({**GOOD, "answer": 0}).replace("0", "1e999"), "1e999 is no"),
    "key twice": ('{"answer": "a", "answer": "b"}', "2: not valid JSON: the key 'answer' is given"),
    "nested key twice": ('{"image": {"path": 1, "path": 2}}', "the key 'path' is given twice"),
    "no end of brackets": ("[" * 100_000, "2: not valid JSON: lists .* more than 64"),
    "many brackets": ({**GOOD, "boxes": json.loads("[" * 60 + "]" * 60)}, "2: 'boxes' is a list"),
    "long number": (f'{{"id": {"9" * 5000}}}', "2: not valid JSON: a number of 5,000 digits"),
    "large box": ({**GOOD, "boxes": [[0, 0, 1, 10**400]]}, "2: 'boxes' is a list of"),
    "control character": ('{"question": "\x07"}', "2: not valid JSON: Invalid control character"),
    "half a question": ({**GOOD, "question": "\ud83d"}, r"2: the question has half .*\\ud83d"),
    "half an answer": ({**GOOD, "answer": "\udc00"}, r"2: an answer has half .*\\udc00"),
    "half an id": ({**GOOD, "id": "\ud83d"}, "2: an id has half a character"),
    "half a path": ({**GOOD, "image": "\ud83d.png"}, r"\\ud83d.png cannot be read"),
    "empty answer": ({**GOOD, "answer": " "}, "2: an answer is empty"),
    "null answer": ({**GOOD, "answer": None}, "2: 'answer' is missing"),
    "null among answers": ({**GOOD, "answers": ["a", None]}, "2: an answer is text, not None"),
    "list as answer": ({**GOOD, "answer": ["a"]}, "2: an answer is text: write a list"),
    "text as answers": ({**GOOD, "answers": "a"}, "2: 'answers' is a list of those accepted"),
    "null question": ({**GOOD, "question": None}, "2: 'question' is missing"),
    "data URL": ({**GOOD, "image": "data:image/png;base64," + "A" * 300_000}, "2: .* not a URL"),
    "URL": ({**GOOD, "image": "https://example.com/a.png"}, "2: .* not a URL: 'https"),
    "folder": ({**GOOD, "image": "."}, "2: image .* is a folder"),
    "no path": ({**GOOD, "image": ""}, "2: an image is a path, not ''"),
    "NUL in a path": ({**GOOD, "image": "a\0.png"}, r"a\\x00.png cannot be read"),
    "long path": ({**GOOD, "image": "a" * 9999}, "cannot be read: File name too long"),
    "another image": ({**GOOD, "images": ["b.png"]}, "2: 'image' is none of 'images'"),
    "text as images": ({**GOOD, "images": "b.png"}, "2: 'images' is a list of pictures"),
    "bytes as text": ({**GOOD, "image": {"bytes": "x" * 9999}}, "2: an image is a path, not {"),
    "long key": ({**GOOD, "k" * 9999: 1}, "2: unknown key 'kkk"),
    "long text": ('"' + "x" * 9999 + '"', "2: a row is a mapping, not 'xxx"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_row_has_a_place(case: str, folder: Path) -> None:
    row, reason = WRONG[case]
    file = write(folder, GOOD, row)
    with pytest.raises(TaskError, match=reason) as caught:
        FileTask(file=file).examples(10, 0)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 300 + len(str(folder))


# rows of a file -> the accepted answers of its rows
READ: dict[str, tuple[str, list[tuple[str, ...]]]] = {
    "byte order mark": ("\ufeff" + json.dumps(GOOD), [("yes",)]),
    "ends of Windows": (f"{json.dumps(GOOD)}\r\n{json.dumps(GOOD)}\r\n", [("yes",)] * 2),
    "blank lines": (f"\n \n{json.dumps(GOOD)}\n\n", [("yes",)]),
    "line separator": (json.dumps({**GOOD, "answer": "a\u2028b"}, ensure_ascii=False),
                       [("a\u2028b",)]),
    "next line": (json.dumps({**GOOD, "answer": "a\x85b"}, ensure_ascii=False), [("a\x85b",)]),
    "null columns": (json.dumps({**GOOD, "id": None, "images": None, "answers": None,
                                 "boxes": None}), [("yes",)]),
    "null beside lists": (json.dumps({"image": None, "images": ["a.png"], "question": "?",
                                      "answer": None, "answers": ["a", "b"]}), [("a", "b")]),
    "empty lists": (json.dumps({**GOOD, "images": [], "answers": []}), [("yes",)]),
    "both": (json.dumps({**GOOD, "images": ["a.png"], "answers": ["no", "yes"]}), [("yes", "no")]),
    "whole number": (json.dumps({**GOOD, "answer": 3}), [("3",)]),
    "whole fraction": (json.dumps({**GOOD, "answer": 3.0}), [("3",)]),
    "fraction": (json.dumps({**GOOD, "answer": 2.5}), [("2.5",)]),
    "minus zero": (json.dumps({**GOOD, "answer": -0.0}), [("0",)]),
    "large fraction": (json.dumps({**GOOD, "answer": 1e20}), [("1e+20",)]),
    "truth": (json.dumps({**GOOD, "answer": True}), [("True",)]),
    "pair of halves": (json.dumps({**GOOD, "answer": "\U0001f600"}), [("\U0001f600",)]),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_what_tools_write_is_read(case: str, folder: Path) -> None:
    text, accepted = READ[case]
    (folder / "data.jsonl").write_text(text, encoding="utf-8", newline="")
    found = {one.id: one for one in FileTask(file=folder).examples(10, 0)}
    assert [found[str(number)].accepted for number in range(len(accepted))] == accepted  # type: ignore[attr-defined]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-32", "cp1252"])
def test_text_in_another_encoding_is_named(encoding: str, folder: Path) -> None:
    row = json.dumps({**GOOD, "answer": "caf\u00e9"}, ensure_ascii=False)
    (folder / "data.jsonl").write_text(f"{json.dumps(GOOD)}\n{row}", encoding=encoding)
    with pytest.raises(TaskError, match=r"data\.jsonl:\d+:\d+: is not UTF-8 text.*: save it"):
        FileTask(file=folder).examples(1, 0)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("caf\u00e9", "cafe\u0301"),
        ("CAFE\u0301", "caf\u00e9"),
        ("\uac00", "\u1100\u1161"),
        ("\u212b", "\u00e5"),
        ("stra\u00dfe", "STRASSE"),
        ("\u1fb4", "\u03b1\u0345\u0301"),  # normalized before case is folded
        ("\u03aa\u0301", "\u0390"),  # and after
    ],
)
def test_one_word_has_one_form(said: str, expected: str, folder: Path) -> None:
    task = FileTask(file=write(folder, {**GOOD, "answer": expected}))
    (example,) = task.examples(1, 0)
    assert task.score(example, said) == 1
    assert Shout().score(Example("", (), "", expected), said) == 1
    assert task.score(example, said + "x") == 0


def test_files_that_are_no_tasks_are_refused(folder: Path) -> None:
    for path, reason in [
        (folder, "neither data.jsonl nor data.parquet"),
        (folder / "a.png", "neither a folder nor"),
        (folder / "no.jsonl", "does not exist"),
        (write(folder, "", name="empty.jsonl"), "has no rows"),
    ]:
        with pytest.raises(TaskError, match=reason):
            FileTask(file=path).examples(1, 0)


def test_parquet_holds_paths_or_bytes(folder: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    stream = io.BytesIO()
    Image.new("RGB", (6, 6)).save(stream, "PNG")
    rows = [GOOD | {"image": {"bytes": stream.getvalue(), "path": None}}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "data.parquet")
    (example,) = FileTask(file=folder).examples(3, 0)
    assert example.images[0].size == (6, 6)


NAN = float("nan")
# columns beside image and question -> accepted answers, or what the error says
PARQUET: dict[str, tuple[dict[str, Any], list[tuple[str, ...]] | str]] = {
    "whole fractions": ({"answer": [3.0, 4.0]}, [("3",), ("4",)]),
    "hole among numbers": ({"answer": [3.0, NAN]}, "row 2: an answer is missing, or no number"),
    "null among numbers": ({"answer": [3, None]}, "row 2: 'answer' is missing"),
    "NaN in a list": ({"answers": [[1.0], [NAN]]}, "row 2: an answer is missing, or no number"),
    "NaN as id": ({"answer": ["a", "b"], "id": [1.0, NAN]}, "row 2: an id is missing"),
    "null as id": ({"answer": ["a", "b"], "id": ["x", None]}, [("a",), ("b",)]),
    "decimals": ({"answer": [Decimal("3.00"), Decimal("2.50")]}, [("3",), ("2.50",)]),
    "dates": ({"answer": [date(2026, 1, 1)] * 2}, "row 1: an answer is text, not datetime.date"),
    "bytes": ({"answer": [b"x" * 9999] * 2}, "row 1: an answer is text, not b'xxx"),
    "index of pandas": ({"answer": ["a", "b"], "__index_level_0__": [5, 6]}, [("a",), ("b",)]),
    "lists with nothing": ({"answer": ["a", "b"], "answers": [[], None]}, [("a",), ("b",)]),
}


@pytest.mark.parametrize("case", PARQUET)
def test_parquet_as_table_libraries_write_it(case: str, folder: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    columns, expected = PARQUET[case]
    table = pyarrow.table({"image": ["a.png"] * 2, "question": ["?"] * 2, **columns})
    parquet.write_table(table, folder / "t.parquet")
    task = FileTask(file=folder / "t.parquet")
    if isinstance(expected, str):
        with pytest.raises(TaskError, match=expected) as caught:
            task.examples(9, 0)
        assert len(str(caught.value)) < 300 + len(str(folder))
    else:
        found = {getattr(one, "accepted", ()) for one in task.examples(9, 0)}
        assert found == set(expected)


def test_parquet_columns_with_a_twist(folder: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    def table(answer: Any) -> Any:
        return pa.table({"image": ["a.png"], "question": ["?"], "answer": answer})

    def read(written: Any, place: Path = folder / "t.parquet") -> Any:
        parquet.write_table(written, place)
        (example,) = FileTask(file=place).examples(1, 0)
        return getattr(example, "accepted", ())

    assert read(table(pa.array([0.1], pa.float32()))) == ("0.1",)
    assert read(table(pa.array(["yes"]).dictionary_encode())) == ("yes",)
    (folder / "split=val").mkdir()  # a name that pyarrow reads as a column, if one lets it
    Image.new("RGB", (4, 4)).save(folder / "split=val" / "a.png")
    assert read(table(["a"]), folder / "split=val" / "t.parquet") == ("a",)
    twice = pa.Table.from_arrays([pa.array(["a"])] * 2, names=["answer", "answer"])
    with pytest.raises(TaskError, match="the column 'answer' is given twice"):
        read(twice)
    broken = pa.StringArray.from_buffers(
        1, pa.py_buffer(np.array([0, 1], np.int32).tobytes()), pa.py_buffer(b"\xff")
    )
    with pytest.raises(TaskError, match="column 'answer' cannot be read"):
        read(table(broken))
    with pytest.raises(TaskError, match=r"row 1: image \(bytes\) is not an image"):
        read(table(["a"]).set_column(0, "image", [[b"xx"]]))


@pytest.mark.parametrize("content", [b"", b"PAR1xxxx", b"{}", b"PAR1" + b"\xff" * 99 + b"PAR1"])
def test_parquet_that_is_none(content: bytes, folder: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    (folder / "t.parquet").write_bytes(content)
    with pytest.raises(TaskError, match=r"t\.parquet: cannot be read: ") as caught:
        FileTask(file=folder / "t.parquet").examples(1, 0)
    assert len(str(caught.value).splitlines()) == 1


def test_parquet_without_pyarrow_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    (folder / "data.parquet").write_bytes(b"")
    with pytest.raises(TaskError, match=r"pip install 'tokensieve\[parquet\]'"):
        FileTask(file=folder).examples(1, 0)


# ---------------------------------------------------------------------- plugins


class Shout(tokensieve.Task):
    """Questions that are loud."""

    name = "shout"
    loudness: int = 3

    def examples(self, count: int, seed: int) -> list[tokensieve.Example]:
        image = Image.new("RGB", (4, 4))
        return [tokensieve.Example(str(n), (image,), "A?", "b") for n in range(count)]


def test_a_task_is_a_plugin() -> None:
    registry = Registry()
    registry.add(Shout)
    assert registry.get("task", "shout")(loudness=2).examples(1, 0)[0].answer == "b"
    with pytest.raises(PluginError, match="unknown task 'shut'"):
        registry.get("task", "shut")


def test_a_task_may_not_take_a_key_of_the_study() -> None:
    class Reserved(Shout):
        samples: int = 3

    with pytest.warns(UserWarning, match='"score".*shadows'):

        class Hiding(Shout):
            score: int = 3  # type: ignore[assignment]

    kinds: list[tuple[type[Task], str]] = [
        (Reserved, "key of its own in YAML"),
        (Hiding, "hides an attribute"),
    ]
    for kind, reason in kinds:
        with pytest.raises(PluginError, match=reason):
            Registry().add(kind)
