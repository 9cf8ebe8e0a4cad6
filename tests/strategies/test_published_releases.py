"""Rules of the released code that a parameter chooses, and schedules of other depths."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import tiny_models
import torch
from published_cases import at_input, both_ways, seeing
from references import inside, published
from references.compare import big_prompt, model_of
from references.published import rewritten
from references.vision import Encoded

import tokensieve


def test_prumerge_plus_with_its_ratio_of_8() -> None:
    """72 by attention and 72 on the grid, of which some are the same, and one extra token."""
    stages = at_input(lambda images: published.prumerge(images, ratio=8))
    both = both_ways(seeing(), big_prompt(seed=1), "prumerge-plus-8", stages, reindex=True)
    rows = both.expected[0].runs[0].rows
    torch.testing.assert_close(both.entered[0], rows.hidden, rtol=0, atol=1e-9)
    order = [token for token in rows.visual if token is not None]
    assert both.trace.stages[0].order[0].tolist() == order[:-1]
    assert 72 + 1 < both.trace.stages[0].after[0] == len(order) <= 145


def test_sparsevlm_on_16_layers_as_it_was_released() -> None:
    """Behind layers 2, 6 and 15 is at 3, 7 and 16: the last cut is behind the last layer."""
    model = model_of("llava", num_hidden_layers=16)
    inputs = tiny_models.inputs("llava", [tiny_models.Prompt(4, (1,), 6, seed=6)])
    (stage,) = tokensieve.load_pipeline("sparsevlm").to_plain()["stages"]
    rule = inside.sparse_attention()
    stages = [
        (at, rewritten(inside.recycled(rule, count), reindex=True))
        for at, count in ((3, 8), (7, 5), (16, 2))
    ]
    three = {"positions": "reindex", "stages": [{**stage, "at": [3, 7, 16], "keep": [9, 6, 3]}]}
    both = both_ways(model, inputs, three, stages, reindex=True)
    assert [stage.after for stage in both.trace.stages] == [[9], [6], [3]]
    assert both.trace.stages[2].order[0].tolist() == both.expected[0].kept[2]
    assert both.trace.per_layer[0][7:] == [6] * 9
    two = {"positions": "reindex", "stages": [{**stage, "at": [3, 7], "keep": [9, 6]}]}
    answer = both_ways(model, inputs, two, stages[:2], reindex=True).expected[0].logits[-1]
    torch.testing.assert_close(both.expected[0].logits[-1], answer, rtol=0, atol=0)
    preset = tokensieve.load_pipeline("sparsevlm")
    assert [preset.boundaries(depth) for depth in (16, 17)] == [[2, 4, 8], [3, 7, 16]]


def test_the_released_vscan_keeps_68_of_72() -> None:
    """Two of each window, 36 from anywhere; the preset itself keeps 72."""
    plain = tokensieve.load_pipeline("vscan").to_plain()
    first = {**plain["stages"][0], "keep": 72}
    first["select"] = {**first["select"], "rest": "drop"}

    def stages(images: Sequence[Encoded]) -> Any:
        pick = partial(published.vscan, count=72, released=True)
        return [(0, rewritten(published.absorbed(lambda n: pick(images[n])), reindex=True))]

    pipeline = {"positions": "reindex", "stages": [first]}
    both = both_ways(seeing(), big_prompt(seed=1), pipeline, stages, reindex=True)
    assert both.trace.stages[0].after == [68]
