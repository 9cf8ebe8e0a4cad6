"""What is in the wheel, and who may import whom."""

from __future__ import annotations

import ast
import fnmatch
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("core", "strategies", "adapters")
FORBIDDEN = {
    "core": {"strategies", "adapters"},
    "strategies": {"adapters"},
    "adapters": {"strategies"},
}
OUTSIDE = (
    "tokensieve.adapters.zoo.training",
)  # how checkpoints came about, for who has the source
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def folders() -> Iterator[tuple[str, Path]]:
    """Import name and folder of every package in the tree."""
    for room in ROOMS:
        for init in sorted((ROOT / room).rglob("__init__.py")):
            folder = init.parent.relative_to(ROOT)
            if folder == Path("core/_root"):
                yield "tokensieve", init.parent
            else:
                yield ".".join(["tokensieve", *folder.parts]), init.parent


PACKAGES = dict(folders())


def test_every_package_folder_is_in_the_wheel() -> None:
    assert sorted([*SETUPTOOLS["packages"], *OUTSIDE]) == sorted(PACKAGES)


def test_every_folder_with_python_files_is_a_package() -> None:
    bare = {
        path.parent
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        if not (path.parent / "__init__.py").exists()
    }
    assert not bare


def test_every_data_file_is_in_the_wheel() -> None:
    left_out = [path for path in data_files() if not is_package_data(path)]
    assert not left_out


def data_files() -> list[Path]:
    return [
        path
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*"))
        if path.is_file() and path.suffix not in (".py", ".pyc")
    ]


def is_package_data(path: Path) -> bool:
    for name, patterns in SETUPTOOLS["package-data"].items():
        if path.is_relative_to(PACKAGES[name]):
            inside = PurePosixPath(path.relative_to(PACKAGES[name]).as_posix())
            if any(fnmatch.fnmatch(str(inside), p.replace("**/", "")) for p in patterns):
                return True
    return False


def test_a_data_file_outside_the_patterns_would_be_noticed() -> None:
    assert is_package_data(ROOT / "strategies/pipelines/fastv.yaml")
    assert is_package_data(ROOT / "adapters/zoo/checkpoints/tiny-llava/config.json")
    assert not is_package_data(ROOT / "strategies/scorers/table.csv")
    assert not is_package_data(ROOT / "core/fastv.yaml")


@pytest.mark.parametrize("room", ROOMS)
def test_arrows_between_the_rooms(room: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in sorted((ROOT / room).rglob("*.py"))
        for line, name in imports(path)
        if name.split(".")[0] == "tokensieve" and set(name.split(".")[1:2]) & FORBIDDEN[room]
    ]
    assert not wrong


def test_core_does_not_import_the_root_package_that_imports_it() -> None:
    circles = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / "core").rglob("*.py"))
        for line, name in imports(path, top_level_only=True)
        if name == "tokensieve"
    ]
    assert not circles


def imports(path: Path, *, top_level_only: bool = False) -> Iterator[tuple[int, str]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module
            if node.module == "tokensieve":
                yield from ((node.lineno, f"tokensieve.{alias.name}") for alias in node.names)


def test_no_module_is_imported_twice_under_a_bare_name() -> None:
    """``import core`` works in the repository's root and would make a second ``Registry``."""
    code = (
        "import sys, tokensieve, tokensieve.core.cli\n"
        "from tokensieve.core.plugins.discovery import build_registry\n"
        "build_registry()\n"
        "print([n for n in ('core', 'strategies', 'adapters') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def code_strings(path: Path) -> list[str]:
    """String constants of a module, docstrings and field descriptions left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    prose = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    prose |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.keyword)}
    found = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in prose]
    return [node.value.lower() for node in found if isinstance(node.value, str)]


@pytest.mark.parametrize("path", sorted((ROOT / "strategies").rglob("*.py")), ids=lambda p: p.stem)
def test_no_strategy_knows_a_model(path: Path) -> None:
    names = ("llava", "qwen", "internvl", "vicuna", "clip_vision", "siglip")
    assert not [text for text in code_strings(path) for name in names if name in text]
