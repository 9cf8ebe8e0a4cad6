"""The documentation is true: its code runs, its links lead somewhere, its tables are current."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from doc_pages import FENCE, LANGUAGES, Reader, forget_plugins, read_blocks

import tokensieve
import tokensieve.adapters
import tokensieve.core
import tokensieve.core.errors
import tokensieve.strategies
from tokensieve.core.plugins.discovery import build_registry

PROJECT = Path(__file__).parents[2]
DOCS = PROJECT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), PROJECT / "README.md"])
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
CODE_LINK = re.compile(r"\[`([\w./]+)`\]\(([^)\s#]+\.py)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
UNSUPPORTED = re.compile(r"^\| .+ \| `(\w+Error)` \| `(.+)` \|$", re.MULTILINE)


sys.path.append(str(DOCS))  # the programs of the docs folder are run from there
TABLES: Any = importlib.import_module("tables")
PICTURES: Any = importlib.import_module("pictures")


def title(page: Path) -> str:
    return page.relative_to(PROJECT).as_posix()


def modules() -> Iterator[ModuleType]:
    """Every module of the project; the root package is found through its three rooms."""
    yield tokensieve
    for room in (tokensieve.core, tokensieve.strategies, tokensieve.adapters):
        for found in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
            if "._root" not in found.name:
                yield importlib.import_module(found.name)


MODULES = list(modules())


# ------------------------------------------------------------------ code on the pages


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_code_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    imported = set(sys.modules)
    reader = Reader(page, monkeypatch.syspath_prepend)
    try:
        for block in read_blocks(page.read_text(encoding="utf-8")):
            assert block.language in LANGUAGES, f"{title(page)}:{block.line}: name a language"
            reader.follow(block)
    finally:
        monkeypatch.undo()
        forget_plugins()
        for name in set(sys.modules) - imported:
            if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]


def test_the_plugin_package_has_under_twenty_lines_of_python() -> None:
    """The module that the tutorial copies into its package is the last one of that name."""
    blocks = read_blocks((DOCS / "write-a-scorer.md").read_text(encoding="utf-8"))
    module = [block.text for block in blocks if block.file == "unusual_scorer.py"][-1]
    lines = [line for line in module.splitlines() if line and not line.startswith("#")]
    assert "tokensieve_register" in module
    assert len(lines) < 20
    assert f"{len(lines)} lines of Python" in (DOCS / "write-a-scorer.md").read_text()


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_doctests_run(module: ModuleType) -> None:
    assert doctest.testmod(module).failed == 0


def test_the_packages_have_doctests() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    examples = [test for module in MODULES for test in finder.find(module) if test.examples]
    assert len(examples) >= 3  # the walk found the packages


# ------------------------------------------------------------------ generated parts


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_generated_tables_are_current(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert TABLES.updated(text) == text, "out of date: run `python docs/tables.py`"


def test_every_table_is_on_a_page() -> None:
    used = {match[2] for page in PAGES for match in TABLES.PLACE.finditer(page.read_text("utf-8"))}
    assert used == set(TABLES.TABLES)


def test_every_preset_that_prunes_stands_in_the_table_of_costs() -> None:
    """It is measured, not generated: a new preset has to be measured, too."""
    costs = (DOCS / "methods.md").read_text(encoding="utf-8").partition("## What scoring costs")[2]
    measured = re.findall(r"^\| ([\w+-]+) \| \d+ \|", costs, re.MULTILINE)
    prunes = {entry.name for entry in build_registry().all("pipeline") if entry.name != "none"}
    assert sorted(measured) == sorted(prunes)


def test_every_registered_component_stands_in_a_table() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    rows = {row.split("|")[1].strip() for row in text.splitlines() if row.startswith("| `")}
    for kind in ("scorer", "selector", "merger", "pipeline", "adapter"):
        for entry in build_registry().all(kind):
            if entry.owner == "tokensieve":
                assert f"`{entry.name}`" in rows, f"{kind} {entry.name}"


@pytest.mark.parametrize("name", PICTURES.PICTURES)
def test_pictures_are_current(name: str) -> None:
    drawn = (PICTURES.IMAGES / name).read_text(encoding="utf-8")
    assert PICTURES.PICTURES[name]() == drawn, "out of date: run `python docs/pictures.py`"


# ------------------------------------------------------------------ words


def anchors(page: Path) -> set[str]:
    """The anchors that a Markdown page has, spelled as GitHub does."""
    headings = HEADING.findall(FENCE.sub("", page.read_text(encoding="utf-8")))
    plain = [re.sub(r"[^\w\- ]", "", heading).strip().lower() for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_internal_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), f"{title(page)}: {target}"
        assert path.is_relative_to(PROJECT), f"{title(page)}: {target} leaves the project"
        assert not anchor or anchor in anchors(path), f"{title(page)}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_a_link_to_a_file_names_it_or_what_it_defines(page: Path) -> None:
    for name, target in CODE_LINK.findall(page.read_text(encoding="utf-8")):
        path = (page.parent / target).resolve()
        if name.endswith(".py"):
            assert path.as_posix().endswith(f"/{name}"), f"{title(page)}: {name}"
        elif name.rpartition(".")[2] != path.stem:
            line = rf"^ *(class |def |async def )?{name.partition('.')[0]}\b *[(:=\[]"
            found = re.search(line, path.read_text(encoding="utf-8"), re.MULTILINE)
            assert found, f"{title(page)}: no {name} in {target}"


@pytest.mark.parametrize("index", [DOCS / "index.md", DOCS / "decisions" / "README.md"], ids=title)
def test_every_page_is_listed(index: Path) -> None:
    listed = {(index.parent / link).resolve() for link in LINK.findall(index.read_text("utf-8"))}
    assert set(index.parent.glob("*.md")) <= {*listed, index}


def test_decisions_are_numbered_and_say_what_why_and_at_what_cost() -> None:
    pages = sorted((DOCS / "decisions").glob("0*.md"))
    listed = (DOCS / "decisions" / "README.md").read_text(encoding="utf-8")
    for number, page in enumerate(pages, start=1):
        head, *rest = page.read_text(encoding="utf-8").splitlines()
        assert page.name.startswith(f"{number:04}-")
        assert f"- [{head.removeprefix('# ')}]({page.name})" in listed
        for part in ("Status: ", "**Decision.** ", "**Why.** ", "**Cost.** "):
            assert any(line.startswith(part) for line in rest), f"{page.name} lacks {part!r}"


def messages() -> set[str]:
    """Every text in the sources, adjacent pieces joined, ``{}`` for what is filled in."""
    found = set()
    for room in ("core", "adapters"):
        for path in (PROJECT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = [str(getattr(part, "value", "")) for part in node.values
                             if isinstance(part, ast.Constant)]  # fmt: skip
                    found.add("{}".join(parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.add(node.value)
    return found


def test_the_errors_that_concepts_lists_exist() -> None:
    rows = UNSUPPORTED.findall((DOCS / "concepts.md").read_text(encoding="utf-8"))
    texts = messages()
    assert len(rows) >= 19  # the whole table was read
    for error, message in rows:
        assert issubclass(getattr(tokensieve.core.errors, error), tokensieve.TokensieveError)
        assert any(message in text for text in texts), f"no error says {message!r}"


# ------------------------------------------------------------------ docstrings


def public_members(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Public classes and functions that a module defines, and the public parts of its classes."""
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(value) or inspect.isclass(value):
            yield name, value
        if inspect.isclass(value):
            for part, member in vars(value).items():
                function = getattr(member, "__func__", getattr(member, "fget", member))
                if not part.startswith("_") and inspect.isfunction(function):
                    yield f"{name}.{part}", function


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_public_name_has_a_docstring(module: ModuleType) -> None:
    assert (module.__doc__ or "").strip(), "the module"
    bare = [name for name, value in public_members(module) if not (value.__doc__ or "").strip()]
    assert not bare


def test_all_is_what_the_package_offers() -> None:
    assert all(hasattr(tokensieve, name) for name in tokensieve.__all__)  # looked up when used
    names = {name for name, value in vars(tokensieve).items() if not inspect.ismodule(value)}
    public = {name for name in names if not name.startswith("_")} - {"annotations"}
    assert public == set(tokensieve.__all__) - {"__version__"}
    for name in tokensieve.__all__:
        assert getattr(tokensieve, name).__doc__
