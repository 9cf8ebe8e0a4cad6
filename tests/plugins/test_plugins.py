"""Plugins come in by one door, are reported by name when they break, and leave nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import torch
from plugin_sources import HOOK, good_source, install, scorer_source, scorers

import tokensieve
from tokensieve.core.contract.view import View
from tokensieve.core.errors import PipelineError, PluginError
from tokensieve.core.plugins import discovery as plugins
from tokensieve.core.plugins.discovery import build_registry
from tokensieve.core.plugins.registry import PROJECT, Registry


@pytest.fixture(autouse=True)
def _fresh_registry() -> Iterator[None]:
    plugins._build.cache_clear()
    yield
    plugins._build.cache_clear()


def test_built_ins_come_through_the_entry_point_group(monkeypatch: pytest.MonkeyPatch) -> None:
    built_in = build_registry()
    assert set(scorers(built_in).values()) == {PROJECT}
    assert list(built_in.all("adapter"))
    assert list(built_in.all("pipeline"))

    points = [p for p in entry_points(group=PROJECT) if p.value.endswith(".adapters")]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points)
    plugins._build.cache_clear()
    only_adapters = build_registry()
    assert not scorers(only_adapters)
    assert list(only_adapters.all("adapter"))


def test_source_that_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "entry_points", lambda group: [])
    with pytest.raises(PluginError, match=r"not installed.*pip install -e \."):
        build_registry()


def test_installed_plugin_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "acme-sieve-good", good_source("acme"))
    registry = build_registry()
    assert scorers(registry)["acme"] == "acme-sieve-good"
    assert not registry.problems
    pipeline = tokensieve.load_pipeline({"at": 1, "score": "acme", "keep": 0.5})
    assert pipeline.stages[0].score[0].scorer.name == "acme"


BREAKAGES = {
    "raises-on-import": "raise RuntimeError('no licence')\n",
    "exits-on-import": "import sys\nsys.exit('bye')\n",
    "syntax-error": "def broken(:\n",
    "missing-import": "import a_module_that_nobody_has\n",
    "without-hook": "VALUE = 1\n",
    "misspelt-hook": "import tokensieve\n@tokensieve.hookimpl\ndef tokensieve_regster(registry):\n"
    "    pass\n",
    "hook-raises": f"import tokensieve\n{HOOK}    raise RuntimeError('no licence')\n",
    "hook-exits": f"import tokensieve\n{HOOK}    raise SystemExit(0)\n",
    "half-registers": f"{scorer_source('half')}{HOOK}    registry.add(Found)\n    1 / 0\n",
    "takes-a-name": good_source("ttv"),
}


@pytest.mark.parametrize("case", BREAKAGES)
def test_broken_plugin_is_reported_by_name_and_stops_nobody_else(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, good = f"broken-{case}", f"good-beside-{case}"
    before = {kind: set(named) for kind, named in build_registry().entries.items()}
    plugins._build.cache_clear()
    install(tmp_path, monkeypatch, broken, BREAKAGES[case])
    install(tmp_path, monkeypatch, good, good_source("survivor"))

    registry = build_registry()
    (problem,) = registry.problems
    assert broken in problem
    assert "left out" in problem
    assert "\n" not in problem
    after = {kind: set(named) for kind, named in registry.entries.items()}
    assert after == {**before, "scorer": before["scorer"] | {"survivor"}}


def test_unknown_scorer_mentions_the_plugin_that_was_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, "broken-owner", "raise RuntimeError('no licence')\n")
    with pytest.raises(PipelineError, match=r"unknown scorer 'wanted'.*'broken-owner'.*no licence"):
        tokensieve.load_pipeline({"at": 1, "score": "wanted", "keep": 0.5})


def test_broken_built_in_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(registry: Registry, module: Any, owner: str) -> None:
        raise PluginError("broken")

    monkeypatch.setattr(plugins, "_register", fail)
    with pytest.raises(PluginError, match="broken"):
        build_registry()


def test_failed_registration_leaves_nothing_behind() -> None:
    class Early(tokensieve.Scorer):
        """Comes before the failure."""

        name = "early"

        def score(self, view: View) -> torch.Tensor:
            return view.hidden[..., 0]

    class Plugin:
        @tokensieve.hookimpl
        def tokensieve_register(self, registry: Registry) -> None:
            registry.add(Early)
            registry.add_model("early", Path("early"))
            raise RuntimeError("too late")

    registry = Registry()
    with pytest.raises(PluginError, match=r"plugin 'plug' failed.*too late"):
        plugins._register(registry, Plugin(), "plug")  # type: ignore[arg-type]
    assert not any(registry.entries.values())
    assert registry.owner == PROJECT
