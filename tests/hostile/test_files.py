"""Files that nobody should have, in every place where one is read: right, or one clear line."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import Call, clear, one_line
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tokensieve.core.errors import PipelineError, TaskError, TokensieveError
from tokensieve.core.files.json_text import MAX_DEPTH as JSON_DEPTH
from tokensieve.core.files.json_text import read_json
from tokensieve.core.files.pictures import MOST_PIXELS, open_image
from tokensieve.core.files.yaml_source import MAX_DEPTH as YAML_DEPTH
from tokensieve.core.files.yaml_source import parse_yaml
from tokensieve.core.models.checkpoints import READ, check_folder, read_config
from tokensieve.core.pipeline.loading import load_pipeline, parse_keep
from tokensieve.core.plugins.discovery import build_registry
from tokensieve.core.study.spec.claims import stored_claims
from tokensieve.core.study.spec.study import load_study
from tokensieve.core.study.spec.task_files import FileTask
from tokensieve.core.study.store.flaws import CorruptCell
from tokensieve.core.study.store.records import CellDocument
from tokensieve.core.study.store.store import CellResult, Store

REGISTRY = build_registry()
STAGE = "at: 2\nscore: iga\nkeep: 0.5\n"
STUDY = "models: tiny-llava\nbudgets: 0.5\ntasks: digits\n"
ROW = {"image": "a.png", "question": "What?", "answer": "it"}
SECONDS = 60  # nothing that is refused takes long; what waits for ever is a failure


@pytest.fixture(autouse=True)
def soon() -> Iterator[None]:
    """A reader that waits for a pipe, or that counts without end, fails."""

    def late(number: int, frame: Any) -> None:
        raise TimeoutError(f"not done in {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def said_clearly(error: TokensieveError, *parts: str) -> str:
    """One line; of a document of YAML one for each of its problems, every one with its place."""
    lines = str(error).splitlines() or [""]
    assert len(lines) == 1 or isinstance(error, PipelineError)
    for line in lines:
        clear(line, *parts)
    return str(error)


def refused(read: Callable[[], object], *parts: str) -> str:
    """What was said."""
    with pytest.raises(TokensieveError) as caught:
        read()
    return said_clearly(caught.value, *parts)


def right_or_refused(read: Callable[[], object], *parts: str) -> object:
    """What was read; None if it was refused."""
    try:
        return read()
    except TokensieveError as error:
        said_clearly(error, *parts)
        return None


def no_claims(folder: Path) -> bool:
    """Whether none was read, and what is lost is said."""
    pairs, lost = stored_claims(folder)
    for line in lost:
        clear(line)
    return not pairs


# ---------------------------------------------------------------- the readers


def _checkpoint_file(name: str) -> Callable[[Path], object]:
    """Reads the folder that holds a file of that name."""

    def read(path: Path) -> object:
        folder = path.parent / "checkpoint"
        folder.mkdir(exist_ok=True)
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(path)
        return check_folder(folder)

    return read


def _results(name: str) -> Callable[[Path], object]:
    """Reads a study's folder in which a file of that name was exchanged."""

    def read(path: Path) -> object:
        store = Store(path.parent / "results")
        key = store.write(cell_result()).name
        place = store.path / name if name == "manifest.json" else store.folder / key / name
        place.unlink(missing_ok=True)
        place.symlink_to(path)
        return store.cells()[0].data if name == "manifest.json" else store.read(key)

    return read


def cell_result() -> CellResult:
    from tokensieve.core.study.plan.keys import key_of

    config = {
        "kind": "accuracy", "seed": 0, "budget": None, "pipeline": {"name": "p", "resolved": {}},
        "model": {"name": "m"}, "task": {"name": "t", "task": "t", "samples": 1},
    }  # fmt: skip
    facts: dict[str, Any] = {
        "status": "done", "error": None, "traceback": None, "summary": {},
    }  # fmt: skip
    records: dict[str, Any] = {"samples.jsonl": [{"id": "0", "score": 1}]}
    document = CellDocument.model_validate({"config": config, **facts})
    return CellResult(key_of(config), document, records)


def _task(path: Path) -> object:
    if path.parent.is_dir():
        Image.new("RGB", (8, 8)).save(path.parent / "a.png")
    return FileTask(file=path).examples(10, 0)


TEXTS: dict[str, tuple[str, Callable[[Path], object]]] = {  # what the file is called, and read by
    "pipeline": ("x.yaml", lambda path: load_pipeline(path, registry=REGISTRY)),
    "study": ("x.yaml", lambda path: load_study(path, REGISTRY)),
    "questions": ("x.jsonl", _task),
    "config": ("config.json", read_config),
    "chat template": ("chat_template.jinja", _checkpoint_file("chat_template.jinja")),
}
CHECKPOINT = {name: (name, _checkpoint_file(name)) for name in (*READ, "model.safetensors")}
BYTES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "plugin": ("x.py", lambda path: build_registry([path])),
    "picture": ("x.png", open_image),
    "Parquet": ("x.parquet", _task),
    "cell": ("cell.json", _results("cell.json")),
    "samples": ("samples.jsonl", _results("samples.jsonl")),
}
READERS = {**TEXTS, **CHECKPOINT, **BYTES}


# ------------------------------------------------------------- what is no file


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


def _sparse(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(20 << 30)


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


PLACES: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "socket": _socket,
    "endless device": lambda path: path.symlink_to("/dev/zero"),
    "empty device": lambda path: path.symlink_to("/dev/null"),
    "random device": lambda path: path.symlink_to("/dev/urandom"),
    "terminal": lambda path: path.symlink_to("/dev/tty"),
    "file without an end": _sparse,
    "link to itself": _loop,
    "pipe behind a link": lambda path: (
        os.mkfifo(path.with_suffix(".pipe")),
        path.symlink_to(path.with_suffix(".pipe")),
    ),
    "folder behind a link": lambda path: path.symlink_to(path.parent),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_is_said(reader: str, place: str, tmp_path: Path) -> None:
    name, read = READERS[reader]
    path = tmp_path / name
    PLACES[place](path)
    right = {("link to itself", reader) for reader in CHECKPOINT} | {
        ("link to itself", "chat template")  # to nothing: as if there were none
    }
    if (place, reader) in right:
        return
    corrupt = "corrupt cell"  # the cell is named
    said = {"plugin": "plugin file", "samples": corrupt, "cell": corrupt}
    refused(lambda: read(path), said.get(reader, name))


NAMES = {
    "nothing": "no",
    "NUL": "a\0b",
    "half character": "\ud83d",
    "byte": "\udcff",
    "long": "a" * 300,
    "very long": "a" * 100_000,
    "below a file": "a.png/no",
    "escape sequence": "\x1b[31mred",
    "line end": "two\nlines",
    "nobody's home": "~nosuchuser/no",
    "device": "/dev/fd/999/no",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "reader", ["pipeline", "study", "questions", "plugin", "picture", "Parquet"]
)
def test_names_of_files_that_are_not_there(reader: str, name: str, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    file, read = READERS[reader]
    refused(lambda: read(tmp_path / (NAMES[name] + Path(file).suffix)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("field", ["image", "images", "path"])
def test_names_of_pictures_in_rows(field: str, name: str, tmp_path: Path) -> None:
    entry: dict[str, Any] = {"image": NAMES[name]}
    if field == "images":
        entry = {"images": ["a.png", NAMES[name]]}
    if field == "path":
        entry = {"image": {"path": NAMES[name]}}
    row = {"question": "What?", "answer": "it", **entry}
    (tmp_path / "data.jsonl").write_text(json.dumps(row))
    refused(lambda: _task(tmp_path / "data.jsonl"), "data.jsonl:1")


@pytest.mark.parametrize("place", PLACES)
def test_a_picture_of_a_row_that_is_no_file(place: str, tmp_path: Path) -> None:
    PLACES[place](tmp_path / "b.png")
    (tmp_path / "data.jsonl").write_text(json.dumps({**ROW, "image": "b.png"}))
    refused(lambda: _task(tmp_path / "data.jsonl"), "data.jsonl:1", "b.png")


# ------------------------------------------------------------------- encodings

RIGHT = {
    "pipeline": "description: caf\u00e9\n" + STAGE,
    "study": "description: caf\u00e9\n" + STUDY,
    "questions": json.dumps({**ROW, "answer": "caf\u00e9"}, ensure_ascii=False) + "\n",
    "config": json.dumps({"model_type": "llava", "name": "caf\u00e9"}, ensure_ascii=False),
    "chat template": "caf\u00e9 {{ messages }}",
}
WIDE = ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
NARROW = ["latin-1", "cp1252", "iso8859-15", "mac-roman", "cp437", "gb18030", "big5hkscs"]
RAW = {
    "overlong": b"\xc0\x80",
    "continuation": b"\x80",
    "cut": b"\xe2\x82",
    "surrogate": b"\xed\xa0\x80",
    "beyond Unicode": b"\xf4\x90\x80\x80",
    "all ones": b"\xff\xff",
}


@pytest.mark.parametrize("encoding", [*WIDE, *NARROW])
@pytest.mark.parametrize("reader", TEXTS)
def test_other_encodings_have_a_place(reader: str, encoding: str, tmp_path: Path) -> None:
    name, read = TEXTS[reader]
    (tmp_path / name).write_bytes(RIGHT[reader].encode(encoding))
    said = refused(lambda: read(tmp_path / name), name, "save it as UTF-8")
    assert (":1:1: is not UTF-8" in said) == (encoding in WIDE)
    assert ("UTF-16" in said or "UTF-32" in said) == (encoding in WIDE)


@pytest.mark.parametrize("bytes_", RAW)
@pytest.mark.parametrize("where", ["first", "last"])
@pytest.mark.parametrize("reader", TEXTS)
def test_bytes_that_are_no_text_have_a_place(
    reader: str, where: str, bytes_: str, tmp_path: Path
) -> None:
    name, read = TEXTS[reader]
    text = RIGHT[reader].encode()
    (tmp_path / name).write_bytes(
        RAW[bytes_] + text if where == "first" else text + b"\n" + RAW[bytes_]
    )
    line, column = (1, 1) if where == "first" else (text.count(b"\n") + 2, 1)
    refused(lambda: read(tmp_path / name), f"{name}:{line}:{column}: is not UTF-8 text")


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("reader", TEXTS)
def test_marks_and_line_ends_change_nothing(
    reader: str, mark: str, ends: str, tmp_path: Path
) -> None:
    name, read = TEXTS[reader]
    (tmp_path / name).write_text(RIGHT[reader], encoding="utf-8")
    plain = read(tmp_path / name)
    (tmp_path / name).write_text(mark + RIGHT[reader], encoding="utf-8", newline=ends)
    assert str(read(tmp_path / name)) == str(plain) or reader == "questions"


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("text", ["[]", "", "{", "null", "{'a': 1}", "{}x", "\x00{}"])
def test_files_of_a_checkpoint_that_are_no_mappings(name: str, text: str, tmp_path: Path) -> None:
    """What transformers would pass over in silence is refused as well."""
    (tmp_path / name).write_text(text, encoding="utf-8")
    refused(lambda: check_folder(tmp_path), name)


# ----------------------------------------------------------------------- depth

DEPTHS = [YAML_DEPTH - 1, YAML_DEPTH, YAML_DEPTH + 1, JSON_DEPTH, JSON_DEPTH + 1, 1000, 100_000]
SHAPES: dict[str, Callable[[int], str]] = {
    "lists": lambda depth: "[" * depth + "]" * depth,
    "mappings": lambda depth: '{"a": ' * depth + "1" + "}" * depth,
    "both": lambda depth: '[{"a": ' * (depth // 2) + "1" + "}]" * (depth // 2),
    "open lists": lambda depth: "[" * depth,
    "open mappings": lambda depth: '{"a": ' * depth,
    "closed only": lambda depth: "]" * depth,
}
BLOCKS: dict[str, Callable[[int], str]] = {
    "block lists": lambda depth: "- " * depth + "1",
    "block mappings": lambda depth: "".join(f"{' ' * n}a:\n" for n in range(min(depth, 1000))),
    "block keys": lambda depth: "? " * depth + "1",
}


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("shape", [*SHAPES, *BLOCKS])
@pytest.mark.parametrize("reader", ["pipeline", "study", "claims", "keep"])
def test_depth_of_yaml(reader: str, shape: str, depth: int, tmp_path: Path) -> None:
    text = {**SHAPES, **BLOCKS}[shape](depth)
    if reader == "keep":
        right_or_refused(lambda: parse_keep(text), "--keep")
    elif reader == "claims":
        (tmp_path / "study.yaml").write_text(f"claims: {text}")
        assert no_claims(tmp_path)
    else:
        (tmp_path / "x.yaml").write_text(f"at:\n  {text}")
        refused(lambda: TEXTS[reader][1](tmp_path / "x.yaml"), "x.yaml:")


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reader", ["config", "questions", "boxes", "tokenizer"])
def test_depth_of_json(reader: str, shape: str, depth: int, tmp_path: Path) -> None:
    text = SHAPES[shape](depth)
    if reader in ("questions", "boxes"):
        row = f'{{"boxes": {text}, {json.dumps(ROW)[1:]}' if reader == "boxes" else text
        (tmp_path / "x.jsonl").write_text(row)
        refused(lambda: _task(tmp_path / "x.jsonl"), "x.jsonl:1:")
        return
    name = "config.json" if reader == "config" else "tokenizer.json"
    (tmp_path / name).write_text(f'{{"a": {text}}}')
    read = read_config if reader == "config" else lambda path: check_folder(path.parent)
    found = right_or_refused(lambda: read(tmp_path / name), name)
    closed = not shape.startswith(("open", "closed")) and depth + 1 <= JSON_DEPTH
    assert (found is not None) == closed or reader == "tokenizer"


# ------------------------------------------------------------------ characters

SIGNS = [*map(chr, range(32)), *map(chr, (0x7F, 0x80, 0x85, 0x9F, 0x2028, 0x2029, 0xFEFF, 0xFFFE))]
SPELLED = {
    "plain": "name: a{}b\n",
    "quoted": "name: 'a{}b'\n",
    "in a key": "a{}b: 1\n",
    "in a comment": "# a{}b\n",
}


def hexed(sign: str) -> str:
    return f"U+{ord(sign):04X}"


@pytest.mark.parametrize("sign", SIGNS, ids=hexed)
@pytest.mark.parametrize("where", SPELLED)
def test_signs_in_yaml(where: str, sign: str, tmp_path: Path) -> None:
    """What is read is what stands there; what no terminal should get is refused with its place."""
    path = tmp_path / "x.yaml"
    path.write_text(SPELLED[where].format(sign) + STAGE, encoding="utf-8", newline="")
    found: Any = right_or_refused(lambda: load_pipeline(path, registry=REGISTRY), "x.yaml:")
    if found is not None and where in ("plain", "quoted"):
        assert sign in found.name or sign in "\t\n\r"
        assert sign.isprintable() or sign in "\t\n\r\x80\x9f\ufeff"


@pytest.mark.parametrize("escaped", [True, False], ids=["escaped", "raw"])
@pytest.mark.parametrize("sign", [*SIGNS, "\ud800", "\udfff"], ids=hexed)
@pytest.mark.parametrize("where", ["question", "answer", "id", "key"])
def test_signs_in_rows(where: str, sign: str, escaped: bool, tmp_path: Path) -> None:
    row = {**ROW, "b" if where == "key" else where: f"a{sign}b"}
    if where == "key":
        row[f"a{sign}b"] = "x"
    text = json.dumps(row, ensure_ascii=escaped)
    if not escaped and sign < " ":
        text = json.dumps(row).replace(json.dumps(sign)[1:-1], sign)
    (tmp_path / "x.jsonl").write_bytes(text.encode("utf-8", "surrogatepass"))
    found: Any = right_or_refused(lambda: _task(tmp_path / "x.jsonl"), "x.jsonl:")
    assert where != "key" or found is None
    if found is not None:
        (one,) = found
        assert f"a{sign}b" in (one.question, one.answer, one.id)


@pytest.mark.parametrize("sign", [*SIGNS, "\ud800"], ids=hexed)
def test_signs_in_budgets(sign: str) -> None:
    for text in (f"{sign}64", f"64{sign}", f"average={sign}64"):
        budget = right_or_refused(lambda text=text: parse_keep(text), "--keep")  # type: ignore[misc]
        assert (
            budget in (None, 64, {"average": 64})
            or not isinstance(budget, int | dict)
            or (isinstance(budget, dict) and budget["average"] != 64)
        )


# --------------------------------------------------------------------- numbers

NUMBERS = {
    "5,000 digits": "9" * 5000, "100,000 digits": "9" * 100_000, "minus": "-" + "9" * 5000,
    "zeros": "0" * 5000, "fraction": "0." + "3" * 5000, "exponent": "1e" + "9" * 5000,
    "tiny": "1e-" + "9" * 5000, "infinite": "1e999", "NaN": "NaN", "Infinity": "Infinity",
    ".nan": ".nan", ".inf": "-.inf", "hex": "0x10", "octal": "0o17", "underscore": "1_000",
    "leading zero": "01", "plus": "+1", "dot": ".5", "Arabic": "\u0661", "fullwidth": "\uff11",
    "sexagesimal": "1:30",
}  # fmt: skip


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("where", ["at", "keep", "--keep", "seeds", "id", "boxes", "config"])
def test_odd_numbers(where: str, number: str, tmp_path: Path) -> None:
    text = NUMBERS[number]
    if where == "--keep":
        right_or_refused(lambda: load_pipeline("fastv", keep=parse_keep(text), registry=REGISTRY))
    elif where in ("at", "keep"):
        lines = STAGE.splitlines()
        lines = [f"{where}: {text}" if line.startswith(where) else line for line in lines]
        (tmp_path / "x.yaml").write_text("\n".join(lines), encoding="utf-8")
        right_or_refused(lambda: load_pipeline(tmp_path / "x.yaml", registry=REGISTRY), "x.yaml:")
    elif where == "seeds":
        (tmp_path / "x.yaml").write_text(f"{STUDY}seeds: [1, 2, {text}]", encoding="utf-8")
        right_or_refused(lambda: load_study(tmp_path / "x.yaml", REGISTRY), "x.yaml:")
    elif where == "config":
        (tmp_path / "config.json").write_text(f'{{"a": {text}}}', encoding="utf-8")
        right_or_refused(lambda: read_config(tmp_path / "config.json"), "config.json:1:")
    else:
        value = text if where == "id" else f"[[0, 0, 1, {text}]]"
        row = json.dumps(ROW).replace("{", f'{{"{where}": {value}, ', 1)
        (tmp_path / "x.jsonl").write_text(row, encoding="utf-8")
        right_or_refused(lambda: _task(tmp_path / "x.jsonl"), "x.jsonl:1")


# --------------------------------------------------------------------- aliases

LAYERS = "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" if n else "a0: &a0 [1, 1, 1, 1, 1, 1]\n"
    for n in range(9)
)
ALIASES = {
    "billion laughs": LAYERS,
    "in itself": "a: &a [*a]\n",
    "in itself by two": "a: &a {b: &b [*a]}\nc: *b\n",
    "long text": "a: &a " + "x" * 9000 + "\nb: [" + ", ".join(["*a"] * 5000) + "]\n",
    "megabyte": "a: &a " + "x" * 900_000 + "\nb: [" + ", ".join(["*a"] * 5000) + "]\n",
    "mapping": "a: &a {k: 1}\nb: {" + ", ".join(f"k{n}: *a" for n in range(20_000)) + "}\n",
    "unknown": "a: *b\n",
    "as key": "a: &a x\n*a : 1\n",
    "merge": "a: &a {k: 1}\n<<: *a\n",
    "many anchors": "".join(f"a{n}: &x 1\n" for n in range(15_000)),
    "many entries": "a:\n" + "- 1\n" * 200_000,
    "many keys": "".join(f"k{n}: 1\n" for n in range(50_000)),
    "larger than allowed": "# " + "x" * (1 << 20),
    "comment of a megabyte": "#" * 1_000_000,
    "tabs": "\t" * 100_000,
    "quotes": "a: '" + "''" * 400_000 + "'\n",
    "breaks": 'a: "' + "\n" * 500_000 + '"\n',
    "escapes": 'a: "' + "\\x41" * 200_000 + '"\n',
    "folded": "a: >\n" + " x\n" * 200_000,
    "tags": "a: " + "!!str " * 1000 + "b\n",
    "directives": "%X y\n" * 1000 + "---\na: 1\n",
    "documents": "--- a\n" * 1000,
    "flow keys": "{" + "a, " * 50_000 + "}",
    "python": "a: !!python/object/apply:os.system ['true']\n",
    "binary": "a: !!binary aGk=\n",
    "set": "a: !!set {b, c}\n",
    "omap": "a: !!omap [b: 1]\n",
    "own tag": "a: !mine {b: 1}\n",
}


@pytest.mark.parametrize("case", ALIASES)
@pytest.mark.parametrize("reader", ["pipeline", "study", "claims"])
def test_yaml_that_grows(reader: str, case: str, tmp_path: Path) -> None:
    if reader == "claims":
        (tmp_path / "study.yaml").write_text(ALIASES[case])
        assert no_claims(tmp_path)
        return
    (tmp_path / "x.yaml").write_text(ALIASES[case])
    refused(lambda: TEXTS[reader][1](tmp_path / "x.yaml"), "x.yaml")


# --------------------------------------------------------------------- budgets

NO_BUDGET = [
    "null", "Null", "NULL", "~", "# 64", "--- ", "average=null", "average=~", "average=", "=64",
    "=", "", " ", "{}", "[]", "[64]", "[null]", "{null: null}", "true", "false", "yes", "'64'",
    '"64"', "64 tokens", "64%", "-64", "0", "-0.5", "1.5", ".nan", ".inf", "-.inf", "nan", "1e999",
    "9" * 5000, "tokens=9.5", "share=2", "flops=0", "flops=2", "average=-1", "average={a: 1}",
    "average=[1]", "what=1", "average=1, tokens=2", "{average: 1, flops: 0.5}",
    "{share: 0.5, of: nothing}", "{average: 1, average: 2}", "*a", "&a", "64\n---\n64",
    "[" * 1000, "{" * 1000, "\x00", "\x1b[31m", "\ud800", "a" * 100_000, "average=64}", "0x40",
    "6_4", "\u0666\u0664", "? 64", "|", "- 64", "@64", "`64`", "%64", "kind=tokens",
    "{kind: tokens}", "{kind: [1], value: 3}",
]  # fmt: skip


@pytest.mark.parametrize("budget", NO_BUDGET, ids=lambda text: ascii(text)[:30])
def test_a_budget_that_is_none_is_refused(budget: str, call: Call) -> None:
    result = call("show", "fastv", f"--keep={budget}")
    one_line(result, "keep")


# -------------------------------------------------------------------- pictures


def saved(form: str, image: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


GRADIENT = Image.merge("RGB", [Image.linear_gradient("L").resize((40, 30))] * 3)
FORMATS = [
    "PNG",
    "JPEG",
    "WEBP",
    "GIF",
    "BMP",
    "TIFF",
    "PPM",
    "TGA",
    "ICO",
    "PCX",
    "SGI",
    "JPEG2000",
]


@pytest.mark.parametrize("share", [0, 0.02, 0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("form", FORMATS)
def test_pictures_that_were_cut(form: str, share: float, tmp_path: Path) -> None:
    """Whole, or refused: a cut picture is never half black."""
    whole = saved(form, GRADIENT)
    (tmp_path / "x").write_bytes(whole[: int(len(whole) * share)])
    found: Any = right_or_refused(lambda: open_image(tmp_path / "x"), "image ")
    if found is not None:
        (tmp_path / "y").write_bytes(whole)
        assert np.array_equal(np.asarray(found), np.asarray(open_image(tmp_path / "y")))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int = 8, color: int = 2) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


SIDE = 60_000
BOMBS = {
    "PNG": png(SIDE, SIDE),
    "PNG, wide": png(2**31 - 1, 1),
    "PNG, high": png(1, 2**31 - 1),
    "PNG, 1 bit": png(SIDE, SIDE, 1, 0),
    "PNG, 16 bits": png(SIDE, SIDE, 16, 6),
    "PNG, no size": png(0, 0),
    "GIF": b"GIF89a" + struct.pack("<HHBBB", SIDE, SIDE, 0, 0, 0) + b"," + struct.pack(
        "<HHHHB", 0, 0, SIDE, SIDE, 0) + b"\x08\x01\x00\x00;",
    "BMP": b"BM" + struct.pack("<IHHI", 100, 0, 0, 54) + struct.pack(
        "<IiiHHIIiiII", 40, SIDE, SIDE, 1, 24, 0, 0, 0, 0, 0, 0),
    "BMP, upside down": b"BM" + struct.pack("<IHHI", 100, 0, 0, 54) + struct.pack(
        "<IiiHHIIiiII", 40, SIDE, -SIDE, 1, 24, 0, 0, 0, 0, 0, 0),
    "PPM": f"P6 {SIDE} {SIDE} 255\n".encode(),
    "PGM": f"P5 {SIDE} {SIDE} 65535\n".encode(),
    "PPM of long numbers": b"P6 " + b"9" * 5000 + b" 1 255\n",
    "TGA": struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, SIDE, SIDE, 24, 0),
    "TIFF": b"II*\0\x08\0\0\0" + struct.pack("<H", 3) + b"".join(
        struct.pack("<HHII", tag, 4, 1, value)
        for tag, value in ((256, SIDE), (257, SIDE), (262, 1))
    ) + b"\0\0\0\0",
    "JPEG": saved("JPEG", GRADIENT).replace(struct.pack(">HH", 30, 40), b"\xff\xdc\xff\xdc", 1),
    "SGI": struct.pack(">HBBHHHH", 474, 0, 1, 3, SIDE, SIDE, 3) + b"\0" * 500,
    "PCX": struct.pack("<BBBBHHHH", 10, 5, 1, 8, 0, 0, SIDE, SIDE) + b"\0" * 120,
}  # fmt: skip


@pytest.mark.parametrize("source", ["file", "bytes"])
@pytest.mark.parametrize("bomb", BOMBS)
def test_pictures_larger_than_memory(bomb: str, source: str, tmp_path: Path) -> None:
    if source == "bytes":
        refused(lambda: open_image(io.BytesIO(BOMBS[bomb])), "image (bytes)")
        return
    (tmp_path / "x.png").write_bytes(BOMBS[bomb])
    said = refused(lambda: open_image(tmp_path / "x.png"), "x.png")
    assert bomb != "PNG" or f"allowed: {MOST_PIXELS:,} pixels" in said


def _eps(command: str) -> bytes:
    return f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{command}\n".encode()


NO_PICTURES = {
    "EPS, a program": _eps("(touch run) (w) file"),
    "EPS with a preview": b"\xc5\xd0\xd3\xc6" + struct.pack("<IIIIII", 32, 99, 0, 0, 0, 0),
    "PDF": b"%PDF-1.7\n1 0 obj <</OpenAction 2 0 R>> endobj\n",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>",
    "WMF": b"\xd7\xcd\xc6\x9a\x00\x00" + b"\0" * 40,
    "EMF": b"\x01\x00\x00\x00" + b"\0" * 36 + b" EMF" + b"\0" * 40,
    "PSD": b"8BPS\0\1" + b"\0" * 40,
    "FITS": b"SIMPLE  =                    T" + b" " * 3000,
    "HDF5": b"\x89HDF\r\n\x1a\n" + b"\0" * 100,
    "GRIB": b"GRIB\0\0\0\2" + b"\0" * 20,
    "MPEG": b"\0\0\1\xb3" + b"\0" * 50,
    "HTML": b"<html></html>",
    "text": b"hello",
    "empty": b"",
    "zeros": b"\0" * 100_000,
    "gzip": b"\x1f\x8b\x08" + b"\0" * 100,
    "zip": b"PK\3\4" + b"\0" * 100,
    "pickle": b"\x80\x04\x95" + b"\0" * 100,
    "ELF": b"\x7fELF" + b"\0" * 100,
    "XPM": b"/* XPM */\nstatic char *x[] = {};\n",
    "IM": b"Image type: L image\r\nImage size (x*y): 9*9\r\n\x1a",
    "FLI": struct.pack("<IHHHHHH", 128, 0xAF11, 1, 9, 9, 8, 0) + b"\0" * 120,
}


@pytest.mark.parametrize("case", NO_PICTURES)
def test_what_is_no_picture_by_itself_is_refused(case: str, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(NO_PICTURES[case])
    refused(lambda: open_image(tmp_path / "x.png"), "x.png")


MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr", "LAB", "HSV", "PA"]


@pytest.mark.parametrize("turn", range(10))
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_pictures_are_upright(form: str, turn: int, tmp_path: Path) -> None:
    """As many pixels to the right as a person sees, whatever EXIF says; 0 and 9 say nothing."""
    exif = Image.Exif()
    exif[0x112] = turn
    (tmp_path / "x").write_bytes(saved(form, GRADIENT, exif=exif.tobytes()))
    seen = open_image(tmp_path / "x")
    assert seen.size == ((30, 40) if turn in (5, 6, 7, 8) else (40, 30))
    assert seen.mode == "RGB"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", ["PNG", "TIFF", "GIF", "WEBP", "JPEG"])
def test_pictures_of_every_kind(form: str, mode: str, tmp_path: Path) -> None:
    """Black to white stays so, as far as the format keeps it."""
    ramp = Image.linear_gradient("L").resize((16, 64))
    if mode == "I;16" and form in ("PNG", "TIFF"):
        image = Image.fromarray(np.asarray(ramp).astype(np.uint16) * 257)
    else:
        image = ramp.convert("RGB" if mode in ("HSV", "YCbCr") else "L")
        image = Image.new(mode, (16, 64)) if mode == "LAB" else image
        image = image if mode in ("LAB", "I;16") else image.convert(mode)
    try:
        (tmp_path / "x").write_bytes(saved(form, image))
    except (OSError, ValueError):
        image = ramp  # the format has no such pixels
        (tmp_path / "x").write_bytes(saved(form, image))
    found: Any = right_or_refused(lambda: open_image(tmp_path / "x"), "image ")
    if found is not None and mode not in ("LAB", "PA"):
        values = np.asarray(found.convert("L")).mean(axis=1)
        assert (values[0] < 40, values[-1] > 200) == (True, True)
        assert found.size == (16, 64)


@pytest.mark.parametrize("frames", [1, 2, 50])
@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_frame(form: str, frames: int, tmp_path: Path) -> None:
    colors = [Image.new("RGB", (8, 8), (255 if n else 0, 0, 255)) for n in range(frames)]
    options = {"save_all": True, "append_images": colors[1:]}
    (tmp_path / "x").write_bytes(saved(form, colors[0], **options))
    found: Any = right_or_refused(lambda: open_image(tmp_path / "x"), "pages")
    assert (found is None) == (form == "TIFF" and frames > 1)
    if found is not None:
        assert found.getpixel((4, 4))[0] < 20


# --------------------------------------------------------------------- Parquet

COLUMNS: dict[str, Any] = {
    "null": pa.nulls(1),
    "boolean": pa.array([True]),
    "integer": pa.array([7]),
    "unsigned": pa.array([2**63], pa.uint64()),
    "half": pa.array(np.array([0.1], np.float16)),
    "float": pa.array([0.1], pa.float32()),
    "NaN": pa.array([float("nan")]),
    "decimal": pa.array([Decimal("1.50")]),
    "date": pa.array([0], pa.date32()),
    "time": pa.array([0], pa.time64("ns")),
    "timestamp": pa.array([0], pa.timestamp("ns", "UTC")),
    "out of the calendar": pa.array([2**62], pa.timestamp("ms")),
    "duration": pa.array([1], pa.duration("ns")),
    "text": pa.array(["it"]),
    "large text": pa.array(["it"], pa.large_string()),
    "bytes": pa.array([b"\x89PNG"]),
    "no text": pa.array([b"\xff"]).cast(pa.binary()).view(pa.string()),
    "words": pa.array(["it"]).dictionary_encode(),
    "list": pa.array([["it"]]),
    "list of lists": pa.array([[["it"]]]),
    "struct": pa.array([{"bytes": None, "path": None}]),
    "struct of a list": pa.array([{"path": ["a.png"]}]),
    "map": pa.array([[("path", "a.png")]], pa.map_(pa.string(), pa.string())),
    "list of structs": pa.array([[{"path": "a.png"}]]),
    "empty text": pa.array([""]),
    "long text": pa.array(["x" * 3_000_000]),
}  # fmt: skip


def write_parquet(folder: Path, **columns: Any) -> Path:
    path = folder / "x.parquet"
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.parametrize(
    "field", ["question", "answer", "answers", "id", "image", "boxes", "other"]
)
def test_columns_of_every_type(field: str, kind: str, tmp_path: Path) -> None:
    row = {key: pa.array([value]) for key, value in ROW.items()}
    path = write_parquet(tmp_path, **{**row, field: COLUMNS[kind]})
    found: Any = right_or_refused(lambda: _task(path), "x.parquet")
    if field in ("question", "answer", "id") and kind in ("text", "large text", "words"):
        assert getattr(found[0], field) == "it"


def _many_rows(folder: Path) -> Path:
    return write_parquet(folder, question=pa.nulls(11_000_000))


def _spoilt(change: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = write_parquet(folder, **{key: [value] for key, value in ROW.items()})
        path.write_bytes(change(path.read_bytes()))
        return path

    return make


PARQUET: dict[str, Callable[[Path], Path]] = {
    "eleven million rows": _many_rows,
    "no rows": lambda folder: write_parquet(folder, question=pa.array([], pa.string())),
    "no columns": write_parquet,
    "half": _spoilt(lambda data: data[: len(data) // 2]),
    "without an end": _spoilt(lambda data: data[:-4]),
    "without a start": _spoilt(lambda data: data[4:]),
    "footer longer than the file": _spoilt(lambda data: data[:-8] + b"\xff\xff\xff\x7fPAR1"),
    "footer of nothing": _spoilt(lambda data: data[:-8] + b"\0\0\0\0PAR1"),
    "footer of zeros": _spoilt(lambda data: data[:4] + b"\0" * 200 + b"\xc8\0\0\0PAR1"),
    "encrypted": _spoilt(lambda data: data[:-4] + b"PARE"),
    "pages of zeros": _spoilt(lambda data: data[:4] + b"\0" * 60 + data[64:]),
    "magic only": _spoilt(lambda data: b"PAR1"),
    "magic twice": _spoilt(lambda data: b"PAR1PAR1"),
    "empty": _spoilt(lambda data: b""),
    "text": _spoilt(lambda data: json.dumps(ROW).encode()),
    "zip": _spoilt(lambda data: b"PK\3\4" + data),
}


@pytest.mark.parametrize("case", PARQUET)
def test_parquet_files_that_are_none(case: str, tmp_path: Path) -> None:
    path = PARQUET[case](tmp_path)
    refused(lambda: _task(path), "x.parquet")


@pytest.mark.parametrize("depth", [1, 10, 60, 500])
def test_parquet_columns_nested(depth: int, tmp_path: Path) -> None:
    kind: Any = pa.string()
    for _ in range(depth):
        kind = pa.list_(kind)
    row = {key: pa.array([value]) for key, value in ROW.items()}
    try:
        path = write_parquet(tmp_path, **row, boxes=pa.nulls(1, kind))
    except (pa.ArrowException, RecursionError):
        pytest.fail("pyarrow writes no such file")
    right_or_refused(lambda: _task(path), "x.parquet")


def test_parquet_that_unpacks_to_more_than_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One long text, named by every row: a thousand times its size."""
    monkeypatch.setattr("tokensieve.core.files.parquet_rows.MOST_BYTES", 20_000_000)
    text = pa.array(["x" * 100_000] * 1000)
    path = write_parquet(tmp_path, question=text)
    assert path.stat().st_size < 1_000_000
    refused(lambda: _task(path), "x.parquet", "unpacks to more than")


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_parquet(tmp_path, question=["x"])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    refused(lambda: _task(path), "x.parquet", "pip install 'tokensieve[parquet]'")


# ------------------------------------------------------------------------ rows

GOOD_LINE = json.dumps(ROW)
ROWS: dict[str, str] = {
    "array": "[1]", "number": "1", "word": '"a"', "null": "null", "true": "true", "nothing": "{}",
    "single quotes": "{'a': 1}", "trailing comma": '{"a": 1,}', "comment": '{} // x',
    "two rows in a line": GOOD_LINE + GOOD_LINE, "cut": GOOD_LINE[:-5], "key only": '{"a"}',
    "colon only": '{"a": }', "no quotes": "{a: 1}", "key twice": '{"id": 1, "id": 2}',
    "deep key twice": '{"boxes": [{"a": 1, "a": 2}]}',
    "escaped key twice": '{"a": 1, "\\u0061": 2}',
    "NaN": '{"id": NaN}', "minus infinity": '{"id": -Infinity}', "large": '{"id": 1e999}',
    "bad escape": '{"id": "\\x"}', "half an escape": '{"id": "\\u12"}', "tab": '{"id": "\t"}',
    "NUL": '{"id": "\x00"}', "long key": json.dumps({"k" * 100_000: 1}),
    "long value": json.dumps({**ROW, "image": "k" * 100_000}),
    "many keys": json.dumps({f"k{n}": n for n in range(100_000)}),
    "quotes without end": '{"a": "' + '\\"' * 100_000, "brackets in texts": '{"a": "' + "[" * 999,
    "backslashes": '{"a": "' + "\\" * 99_999 + '"}', "wide nesting": json.dumps([[]] * 50_000),
    "URL": json.dumps({**ROW, "image": "https://example.org/a.png"}),
    "file URL": json.dumps({**ROW, "image": "file:///dev/zero"}),
    "data URL": json.dumps({**ROW, "image": "data:image/png;base64,AA=="}),
    "device": json.dumps({**ROW, "image": "/dev/zero"}),
    "empty image": json.dumps({**ROW, "image": ""}),
    "image of bytes": json.dumps({**ROW, "image": {"bytes": "iVBOR"}}),
    "images in images": json.dumps({**ROW, "images": [["a.png"]]}),
    "boxes as text": json.dumps({**ROW, "boxes": "[[0,0,1,1]]"}),
    "box of texts": json.dumps({**ROW, "boxes": [["a", 0, 1, 1]]}),
    "box of nulls": json.dumps({**ROW, "boxes": [[None] * 4]}),
    "box as mapping": json.dumps({**ROW, "boxes": [{"left": 0}]}),
    "answers as text": json.dumps({**ROW, "answers": "it"}),
    "answers in answers": json.dumps({**ROW, "answers": [["it"]]}),
    "empty answer": json.dumps({**ROW, "answer": " \t"}),
    "answer of bytes": json.dumps({**ROW, "answer": {"bytes": "a"}}),
}  # fmt: skip


@pytest.mark.parametrize("first", [True, False], ids=["first", "behind a right one"])
@pytest.mark.parametrize("case", ROWS)
def test_rows_that_are_none(case: str, first: bool, tmp_path: Path) -> None:
    lines = [ROWS[case]] if first else [GOOD_LINE, "", ROWS[case]]
    (tmp_path / "x.jsonl").write_text("\n".join(lines), encoding="utf-8")
    refused(lambda: _task(tmp_path / "x.jsonl"), f"x.jsonl:{len(lines)}: ")


LARGE = {
    "rows": (GOOD_LINE + "\n") * 1001, "long row": '{"a": ' + " " * 2_000_000,
    "blank lines": "\n" * 50_000_000 + "x", "spaces": " " * 50_000_000 + "x",
    "blank lines of Windows": "\r\n" * 20_000_000 + "[1]",
}  # fmt: skip


@pytest.mark.parametrize("case", LARGE)
def test_rows_that_are_too_many(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokensieve.core.files.json_lines.MOST_ROWS", 1000)
    text = LARGE[case]
    (tmp_path / "x.jsonl").write_text(text, newline="")
    line = text.rstrip().count("\n") + 1
    refused(lambda: _task(tmp_path / "x.jsonl"), f"x.jsonl:{line}: ")


def _directory(next_one: int) -> bytes:
    entry = struct.pack("<HHII", 254, 4, 1, 1)  # a small copy
    return struct.pack("<H", 1) + entry + struct.pack("<I", next_one)


def test_a_picture_of_very_many_pages(tmp_path: Path) -> None:
    size, count = len(_directory(0)), 200_000
    pages = b"".join(_directory(8 + size * (n + 1)) for n in range(count))
    first = saved("TIFF", GRADIENT)
    chained = b"II*\0" + struct.pack("<I", 8) + pages
    (tmp_path / "x.tif").write_bytes(chained + first)
    refused(lambda: open_image(tmp_path / "x.tif"), "x.tif")


JOINED = {
    "marks": "\ufeff{0}\n\ufeff{0}\n", "line ends": "{0}\r\n\r\n{0}\r\n", "no last end": "{0}\n{0}",
    "blank lines": "\n\n{0}\n \t\n{0}\n\n", "spaces": "  {0}  \n\t{0}\t\n",
}  # fmt: skip


@pytest.mark.parametrize(
    "sign", ["\u2028", "\u2029", "\x85", "\x0b", "\U0001f600", "\u202e", "\ufeff"]
)
@pytest.mark.parametrize("form", JOINED)
def test_rows_as_tools_write_them(form: str, sign: str, tmp_path: Path) -> None:
    row = json.dumps({**ROW, "question": f"a{sign}b"}, ensure_ascii=sign == "\x0b")
    text = JOINED[form].replace("{0}", row)
    (tmp_path / "x.jsonl").write_text(text, encoding="utf-8", newline="")
    found: Any = _task(tmp_path / "x.jsonl")
    assert [one.question for one in found] == [f"a{sign}b"] * 2


# ----------------------------------------------------------- a folder of results

CELLS = {
    "no JSON": "{", "list": "[]", "nothing": "", "null": "null", "deep": "[" * 100_000,
    "long number": '{"format": ' + "9" * 5000 + "}", "key twice": '{"format": 1, "format": 1}',
    "other format": '{"format": 2}', "mark": "\ufeff{}",
    "no checksum": '{"format": 1, "config": {}}',
    "files elsewhere": '{"format": 1, "config": {"kind": "accuracy", "seed": 0}, "files": '
    '{"/dev/zero": "a"}, "checksum": "a"}',
    "files above": '{"format": 1, "config": {"kind": "accuracy", "seed": 0}, "files": '
    '{"../../x": "a"}, "checksum": "a"}',
    "files as list": '{"format": 1, "config": {"kind": "accuracy", "seed": 0}, "files": [1], '
    '"checksum": "a"}',
}  # fmt: skip


@pytest.mark.parametrize("case", CELLS)
def test_cells_that_are_none(case: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.write(cell_result())
    (path / "cell.json").write_text(CELLS[case], encoding="utf-8")
    with pytest.raises(CorruptCell) as caught:
        store.read(path.name)
    clear(str(caught.value), path.name, "corrupt")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["manifest.json", "study.yaml"])
def test_files_beside_the_cells(name: str, place: str, tmp_path: Path) -> None:
    """Cells are there whatever became of the notes about them."""
    store = Store(tmp_path)
    key = store.write(cell_result()).name
    PLACES[place](tmp_path / name)
    assert [cell.key for cell in store.cells()] == [key]
    assert no_claims(tmp_path)


# ------------------------------------------------------------------ any content


@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.binary(max_size=300))
def test_any_bytes_as_any_file(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("any")
    for name, read in TEXTS.values():
        (folder / name).write_bytes(data)
        right_or_refused(lambda read=read, name=name: read(folder / name))  # type: ignore[misc]
    for name in ("x.png", "x.parquet"):
        (folder / name).write_bytes(data)
    refused(lambda: _task(folder / "x.parquet"))
    right_or_refused(lambda: open_image(folder / "x.png"))


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.text(st.sampled_from("[]{}:,-?&*!|>'\"\\#% \n\tab1.~\u2028\x00"), max_size=60))
def test_any_yaml_is_read_or_has_a_place(text: str) -> None:
    right_or_refused(lambda: parse_yaml(text, "FILE"), "FILE:")
    right_or_refused(lambda: parse_keep(text))


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda part: st.lists(part, max_size=4)
    | st.dictionaries(st.text(max_size=5), part, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(derandomize=True, deadline=None, max_examples=200)
@given(plain)
def test_json_is_what_was_written(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.mktemp("json") / "x.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    assert read_json(path, TaskError) == value
