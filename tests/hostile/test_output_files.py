"""Output is data too, in the files of a report: Markdown, spreadsheets, figures, pages."""

from __future__ import annotations

import csv
import html.parser
import io
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from command_line import assert_harmless
from hostile_names import UNPAIRED, cases
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from synthetic_study import Planted, write_study

from tokensieve.core.bench.overhead import Overhead, Overheads, to_markdown
from tokensieve.core.bench.result import Spread
from tokensieve.core.foreign import plain
from tokensieve.core.output.markdown import escaped, paragraph, pipe_table
from tokensieve.core.report.figures import plotting
from tokensieve.core.report.page import write_report
from tokensieve.core.report.tables.spreadsheets import FORMULA, cell, spreadsheet

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


@cases(UNPAIRED)
def test_costs_in_markdown_show_the_name(name: str) -> None:
    rows = [Overhead(name, refused=name)]
    found = Overheads(
        {"device_name": name, "dtype": "float32", "attention": "sdpa", "threads": 1},
        "small", 576, 64, 5, Spread.of([0.1, 0.2, 0.3]), rows,
    )  # fmt: skip
    shown = Shown(READER.render(to_markdown(found)))
    assert shown.tags.count("tr") == 2
    assert not set(shown.tags) - {"p", "table", "thead", "tbody", "tr", "th", "td"}
    assert shown.cells[5].strip() == flat(name)


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
    "legend": lambda axes, name: axes.plot([0, 1], [0, 1], label=plotting.labeled(name)),
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
