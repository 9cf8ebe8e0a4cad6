"""The floors that every method has to beat: random and evenly spread tokens.

There is no formula to compare with, so these are the properties that make them fair.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import tiny_models
import torch
from references.compare import SIDE, big_llava, big_prompt, model_of, run_ours
from tiny_models import DEFAULT_IMAGES, Prompt

import tokensieve


def kept_by(
    pipeline: Any, inputs: dict[str, Any], model: Any, **options: Any
) -> list[list[list[int]]]:
    trace = run_ours(model, inputs, pipeline, **options).trace
    return [[row.tolist() for row in stage.kept] for stage in trace.stages]


@pytest.mark.parametrize("family", ["llava", "qwen-vl", "internvl", "llava-pixtral"])
def test_random_does_not_depend_on_the_batch_and_is_nested(family: str) -> None:
    model = model_of(family)
    small, large = DEFAULT_IMAGES[family]
    prompts = [Prompt(3, (small,), 5, seed=1), Prompt(6, (large, small), 2, seed=2)]
    pipeline = {"at": [0, 2, 4], "score": "random", "keep": [0.75, 0.5, 0.25]}
    run = partial(kept_by, pipeline, model=model, seed=5)
    together = run(tiny_models.inputs(family, prompts))
    for sample, prompt in enumerate(prompts):
        for side in ("left", "right"):
            alone = run(tiny_models.inputs(family, [prompt], side=side))
            assert [stage[sample] for stage in together] == [stage[0] for stage in alone]
    for earlier, later in pairwise(together):
        assert all(set(b) < set(a) for a, b in zip(earlier, later, strict=True))


def test_random_seeds_differ_and_repeat() -> None:
    model, inputs = big_llava(), big_prompt()
    kept = [tuple(kept_by("random", inputs, model, seed=seed)[0][0]) for seed in (0, 1, 2, 0)]
    assert kept[0] == kept[3]
    assert len({*kept[:3]}) == len(kept[:3])


def test_random_gives_every_token_the_same_chance() -> None:
    """Over 600 seeds each of 16 tokens is kept a quarter of the time, within five sigma."""
    scorer = tokensieve.load_pipeline({"at": 0, "score": "random", "keep": 4}).stages[0].score[0]
    index, counts, rounds = torch.arange(16)[None], torch.zeros(16), 600
    for seed in range(rounds):
        view = tokensieve.View(index >= 0, index, {}, keys=[seed * 7919])
        counts[scorer.scorer.score(view)[0].topk(4).indices] += 1
    sigma = (rounds * 0.25 * 0.75) ** 0.5
    assert (counts - rounds / 4).abs().max() < 5 * sigma


@pytest.mark.parametrize(("tokens", "step"), [(144, 2), (36, 4), (9, 8)])
def test_uniform_is_a_regular_grid_where_one_fits(tokens: int, step: int) -> None:
    kept = kept_by({"at": 0, "score": "uniform", "keep": tokens}, big_prompt(), big_llava())[0][0]
    assert kept == [
        row * SIDE + column for row in range(0, SIDE, step) for column in range(0, SIDE, step)
    ]


@pytest.mark.parametrize("tokens", [20, 50, 100, 127, 200, 333, 500])
def test_uniform_covers_every_quarter_of_the_picture_alike(tokens: int) -> None:
    kept = kept_by({"at": 0, "score": "uniform", "keep": tokens}, big_prompt(), big_llava())[0][0]
    half = SIDE // 2
    quarters = [0, 0, 0, 0]
    for token in kept:
        row, column = divmod(token, SIDE)
        quarters[2 * (row >= half) + (column >= half)] += 1
    assert max(quarters) - min(quarters) <= max(4, 0.12 * tokens)
