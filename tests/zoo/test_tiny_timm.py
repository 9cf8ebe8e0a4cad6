"""The classifier that ships with the project: what it is, what it sees, how it is pruned."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Call, one_line
from safetensors import safe_open

import tokensieve
from tokensieve.adapters.zoo import tiny_timm
from tokensieve.adapters.zoo.tasks.digit_scenes import scans
from tokensieve.adapters.zoo.tiny_timm import FOLDER, NAME, load_model, make_scene, pixels
from tokensieve.adapters.zoo.training import evaluate_timm, train_timm

SCENES = 1000


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model()


def test_weights_are_small_safetensors() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {"config.json", "model.safetensors"}
    with safe_open(FOLDER / "model.safetensors", "pt") as weights:
        shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]
    assert sum(int(np.prod(shape)) for shape in shapes) == 351_178


def test_it_names_heldout_digits(model: Any) -> None:
    assert train_timm.heldout_accuracy(model, SCENES) >= 0.95


def test_a_scene_is_a_function_of_its_number() -> None:
    one, same, other = make_scene("heldout", 3), make_scene("heldout", 3), make_scene("train", 3)
    assert np.array_equal(one.image, same.image)
    assert not np.array_equal(one.image, other.image)
    assert len(one.patches) == 4
    left, top = one.corner
    assert one.patches[0] == top // 8 * 8 + left // 8


def test_heldout_handwriting_is_not_trained_on() -> None:
    for digit in range(10):
        trained = {scan.tobytes() for scan in scans("train", digit)}
        assert not trained & {scan.tobytes() for scan in scans("heldout", digit)}


def test_the_recipe_is_seeded(tmp_path: Any) -> None:
    recipe = train_timm.VitRecipe(steps=2, batch_size=4, warmup_steps=1)
    first, second = (train_timm.train(recipe, tmp_path).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert json.loads((tmp_path / "log.jsonl").read_text() or "{}") == {}


def test_a_saved_model_is_one_that_timm_loads(tmp_path: Any) -> None:
    model = tiny_timm.build_model().eval()
    train_timm.save(model, tmp_path)
    batch = pixels([make_scene("train", 0).image])
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path)(batch), model(batch))


def test_pruning_it(model: Any) -> None:
    scenes = [make_scene("heldout", number) for number in range(50)]
    half = evaluate_timm.pruned(model, scenes, "cls-attention", 0.5, 4)
    random = evaluate_timm.pruned(model, scenes, "random", 0.5, 4)
    assert half.found.mean() > random.found.mean()
    untouched = evaluate_timm.run(model, scenes, None)
    assert abs(half.right.mean() - untouched.right.mean()) <= 0.04
    gap, low, high = evaluate_timm.difference(half, random)
    assert low <= gap <= high


def test_every_method_of_the_table_runs(model: Any) -> None:
    scenes = [make_scene("heldout", number) for number in range(4)]
    table = evaluate_timm.table(model, scenes, 0.25, 4)
    assert len(table.splitlines()) == 2 + len(evaluate_timm.METHODS)


def test_run_refuses_it_in_one_line(call: Call) -> None:
    one_line(call("run", "--model", NAME), NAME, "classifier of pictures", "attach")


def test_show_knows_its_sizes(call: Call) -> None:
    done = call("show", "random", "--model", NAME)
    assert done.code == 0
    assert "8 encoder blocks of width 64, an image of 64 visual tokens" in done.out
    assert "whole encoder: " in done.out
    assert "tokens per block" in done.out
    assert not [word for word in ("decoder", "layer", "KV", "prefill") if word in done.out]


def test_it_is_attached_like_any_model(model: Any) -> None:
    batch = pixels([make_scene("heldout", 1).image])
    with tokensieve.attach(model, "transprune-ttv-only") as session, torch.no_grad():
        model(batch)
    assert session.trace.stages[-1].after[0] < 64
