"""What happens to plugins, tasks, data and weights after a study was planned."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from plugin_sources import good_source, write
from study_helpers import study_of

from tokensieve.core.study.plan.records import PlannedCell

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


TASKS = {
    "score": {"score": "1.0"},
    "question": {"question": "'which?'"},
    "id": {"id": "'n' + str(n)"},
    "comment": {"imports": "# nothing"},
}


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
        "imports": "import numpy; KNOWN = numpy.fromfile({file!r}, 'u1')",
        "score": "len(KNOWN) / 100"},
    "by Pillow": {
        "imports": "try:\n    Image.open({file!r})\nexcept OSError:\n    pass"},
    "by a function of the system": {
        "imports": "import os; KNOWN = os.read(os.open({file!r}, os.O_RDONLY), 99)",
        "score": "len(KNOWN) / 100"},
}  # fmt: skip


def rows(*given_: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in given_)


ROW = {"id": "a", "image": "a.png", "question": "what?", "answer": "x"}


TWO = {"id": "b", "images": ["b.png", "a.png"], "question": "which?", "answers": ["y", "z"]}


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
