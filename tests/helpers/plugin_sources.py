"""Plugins as source text, written to files or installed as distributions."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tokensieve.plugin import Registry

HOOK = "@tokensieve.hookimpl\ndef tokensieve_register(registry):\n"


def scorer_source(name: str, result: str = "view.hidden.norm(dim=-1)") -> str:
    return textwrap.dedent(
        f'''\
        import tokensieve

        class Found(tokensieve.Scorer):
            """Rank visual tokens somehow."""
            name = "{name}"
            needs = frozenset({{"hidden"}})
            def score(self, view):
                return {result}

        '''
    )


def good_source(name: str) -> str:
    return f"{scorer_source(name)}{HOOK}    registry.add(Found)\n"


def write(path: Path, source: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source, encoding="utf-8")
    return path


def install(site: Path, monkeypatch: pytest.MonkeyPatch, dist: str, source: str) -> None:
    """Make ``dist`` an installed distribution with one module and one entry point."""
    module = dist.replace("-", "_")
    write(site / f"{module}.py", source)
    info = site / f"{module}-1.0.dist-info"
    write(info / "METADATA", f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.0\n")
    write(info / "entry_points.txt", f"[tokensieve]\nown = {module}\n")
    monkeypatch.syspath_prepend(str(site))


def scorers(registry: Registry) -> dict[str, str]:
    return {entry.name: entry.owner for entry in registry.all("scorer")}
