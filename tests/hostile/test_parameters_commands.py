"""Hostile numbers for commands: options, sizes of studies, sizes in a model's config."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import Call, clear, one_line
from study_helpers import spec_of

from tokensieve.core.errors import ModelError, StudyError
from tokensieve.core.models.config_limits import check_config
from tokensieve.core.plugins.discovery import build_registry
from tokensieve.core.study.plan import cells as grid
from tokensieve.core.study.plan.cells import check_count, count_cells, plan
from tokensieve.core.study.plan.keys import key_of

SECONDS = 20.0
"""A refusal may take, without Python's own start."""


def timed(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


# ------------------------------------------------------------------ options

NO_NUMBERS = {
    "underscore": "1_000", "word": "many", "true": "true", "empty": "",
    "space": " 5", "float": "5.0",
    "power": "1e3", "hex": "0x10", "inf": "inf", "nan": "nan",
    "arabic": "\u0665", "full-width": "\uff15",
    "superscript": "\u00b2", "minus": "-1", "wide": "9" * 25, "thousands-of-digits": "9" * 5000,
    "plus-minus": "+-1", "list": "[5]", "escape": "\x1b[31m5", "newline": "5\n",
}  # fmt: skip
OPTIONS = {
    "run --seed": ["run", "--seed"],
    "run --max-new-tokens": ["run", "--max-new-tokens"],
    "run --repeats": ["run", "--repeats"],
    "show --tokens": ["show", "fastv", "--model", "tiny", "--tokens"],
    "study --samples": ["study", "--model-id", "tiny-llava", "--task", "digits", "--samples"],
    "study --batch": ["study", "--model-id", "tiny-llava", "--task", "digits", "--batch"],
    "study --workers": ["study", "--model-id", "tiny-llava", "--task", "digits", "--workers"],
    "study --max-new-tokens": ["study", "--model-id", "x", "--task", "y", "--max-new-tokens"],
    "bench --batch": ["bench", "--size", "tiny", "--batch"],
    "bench --text-tokens": ["bench", "--size", "tiny", "--text-tokens"],
    "bench --decode-tokens": ["bench", "--size", "tiny", "--decode-tokens"],
    "bench --runs": ["bench", "--size", "tiny", "--runs"],
    "bench --warmup": ["bench", "--size", "tiny", "--warmup"],
}


@pytest.mark.parametrize("value", NO_NUMBERS.values(), ids=NO_NUMBERS)
@pytest.mark.parametrize("option", OPTIONS)
def test_options_take_plain_whole_numbers(option: str, value: str, call: Call) -> None:
    *before, name = OPTIONS[option]
    one_line(call(*before, f"{name}={value}"), name, "a whole number from")


KEEPS = {
    "true": "true", "nan": ".nan", "inf": ".inf", "minus-inf": "-.inf", "wide": "9" * 25,
    "above": "1000001", "zero": "0", "minus": "-3", "share-above": "1.5", "share-zero": "0.0",
    "underscore": "1_000", "average-nan": "average=.nan", "average-text": "average=many",
    "average-zero": "average=0", "flops-above": "flops=2", "flops-true": "flops=true",
    "two-kinds": "{share: 0.5, flops: 0.5}", "unknown-kind": "percent=50", "list": "[5]",
    "tokens-fraction": "tokens=2.5", "share-text": "share='0.5'", "average-inf": "average=.inf",
}  # fmt: skip


@pytest.mark.parametrize("value", KEEPS.values(), ids=KEEPS)
def test_budgets_on_the_command_line(value: str, call: Call) -> None:
    one_line(call("show", "fastv", f"--keep={value}"))
    given = ["study", "--model-id", "tiny-llava", "--task", "digits", f"--budget={value}"]
    one_line(call(*given))


# ------------------------------------------------------------------ how many cells

MANY: dict[str, dict[str, Any]] = {
    "budgets": {"budgets": [n / 20_000 for n in range(1, 9_001)], "seeds": list(range(20))},
    "seeds": {"budgets": [n / 1000 for n in range(1, 101)], "seeds": list(range(1000))},
    "tasks": {
        "tasks": [{"task": "digits", "name": f"t{n}"} for n in range(1000)],
        "budgets": [n / 100 for n in range(1, 50)],
    },
    "models": {
        "models": [{"model": "tiny-llava", "name": f"m{n}"} for n in range(1000)],
        "budgets": [n / 100 for n in range(1, 50)],
    },
    "pipelines": {
        "pipelines": [{"pipeline": "fastv", "name": f"p{n}"} for n in range(300)],
        "budgets": [n / 1000 for n in range(1, 401)],
    },
    "random-pipelines": {
        "pipelines": [{"pipeline": "random", "name": f"p{n}"} for n in range(40)],
        "budgets": [n / 100 for n in range(1, 51)],
        "seeds": list(range(60)),
    },
}


@pytest.mark.parametrize("case", MANY)
def test_a_study_of_too_many_cells_is_refused_before_it_is_planned(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(**MANY[case])
    for work in ("known_tasks", "model_identity", "pipeline_identity", "code_of"):
        monkeypatch.setattr(grid, work, None)  # none of them is called
    with pytest.raises(StudyError) as caught:
        assert timed(lambda: plan(spec, build_registry(), most=100_000)) < SECONDS
    clear(str(caught.value), "cells, more than 100,000", "--yes")


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_the_command_refuses_it_in_one_line(dry: list[str], call: Call, tmp_path: Path) -> None:
    budgets = [n / 20_000 for n in range(1, 9_001)]
    study: dict[str, Any] = {"models": "tiny-llava", "tasks": "digits", "budgets": budgets}
    study["seeds"] = list(range(20))
    (tmp_path / "large.yaml").write_text(yaml.safe_dump(study, default_flow_style=True))
    one_line(call("study", "large.yaml", *dry), "more than 100,000", "--yes")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("cells", "most"), [(100_000, 100_000), (0, 1), (10**9, None)])
def test_as_many_cells_as_are_allowed(cells: int, most: int | None) -> None:
    check_count(cells, most)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"budgets": [0.1, 0.2, {"flops": 0.3}]},
        {"seeds": [4, 5, 6, 7]},
        {"pipelines": ["random", "fastv", "none"]},
        {"anatomy": {"samples": 2, "scorers": ["ttv"]}},
        {"tasks": [{"task": "digits", "samples": 1}, {"task": "signs", "samples": 1}]},
        {"models": ["tiny-llava", {"model": "tiny-llava", "name": "other"}]},
    ],
    ids=lambda changes: ",".join(changes) or "small",
)
def test_the_count_is_that_of_the_plan(changes: dict[str, Any]) -> None:
    """And every key is that of its configuration alone."""
    registry, spec = (
        build_registry(),
        spec_of(**{"tasks": [{"task": "digits", "samples": 1}]} | changes),
    )
    cells = plan(spec, registry)
    assert count_cells(spec, grid._with_baselines(spec, registry)) == len(cells)
    assert all(cell.key == key_of(json.loads(json.dumps(cell.config.plain()))) for cell in cells)


def test_planning_takes_time_in_proportion() -> None:
    """Ten times the cells, no more than thirty times the time: it was quadratic in the budgets."""
    registry, seconds = build_registry(), []
    for count in (40, 400):
        budgets = [0.1 + 0.8 * n / count for n in range(count)]
        spec = spec_of(budgets=budgets, tasks=[{"task": "digits", "samples": 1}])
        plan(spec, registry)
        seconds.append(min(timed(partial(plan, spec, registry)) for _ in range(2)))
    assert seconds[1] < 30 * max(seconds[0], 0.02)


# ------------------------------------------------------------------ sizes in a config

SIZES = ("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads",
         "vocab_size", "intermediate_size", "head_dim")  # fmt: skip
VISION = ("num_hidden_layers", "hidden_size", "num_attention_heads", "image_size", "patch_size",
          "intermediate_size", "num_channels")  # fmt: skip
WRONG = {"1e7": 10**7, "1e12": 10**12, "wide": 10**30, "digits": 10**5000, "minus": -1,
         "float": 1e9, "inf": math.inf, "nan": math.nan}  # fmt: skip
PLAIN: dict[str, Any] = {
    "model_type": "llava",
    "text_config": {"model_type": "llama", "num_hidden_layers": 4, "hidden_size": 64,
                    "num_attention_heads": 4, "vocab_size": 512, "intermediate_size": 96},
    "vision_config": {"model_type": "clip_vision_model", "image_size": 56, "patch_size": 14,
                      "hidden_size": 24, "num_hidden_layers": 3},
}  # fmt: skip


def with_size(part: str, key: str, value: Any) -> dict[str, Any]:
    changed: dict[str, Any] = json.loads(json.dumps(PLAIN))
    changed[part][key] = value
    return changed


def test_a_plain_config_is_one() -> None:
    check_config("plain", PLAIN)


@pytest.mark.parametrize("value", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize(
    ("part", "key"),
    [*(("text_config", key) for key in SIZES), *(("vision_config", key) for key in VISION)],
)
def test_sizes_that_no_model_has(part: str, key: str, value: Any) -> None:
    with pytest.raises(ModelError) as caught:
        check_config("mine", with_size(part, key, value))
    clear(str(caught.value), "config.json", f"{part}.{key}", "mine")


@pytest.mark.parametrize(
    ("part", "sizes"),
    [
        ("text_config", {"num_hidden_layers": 1000, "hidden_size": 200_000}),
        ("text_config", {"vocab_size": 10**6, "hidden_size": 262_144, "num_hidden_layers": 900}),
        ("text_config", {"intermediate_size": 262_144, "hidden_size": 131_072,
                         "num_hidden_layers": 900}),
        ("vision_config", {"image_size": 16_384, "patch_size": 1}),
        ("vision_config", {"image_size": [16_384, 16_384], "patch_size": [2, 2]}),
        ("vision_config", {"patch_size": 128, "num_channels": 1_000}),
    ],
)  # fmt: skip
def test_sizes_that_no_model_has_together(part: str, sizes: dict[str, Any]) -> None:
    config = json.loads(json.dumps(PLAIN))
    config[part].update(sizes)
    with pytest.raises(ModelError) as caught:
        check_config("mine", config)
    clear(str(caught.value), "config.json", part)


COMMANDS = {
    "show": ["show", "fastv", "--model", "model"],
    "doctor": ["doctor", "model"],
    "run": ["run", "--model", "model"],
    "study": ["study", "--model-id", "model", "--task", "digits", "--dry-run"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("part", "key"),
    [("text_config", "num_hidden_layers"), ("text_config", "hidden_size"),
     ("text_config", "num_attention_heads"), ("text_config", "vocab_size"),
     ("vision_config", "image_size"), ("vision_config", "num_hidden_layers")],
)  # fmt: skip
def test_commands_refuse_them_from_the_config_alone(
    command: str, part: str, key: str, call: Call, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    text = json.dumps(with_size(part, key, 10**7))
    (tmp_path / "model" / "config.json").write_text(text)
    result = None

    def run() -> None:
        nonlocal result
        result = call(*COMMANDS[command])

    assert timed(run) < SECONDS  # the machine of the tests is shared
    assert result is not None
    assert result.code == 2
    clear(result.err, f"{part}.{key}", "10000000")


LAYERS: dict[str, dict[str, Any]] = {"feature-layer": {"vision_feature_layer": -(10**7)}, "list": {"depths": [10**7]},
          "experts": {"num_experts": 10**9}, "nested": {"a": {"b": {"num_layers": 10**8}}},
          "positions": {"max_position_embeddings": 10**12}, "labels": {"num_labels": 10**9},
          "timm": {"model_args": {"depth": 10**7}},
          "timm-width": {"model_args": {"embed_dim": 10**8}},
          "merge": {"vision_config": {"spatial_merge_size": 10**4}},
          "tokens": {"image_seq_length": 10**9}}  # fmt: skip


@pytest.mark.parametrize("case", LAYERS)
def test_sizes_wherever_they_stand(case: str) -> None:
    with pytest.raises(ModelError) as caught:
        check_config("mine", {**PLAIN, **LAYERS[case]})
    clear(str(caught.value), "config.json", "mine")
