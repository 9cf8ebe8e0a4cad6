"""The studies that come with the project: found by name, valid, and as large as they say."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import Call, one_line

from tokensieve.core.errors import PluginError
from tokensieve.core.plugins.discovery import build_registry
from tokensieve.core.plugins.registry import Registry
from tokensieve.core.study.spec.study import StudySpec, load_study

REGISTRY = build_registry()
FAMILIES = ["tiny-llava-hd", "tiny-qwen2.5-vl", "tiny-internvl"]
FLOORS = {"none", "random", "uniform", "downsample"}


def built_in(name: str) -> StudySpec:
    return load_study(REGISTRY.get("study", name), REGISTRY)


def test_the_quick_study_asks_three_families_at_two_budgets() -> None:
    quick = built_in("quick")
    assert [model.title for model in quick.models] == FAMILIES
    assert len(quick.pipelines) >= 5
    assert len(quick.budgets) == 2
    assert 3 * quick.samples >= 200


def test_the_full_study_has_every_method_of_the_catalog() -> None:
    full = built_in("full")
    catalog = {entry.name for entry in REGISTRY.all("pipeline")} - FLOORS
    assert catalog <= {pipeline.title for pipeline in full.pipelines}
    assert [model.title for model in full.models] == [*FAMILIES, "tiny-timm-vit"]
    assert [task.title for task in full.tasks[:3]] == ["digits", "signs", "needle"]
    assert len(full.budgets) == 4


def test_a_built_in_study_is_named_on_the_command_line(call: Call, tmp_path: Path) -> None:
    shown = call("study", "quick", "--dry-run", "--out", str(tmp_path / "out"))
    assert shown.code == 0
    assert "72 cells, 72 to run" in shown.out
    one_line(call("study", "quik", "--dry-run"), "unknown study 'quik' (did you mean 'quick'?)")
    assert "quick" in call("list", "studies").out


def test_a_file_of_that_name_comes_first(call: Call, tmp_path: Path) -> None:
    Path("quick").write_text("models: [tiny-llava]\ntasks: [digits]\nbudgets: [0.5]\n")
    shown = call("study", "quick", "--dry-run", "--out", str(tmp_path / "out"))
    assert "6 cells" in shown.out


def test_plugins_bring_studies(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("models: [x]\n")
    registry = Registry()
    registry.add_studies(tmp_path)
    assert registry.get("study", "mine") == tmp_path / "mine.yaml"
    with pytest.raises(PluginError, match=r"study files of .*: there is no folder"):
        registry.add_studies(tmp_path / "nowhere")
