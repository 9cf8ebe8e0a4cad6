"""Arrows between the rooms of the code run one way; plugins of ours use the public door only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import rooms

ROOT = Path(__file__).parents[2]


def test_every_arrow_goes_down() -> None:
    upward = [
        pair
        for (start, end), pairs in rooms.within_core().items()
        for pair in pairs
        if rooms.floor_of(start) <= rooms.floor_of(end)
    ]
    assert not upward


def test_an_arrow_upward_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Types and imports inside functions count."""
    (tmp_path / "core/files").mkdir(parents=True)
    (tmp_path / "core/cli").mkdir()
    for top in ("strategies", "adapters"):
        (tmp_path / top).mkdir()
    (tmp_path / "core/cli/app.py").write_text("app = 1\n")
    (tmp_path / "core/files/text.py").write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from tokensieve.core.cli.app import app\n"
        "def late():\n    from tokensieve.core.cli import app\n    return app\n"
    )
    monkeypatch.setattr(rooms, "ROOT", tmp_path)
    pairs = rooms.within_core()[("core/files", "core/cli")]
    assert pairs == ["core/files/text.py -> tokensieve.core.cli.app"] * 2


def test_no_two_files_import_each_other() -> None:
    known = rooms.modules()
    graph = {name: set(rooms.imported(file, known)) - {name} for name, file in known.items()}
    while True:  # take away what imports nothing that is left, until nothing can be taken
        leaves = {name for name, targets in graph.items() if not targets & graph.keys()}
        if not leaves:
            break
        graph = {name: targets for name, targets in graph.items() if name not in leaves}
    assert not {name: sorted(targets & graph.keys()) for name, targets in graph.items()}


@pytest.mark.parametrize("room", [room for floor in rooms.FLOORS for room in floor])
def test_a_room_says_what_is_not_in_it(room: str) -> None:
    text = ast.get_docstring(ast.parse((ROOT / room / "__init__.py").read_text(encoding="utf-8")))
    assert "\n\nNot here: " in (text or "")


def test_flat_files_are_few() -> None:
    assert len(list((ROOT / "core").glob("*.py"))) <= 8
