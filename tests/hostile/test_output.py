"""Output is data too: names, answers and errors of strangers are shown, never obeyed."""

from __future__ import annotations

import csv
import html.parser
import io
import json
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import Call, assert_harmless, assert_one_line
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from synthetic_study import Planted, write_study

from tokensieve.core.foreign import plain
from tokensieve.core.markdown import escaped, paragraph, pipe_table
from tokensieve.core.study.report import plotting
from tokensieve.core.study.report.html import write_report
from tokensieve.core.study.report.spreadsheets import FORMULA, cell, spreadsheet
from tokensieve.core.terminal import Screen, say, table, to_json, warn

NAMES = {
    "escape": "\x1b[31mred\x1b[0m",
    "screen": "\x1b]0;title\x07\x1b[2J",
    "C1": "\x9b31mred",
    "newline": "two\nlines",
    "return": "over\rwritten",
    "backspace": "abc\b\b\bxyz",
    "separator": "a\u2028b\u2029c\x85d",
    "turned": "\u202egnp.exe\u202c",
    "isolate": "\u2067abc\u2069",
    "invisible": "a\u200bb\ufeffc\u2060d",
    "tab": "a\tb",
    "null": "a\0b",
    "markup": "[red]x[/red] [link=http://x]y[/link]",
    "emoji code": ":smile: :boom:",
    "HTML": "<script>alert(1)</script><img src=x onerror=y>",
    "entity": "&lt;b&gt; &amp; &#60;",
    "Markdown": "**bold** _it_ `code` [a](http://b) ![c](d) ~~e~~",
    "pipes": "a | b || c \\| d",
    "heading": "# one\n## two\n- three\n> four",
    "dollar": "$x^{2}$ $\\frac{1}",
    "TeX": "\\textbf{x} \\input{/etc/passwd} %",
    "underscore": "_hidden_",
    "formula": "=cmd|' /C calc'!A0",
    "plus": "+1+cmd",
    "minus": "-2+3",
    "at": "@SUM(1)",
    "spaced formula": "  =1+1",
    "format": "{0} %s {name!r}",
    "quotes": "\"a\" 'b' ,;",
    "long": "n" * 3000,
}
UNPAIRED = {**NAMES, "half character": "a\ud83db"}  # no file in UTF-8 holds it


def cases(names: dict[str, str]) -> Any:
    return pytest.mark.parametrize("name", names.values(), ids=names.keys())


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
    assert_one_line(result.err)
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
        assert_one_line(result.err)
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


# Markdown, as an independent reader understands it

READER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


class Shown(html.parser.HTMLParser):
    """Tags and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.links: list[str] = []
        self.cells: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [str(value) for key, value in attrs if key in ("src", "href")]
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.cells:
            self.cells[-1] += data


def flat(text: str) -> str:
    return plain(" ".join(text.split()))


@cases(UNPAIRED)
def test_a_paragraph_shows_the_name(name: str) -> None:
    shown = Shown(READER.render(paragraph(name)))
    assert shown.tags == ["p"]
    assert shown.text.strip() == flat(name)


@cases(UNPAIRED)
@pytest.mark.parametrize("place", ["head", "cell"])
def test_a_table_keeps_its_shape(place: str, name: str) -> None:
    head = ("a", name if place == "head" else "b")
    text = pipe_table(head, [("1", name if place == "cell" else "2"), ("3", "4")])
    shown = Shown(READER.render(text))
    assert shown.tags.count("tr") == 3
    assert set(shown.tags) <= {"table", "thead", "tbody", "tr", "th", "td"}
    found = shown.cells[1 if place == "head" else 3]
    assert found.strip() == flat(name)


@cases(UNPAIRED)
@pytest.mark.parametrize("frame", ["# {}", "### {}", "- **{}** (yes) x"])
def test_a_name_stays_in_its_line(frame: str, name: str) -> None:
    shown = Shown(READER.render(frame.format(escaped(name)) + "\n\nbehind\n"))
    expected = {"# {}": ["h1", "p"], "### {}": ["h3", "p"]}
    allowed = expected.get(frame, ["ul", "li", "strong", "p"])
    assert [tag for tag in shown.tags if tag not in ("p",)] == [t for t in allowed if t != "p"]
    assert flat(name) in shown.text


@settings(derandomize=True, deadline=None, max_examples=400)
@given(st.text(alphabet="ab1 \n#*_`[]()<>!|\\~$&;:/@.-+=\x1b\u202e", max_size=24))
def test_no_text_marks_anything_up(text: str) -> None:
    shown = Shown(READER.render(f"x-{escaped(text)}-y"))
    assert shown.tags == ["p"]
    assert shown.text.strip() == f"x-{flat(text)}-y"


# Spreadsheets


@cases(UNPAIRED)
def test_a_name_is_no_formula(name: str) -> None:
    (row,) = csv.reader(io.StringIO(spreadsheet([[name, 1]])))
    assert row[1] == "1"
    assert not row[0].lstrip().startswith(FORMULA)
    assert row[0].removeprefix("'") == plain(name)
    assert_harmless(row[0])


@pytest.mark.parametrize(
    "number",
    [-1, -0.5, 1e-9, "-0.123", "+3", "-1e-05", "1E6", "-.5", "0", "nan", "-inf", float("-inf")],
    ids=str,
)
def test_a_number_stays_a_number(number: Any) -> None:
    assert cell(number) == str(number)
    assert str(float(cell(number))) == str(float(number))


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.text(alphabet="=+-@\t\r\n 1a,;\"'\uff1d", max_size=10))
def test_no_text_is_calculated(text: str) -> None:
    (row,) = csv.reader(io.StringIO(spreadsheet([[text, "end"]])))
    try:
        float(row[0])
    except ValueError:
        assert not row[0].lstrip().startswith(FORMULA)
    assert row[1] == "end"


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


# Figures


def texts_of(svg: str) -> str:
    """What an SVG says, once its texts are not drawn as outlines."""
    return "\n".join("".join(node.itertext()) for node in ET.fromstring(svg).iter())


FIGURES = {
    "title": lambda axes, name: axes.set_title(name),
    "label": lambda axes, name: axes.set_xlabel(name),
    "ticks": lambda axes, name: axes.set_yticks([0, 1], [name, "other"]),
    "matrix": lambda axes, name: plotting.draw_matrix(axes, [[0.1]], [[name]], 1.0),
    "names": lambda axes, name: plotting.name_matrix(axes, [name], [name]),
    "legend": lambda axes, name: axes.plot([0, 1], [0, 1], label=plotting.labelled(name)),
}
DRAWN = {key: name for key, name in UNPAIRED.items() if len(name) < 99}


@cases(DRAWN)
@pytest.mark.parametrize("place", FIGURES)
def test_a_name_is_drawn_as_it_is(place: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(plotting.STYLE, "svg.fonttype", "none")
    shown = plain(name)
    with plotting.styled():
        figure, ((axes,),) = plotting.new_figure(3, 2)
        FIGURES[place](axes, shown)
        entries = plotting.legend_entries([axes])
        if place == "legend":
            figure.legend(entries.values(), entries)
        picture = plotting.finish(figure, "alt", "caption")
    assert shown in texts_of(picture.svg)


# A whole report of such names

OWN = ["escape", "newline", "turned", "markup", "HTML", "Markdown", "pipes", "dollar", "underscore",
       "formula", "TeX"
]  # fmt: skip


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The files of a study whose pipelines, model and task are called so."""
    methods: Any = {"random": 0.0, **{UNPAIRED[key]: 0.1 for key in OWN}}
    planted = Planted({UNPAIRED["dollar"]: 0.6}, {UNPAIRED["HTML"]: 0.0}, methods, 24)
    folder = write_study(tmp_path_factory.mktemp("odd") / "odd", planted, extra=False)
    files, _ = write_report(folder, resamples=20)
    return {file.suffix: file.read_text(encoding="utf-8") for file in files}


@pytest.mark.parametrize("key", OWN)
def test_the_page_shows_the_name(key: str, report: dict[str, str]) -> None:
    shown = Shown(report[".html"])
    assert plain(UNPAIRED[key]) in shown.text
    assert not set(shown.tags) & {"script", "b", "link", "iframe"}
    assert all(link.startswith(("#", "data:image/svg+xml;base64,")) for link in shown.links)


@pytest.mark.parametrize("key", OWN)
def test_the_markdown_shows_the_name(key: str, report: dict[str, str]) -> None:
    shown = Shown(READER.render(report[".md"]))
    assert plain(UNPAIRED[key]) in shown.text
    assert not set(shown.tags) & {"script", "img", "a", "em", "code", "s", "blockquote", "b"}


@pytest.mark.parametrize("key", OWN)
def test_the_spreadsheet_shows_the_name(key: str, report: dict[str, str]) -> None:
    rows = list(csv.DictReader(io.StringIO(report[".csv"])))
    own = [row for row in rows if row["method"].removeprefix("'") == plain(UNPAIRED[key])]
    assert len(own) == 2
    assert all(-1 <= float(row["over_random"]) <= 1 for row in own)


@pytest.mark.parametrize("suffix", [".html", ".md", ".csv"])
def test_no_file_holds_what_an_editor_obeys(suffix: str, report: dict[str, str]) -> None:
    assert_harmless(report[suffix])
