"""The versions that we say are the versions that are tried."""

from __future__ import annotations

import json
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
NEEDED = [Requirement(text) for text in PROJECT["dependencies"]]
TESTED = [Requirement(text) for text in [*EXTRAS["test"], *EXTRAS["study"]]]
RUNS = json.loads((ROOT / "docs" / "data" / "versions.json").read_text(encoding="utf-8"))
TOOLS = {"mypy", "ruff", "types-pyyaml"}  # they look at the code, they do not run it


def pins(file: str) -> dict[str, Version]:
    lines = (ROOT / ".ci" / file).read_text(encoding="utf-8").splitlines()
    pinned = [Requirement(line.split("#")[0].strip()) for line in lines if re.match(r"\w", line)]
    found = {}
    for requirement in pinned:
        (only,) = requirement.specifier
        assert only.operator == "==", requirement
        found[requirement.name.lower()] = Version(only.version)
    return found


def lower_bound(requirement: Requirement) -> Version:
    (bound,) = (part for part in requirement.specifier if part.operator == ">=")
    return Version(bound.version)


def test_lower_bounds_are_those_that_ci_installs() -> None:
    lowest = pins("lowest.txt")
    for requirement in [*NEEDED, *TESTED]:
        if requirement.name.lower() not in TOOLS:
            assert lowest[requirement.name.lower()] == lower_bound(requirement), requirement


def test_tested_set_holds_every_dependency() -> None:
    tested = pins("constraints.txt")
    for requirement in [*NEEDED, *TESTED]:
        version = tested[requirement.name.lower()]
        assert requirement.specifier.contains(str(version)), requirement


@pytest.mark.parametrize("file", ["constraints.txt", "lowest.txt", "run", "refresh"])
def test_no_address_of_a_machine(file: str) -> None:
    text = (ROOT / ".ci" / file).read_text(encoding="utf-8")
    assert not re.search(r"https?://|file:|@ |--(extra-)?index|--find-links|/home/|--hash", text)


def test_every_minor_version_between_the_bounds_was_tried() -> None:
    """The cap is the newest minor version whose tests passed, and none in between was left out."""
    (wanted,) = (r for r in NEEDED if r.name == "transformers")
    tried = {Version(run["transformers"]).release[:2] for run in RUNS.values() if not run["failed"]}
    assert not [title for title, run in RUNS.items() if run["failed"] or run["passed"] < 400]
    (cap,) = (Version(p.version) for p in wanted.specifier if p.operator == "<")
    first, last = lower_bound(wanted).release[1], cap.release[1] - 1
    assert tried == {(cap.major, minor) for minor in range(first, last + 1)}


def test_both_pythons_were_tried() -> None:
    minors = {Version(run["python"]).release[:2] for run in RUNS.values()}
    assert minors >= {(3, 11), (3, 13)}
    assert PROJECT["requires-python"] == ">=3.11"


def test_readme_installs_the_tested_set() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^pip install .*$", text, re.MULTILINE)
    assert commands == [
        'pip install -c .ci/constraints.txt -e ".[study]" && tokensieve study quick',
        'pip install -c .ci/constraints.txt -e ".[test]" && pytest',
    ]
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    pattern = re.search(r"grep -m1 -E '(.+)' README\.md", script)
    assert pattern is not None
    assert re.findall(pattern[1], text, re.MULTILINE) == [commands[1]]


def test_this_environment_is_allowed() -> None:
    for requirement in NEEDED:
        installed = metadata.version(requirement.name)
        assert requirement.specifier.contains(installed, prereleases=True), requirement
