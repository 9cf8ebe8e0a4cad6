"""The rooms of the code and the arrows between them, read off its imports.

An arrow goes from the room of a file to the room of what it imports; imports for types and imports
inside functions count like all others.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
FLOORS = (
    ("core",),
    ("core/files",),
    ("core/output", "core/templates"),
    ("core/contract",),
    ("core/gate",),
    ("core/plugins",),
    ("core/pipeline",),
    ("core/models",),
    ("core/engine",),
    ("core/engine/decoder", "core/engine/encoder"),
    ("core/run", "core/testing", "core/bench"),
    ("core/study/lmms",),
    ("core/study/spec",),
    ("core/study/plan",),
    ("core/study/store",),
    ("core/study/work",),
    ("core/study/executors", "core/study/progress"),
    ("core/study",),
    ("core/report/statistics",),
    ("core/report/findings",),
    ("core/report/verdicts",),
    ("core/report/figures", "core/report/tables"),
    ("core/report",),
    ("core/cli",),
)
"""From the ground up: a room imports rooms of lower floors only."""
DOOR = "core/_root"
"""``import tokensieve``: what it holds is looked up when it is used, so it has no floor."""
Arrow = tuple[str, str]


def floor_of(room: str) -> int:
    """The number of a room's floor.

    Raises:
        LookupError: the room is on none.
    """
    for number, rooms in enumerate(FLOORS):
        if room in rooms:
            return number
    raise LookupError(f"{room} is on no floor: add it to FLOORS in docs/rooms.py")


def modules() -> dict[str, Path]:
    """Import name and file of every module, relative to the project's root."""
    found = {}
    for top in ("core", "strategies", "adapters"):
        for path in sorted((ROOT / top).rglob("*.py")):
            file = path.relative_to(ROOT)
            parts = file.with_suffix("").parts
            parts = parts[2:] if parts[:2] == ("core", "_root") else parts
            name = ".".join(["tokensieve", *parts]).removesuffix(".__init__")
            found[name] = file
    return found


def imported(file: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of the project that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                if full in known or node.module in known:
                    yield full if full in known else node.module


def arrows() -> dict[Arrow, list[str]]:
    """From room to room, with the ``file -> module`` pairs that make each arrow."""
    known, found = modules(), dict[Arrow, list[str]]()
    for file in known.values():
        for target in imported(file, known):
            arrow = (file.parent.as_posix(), known[target].parent.as_posix())
            if arrow[0] != arrow[1]:
                found.setdefault(arrow, []).append(f"{file} -> {target}")
    return found


def within_core() -> dict[Arrow, list[str]]:
    """The arrows between rooms of ``core``, the front door aside."""
    return {
        (start, end): pairs
        for (start, end), pairs in arrows().items()
        if start.startswith("core") and end.startswith("core") and DOOR not in (start, end)
    }
