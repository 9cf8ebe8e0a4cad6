"""The public door: what it offers, that it is light, and that our own plugins use nothing else."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import api_page
import pytest
import rooms

import tokensieve
import tokensieve.plugin
import tokensieve.testing

ROOT = Path(__file__).parents[2]
DOOR = (tokensieve, tokensieve.plugin, tokensieve.testing)
PUBLIC = {"tokensieve", "tokensieve.plugin", "tokensieve.testing"}


def namespace(module: ModuleType) -> set[str]:
    """Public names that a module holds; those that it looks up when they are first used are there.

    Submodules become attributes of a package when somebody imports them.
    """
    looked_up = {name: getattr(module, name) for name in module.__all__}
    found = {
        name
        for name, value in {**looked_up, **vars(module)}.items()
        if not name.startswith("_") and getattr(value, "__name__", "") != f"tokensieve.{name}"
    }
    return found - {"annotations", "importlib", "typing", "TYPE_CHECKING"}


@pytest.mark.parametrize("module", DOOR, ids=lambda module: module.__name__)
def test_all_is_the_namespace(module: ModuleType) -> None:
    assert namespace(module) == set(module.__all__) - {"__version__"}
    assert set(module.__all__) <= set(dir(module))
    assert len(set(module.__all__)) == len(module.__all__)


@pytest.mark.parametrize("module", DOOR, ids=lambda module: module.__name__)
def test_a_name_that_is_not_there_is_an_attribute_error(module: ModuleType) -> None:
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        module.absent  # noqa: B018 - reading it is the point


def test_the_conformance_suite_has_the_same_names_inside() -> None:
    inside = importlib.import_module("tokensieve.core.testing")
    assert tokensieve.testing.__all__ == inside.__all__


def test_what_two_modules_offer_under_one_name_is_one_thing() -> None:
    both = set(tokensieve.__all__) & set(tokensieve.plugin.__all__)
    assert {"Merger", "Scorer", "Selector", "Task", "View"} <= both
    for name in both:
        assert getattr(tokensieve, name) is getattr(tokensieve.plugin, name)


@pytest.mark.parametrize("module", sorted(PUBLIC))
def test_importing_the_door_loads_no_torch(module: str) -> None:
    code = f"import {module}, sys; print(sorted({{'torch', 'transformers'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("top", ["strategies", "adapters"])
def test_our_own_plugins_use_the_door_only(top: str) -> None:
    """Imports for types and imports inside functions count."""
    known = rooms.modules()
    deeper = [
        f"{file} -> {target}"
        for file in known.values()
        if file.parts[0] == top
        for target in rooms.imported(file, known)
        if target not in PUBLIC and target.split(".")[1] not in ("strategies", "adapters")
    ]
    assert not deeper


# ------------------------------------------------------------------ the page


@pytest.mark.parametrize("module", DOOR, ids=lambda module: module.__name__)
def test_every_name_is_on_the_page(module: ModuleType) -> None:
    """Whether the page is current is a question of ``test_docs``."""
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    part = text.partition(f"\n## `{module.__name__}`\n")[2].partition("\n## ")[0]
    missing = [name for name in module.__all__ if f"`{name}`" not in part]
    assert not missing


@pytest.mark.parametrize("module", sorted(PUBLIC))
def test_every_name_of_a_module_is_in_one_group(module: str) -> None:
    grouped = [name for names in api_page.GROUPS[module].values() for name in names.split()]
    assert sorted(grouped) == sorted(importlib.import_module(module).__all__)


@pytest.mark.parametrize("module", sorted(PUBLIC))
def test_every_name_says_what_it_is(module: str) -> None:
    bare = [
        name
        for name, found in api_page.definitions(module).items()
        if not re.match(r"[A-Z`]", found.doc)
    ]
    assert not bare
