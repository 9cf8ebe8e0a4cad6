"""The cells of a study: baselines, budgets over the whole decoder, keys that follow the content."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from study_helpers import RAISING, study_of

from tokensieve.core.contract.dims import DecoderDims
from tokensieve.core.errors import BudgetError
from tokensieve.core.names import BASELINES
from tokensieve.core.pipeline.budgets import Budget
from tokensieve.core.pipeline.flops import decoder_flops
from tokensieve.core.pipeline.loading import load_pipeline
from tokensieve.core.pipeline.pipeline import Pipeline
from tokensieve.core.plugins.discovery import build_registry
from tokensieve.core.study.plan.cells import is_random
from tokensieve.core.study.plan.keys import key_of
from tokensieve.core.study.work.measures import ABOVE, BELOW

DEEP = DecoderDims(32, 4096, 11008, 32, 32, 128)
IMAGE = 576
PRESETS = [entry.name for entry in build_registry().all("pipeline")]


def cost(pipeline: Pipeline, kind: str) -> float:
    schedule = pipeline.schedule(DEEP)
    layers = schedule.per_layer(IMAGE, schedule.counts(IMAGE))
    average = sum(layers) / len(layers)
    full = decoder_flops([IMAGE] * DEEP.layers, DEEP)
    flops = decoder_flops(layers, DEEP) / full
    return {"average": average, "share": average / IMAGE, "flops": flops}[kind]


@pytest.mark.parametrize("budget", [{"average": 192}, 0.3, {"flops": 0.35}], ids=str)
@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "none"])
def test_every_preset_stands_at_the_same_cost(preset: str, budget: Any) -> None:
    wanted = Budget.model_validate(budget)
    reached = cost(load_pipeline(preset).with_keep(wanted, of_decoder=True), wanted.kind)
    assert 0.95 * wanted.value <= reached <= wanted.value + 1e-9


@pytest.mark.parametrize(("at", "tokens"), [(0, 64), ("image", 64), (2, 29)])
def test_one_boundary_keeps_fewer_tokens_the_later_it_cuts(at: Any, tokens: int) -> None:
    score = {} if at == "image" else {"score": "uniform"}
    pipeline = load_pipeline({"at": at, **score, "keep": 0.5})
    schedule = pipeline.with_keep(Budget.model_validate({"average": 64}), of_decoder=True).schedule(
        DEEP
    )
    assert schedule.counts(IMAGE) == [tokens]  # (2 * 576 + 30 * 29) / 32 = 63.2


def test_an_impossible_budget_is_its_own_error() -> None:
    deep = load_pipeline("transprune").with_keep(
        Budget.model_validate({"average": 64}), of_decoder=True
    )
    with pytest.raises(BudgetError, match="is impossible"):
        deep.schedule(DEEP).counts(IMAGE)


def test_random_is_what_has_a_seed() -> None:
    drawn = {name for name in PRESETS if is_random(load_pipeline(name))}
    assert {"random", "divprune+random-deep"} <= drawn
    assert not {"uniform", "fastv", "none", "downsample"} & drawn


def test_baselines_are_always_there_and_only_random_ones_have_seeds() -> None:
    cells = study_of(budgets=[32, 16], seeds=[3, 4, 5]).cells
    counts: dict[str, int] = {}
    for cell in cells:
        name = cell.config["pipeline"]["name"]
        counts[name] = counts.get(name, 0) + 1
    assert counts == {"none": 1, "random": 6, "uniform": 2, "downsample": 2, "fastv": 2}
    assert set(BASELINES) <= set(counts)
    seeds = {c.config["seed"] for c in cells if c.config["pipeline"]["name"] == "random"}
    assert seeds == {3, 4, 5}


def test_a_baseline_that_the_study_names_is_not_run_twice() -> None:
    names = [cell.title for cell in study_of(pipelines=["uniform", "fastv"]).cells]
    assert sum("/ uniform /" in name for name in names) == 1


def test_cells_are_ordered_so_that_a_model_stays_loaded() -> None:
    study = study_of(models=["tiny-llava", {"model": "tiny-llava", "name": "again"}])
    models = [cell.config["model"]["name"] for cell in study.cells]
    assert models == sorted(models, reverse=True)


def test_keys_follow_from_the_configuration_and_nothing_else() -> None:
    first, second = study_of(), study_of(batch=2, name="other")
    assert [cell.key for cell in first.cells] == [cell.key for cell in second.cells]
    for cell in first.cells:
        assert key_of(json.loads(json.dumps(cell.config.plain()))) == cell.key


@pytest.mark.parametrize(
    "change",
    [
        {"max_new_tokens": 4},
        {"budgets": [33]},
        {"tasks": [{"task": "digits", "samples": 7}]},
        {"models": [{"model": "tiny-llava", "dtype": "bfloat16"}]},
        {"models": [{"model": "tiny-llava", "attention": "eager"}]},
        {"pipelines": [{"pipeline": {"at": 2, "score": "attention", "keep": 9}, "name": "fastv"}]},
    ],
    ids=str,
)
def test_what_changes_a_result_changes_the_key(change: dict[str, Any]) -> None:
    before = {cell.title: cell.key for cell in study_of().cells}
    after = {cell.title: cell.key for cell in study_of(**change).cells}
    changed = [title for title in after if before.get(title) != after[title]]
    assert any("fastv" in title for title in changed)


def test_another_version_of_a_plugin_file_is_another_cell(tmp_path: Path) -> None:
    file = tmp_path / "raising.py"
    file.write_text(RAISING)
    pipeline = {"pipeline": {"at": 1, "score": "raising", "keep": 9}, "name": "mine"}

    def keys() -> dict[str, str]:
        cells = study_of([file], pipelines=[pipeline]).cells
        return {cell.title: cell.key for cell in cells}

    before = keys()
    file.write_text(RAISING + "\n# changed\n")
    after = keys()
    assert [title for title in before if before[title] != after[title]] == [
        "tiny-llava / digits / mine / average=32 / seed 0"
    ]


TASK = """
from PIL import Image
import tokensieve

class Grey(tokensieve.Task):
    \"\"\"Grey.\"\"\"

    name = "grey"
    size: int = 8

    def examples(self, count, seed):
        image = Image.new("RGB", (self.size, self.size))
        return [tokensieve.Example(str(n), (image,), "What?", "grey") for n in range(count)]
"""
HOOK = """
@tokensieve.hookimpl
def tokensieve_register(registry):
    registry.add(Grey)
"""


def test_an_edited_component_of_a_checkout_is_another_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    study: dict[str, Any] = {"pipelines": ["fastv", "visionzip"]}
    before = {cell.title: cell.key for cell in study_of(**study).cells}
    file = inspect.getsourcefile

    def edited(component: Any) -> str | None:
        return __file__ if component.__name__ == "AttentionScorer" else file(component)

    monkeypatch.setattr(inspect, "getsourcefile", edited)
    after = {cell.title: cell.key for cell in study_of(**study).cells}
    changed = {title for title, key in after.items() if before[title] != key}
    assert changed == {title for title in after if "fastv" in title}


def test_the_code_of_a_task_is_part_of_its_cells(tmp_path: Path) -> None:
    file = tmp_path / "grey.py"
    changes: dict[str, Any] = {"tasks": [{"task": "grey", "samples": 2}], "pipelines": []}
    keys = []
    for more in ("", "    def score(self, example, answer):\n        return 0.5\n"):
        file.write_text(TASK + more + HOOK)
        keys.append({cell.key for cell in study_of([file], **changes).cells})
    assert not keys[0] & keys[1]


def test_the_code_of_a_scorer_is_part_of_anatomy(tmp_path: Path) -> None:
    file = tmp_path / "raising.py"
    changes: dict[str, Any] = {"pipelines": [], "anatomy": {"scorers": ["raising"], "samples": 1}}
    keys = []
    for more in ("", "# changed\n"):
        file.write_text(RAISING + more)
        cells = study_of([file], **changes).cells
        keys.append({cell.title: cell.key for cell in cells})
    assert [title for title in keys[0] if keys[0][title] != keys[1][title]] == [
        "tiny-llava / digits / anatomy"
    ]


def test_parameters_that_say_nothing_new_change_no_key() -> None:
    keys = [
        {cell.key for cell in study_of(tasks=[{"task": "digits", "samples": 6, **more}]).cells}
        for more in ({}, {"side": 96}, {"side": 144})
    ]
    assert keys[0] == keys[1]
    assert not keys[0] & keys[2]


SHALLOW = {
    "tiny-llava": (DecoderDims(10, 128, 192, 4, 4, 32), 144),
    "tiny-timm-vit": (DecoderDims(8, 64, 192, 4, 4, 16, 2), 64),
}


@pytest.mark.parametrize("share", [0.11, 0.2, 0.22, 0.33, 0.5])
@pytest.mark.parametrize("model", SHALLOW)
@pytest.mark.parametrize("kind", ["share", "average", "flops"])
def test_on_a_shallow_model_a_preset_meets_its_budget_or_says_that_it_cannot(
    kind: str, model: str, share: float
) -> None:
    dims, image = SHALLOW[model]
    plain = {"share": share, "average": {"average": share * image}, "flops": {"flops": share}}
    budget = Budget.model_validate(plain[kind])
    impossible = []
    for preset in (name for name in PRESETS if name != "none"):
        schedule = load_pipeline(preset).with_keep(budget, of_decoder=True).schedule(dims)
        try:
            layers = schedule.per_layer(image, schedule.counts(image))
        except BudgetError:
            impossible.append(preset)
            continue
        average, full = sum(layers) / len(layers), decoder_flops([image] * dims.layers, dims)
        flops = decoder_flops(layers, dims) / full
        reached = {"average": average, "share": average / image, "flops": flops}[kind]
        assert 1 - BELOW <= reached / budget.value <= 1 + ABOVE, preset
    assert not set(impossible) & {"random", "uniform", "downsample"}
    assert bool(impossible) == (share < 0.22 or (share == 0.22 and "timm" in model))


def test_planning_needs_no_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from study_helpers import study_of\n"
        "study_of(); assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1] / "helpers", check=True
    )
