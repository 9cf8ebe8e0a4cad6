"""Scorers and selectors give what the published formulas give, on every model family.

The formulas are those of ``tests/references``: float64, one sample at a time, written from the
papers. Batches here have two prompts of different length with different numbers of images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from references import formulas, forward
from references.compare import Both, Stages, model_of, run_ours, run_theirs
from references.forward import Score
from references.vision import Encoded
from tiny_models import DEFAULT_IMAGES, FAMILIES, Prompt

import tokensieve
from tokensieve.core.contract.view import View

DEPTH = tiny_models.DEPTH
TOLERANCE = {"qwen-vl": 2e-5}  # Hugging Face turns Qwen's vision queries and keys in float32


def vision_scores(images: Sequence[Encoded]) -> Score:
    return forward.fixed([image.attention.sum(axis=0) for image in images])


SCORES: dict[str, tuple[int, Any, Callable[[Sequence[Encoded]], Score]]] = {
    "ttv": (3, {"scorer": "ttv", "layers": [1, 2]}, lambda _: forward.ttv("code", first=1)),
    "ttv-paper": (
        3,
        {"scorer": "ttv", "variant": "paper", "layers": [0, DEPTH]},
        lambda _: forward.ttv("paper"),
    ),
    "ttv-block": (
        3,
        {"scorer": "ttv", "variant": "block", "layers": [1, 2]},
        lambda _: forward.ttv("block", first=1),
    ),
    "ttv-one-layer": (4, "ttv", lambda _: forward.ttv(first=3)),
    "iga": (2, "iga", lambda _: forward.iga()),
    "attention": (2, "attention", lambda _: forward.attention("last")),
    "attention-after-image": (
        DEPTH - 1,
        {"scorer": "attention", "rows": "after-image-text"},
        lambda _: forward.attention("after-image-text"),
    ),
    "attention-all-text": (
        1,
        {"scorer": "attention", "rows": "all-text"},
        lambda _: forward.attention("all-text"),
    ),
    "cls-attention": (0, "cls-attention", vision_scores),
}


def two_prompts(family: str, after: int = 5) -> list[Prompt]:
    small, large = DEFAULT_IMAGES[family]
    return [Prompt(3, (small, large), after, seed=1), Prompt(6, (large,), 2, seed=2)]


def half(scores: formulas.Array, _image: int) -> list[int]:
    return formulas.top_k(scores, formulas.share(len(scores), 0.5))


def compared(
    family: str,
    prompts: list[Prompt],
    pipeline: dict[str, Any],
    stages: Callable[[Sequence[Encoded]], Stages],
    side: str = "left",
) -> Both:
    """A batch under ours, its samples one by one under the references."""
    model, reindex = model_of(family), pipeline.get("positions") == "reindex"
    both = run_ours(model, tiny_models.inputs(family, prompts, side=side), pipeline)
    both.expected = [
        run_theirs(model, tiny_models.inputs(family, [prompt]), stages, reindex=reindex)
        for prompt in prompts
    ]
    return both


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("images", [0, 1, 2])
def test_reference_without_stages_is_the_untouched_model(family: str, images: int) -> None:
    model = model_of(family)
    prompt = Prompt(3, DEFAULT_IMAGES[family][:images], 5, seed=images)
    inputs = tiny_models.inputs(family, [prompt])
    with torch.no_grad():
        expected = model(**inputs).logits[0]
    reference = run_theirs(model, inputs, lambda _: [], reindex=False)
    torch.testing.assert_close(reference.logits, expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("case", SCORES)
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_and_kept_tokens_follow_the_formula(family: str, case: str, side: str) -> None:
    boundary, spelling, reference = SCORES[case]
    both = compared(
        family,
        two_prompts(family),
        {"at": boundary, "score": spelling, "keep": 0.5},
        lambda images: [(boundary, reference(images), half)],
        side=side,
    )
    both.assert_same_scores(TOLERANCE.get(family, 1e-6))
    both.assert_same_tokens()
    both.assert_same_logits(TOLERANCE.get(family, 1e-6))


@pytest.mark.parametrize("case", ["iga", "attention-after-image"])
@pytest.mark.parametrize("family", FAMILIES)
def test_last_prompt_token_asks_where_no_text_follows_the_image(family: str, case: str) -> None:
    boundary, spelling, reference = SCORES[case]
    image = DEFAULT_IMAGES[family][1]
    both = compared(
        family,
        [Prompt(4, (image,), 0, seed=3), Prompt(2, (image,), 3, seed=4)],
        {"at": boundary, "score": spelling, "keep": 0.5},
        lambda images: [(boundary, reference(images), half)],
    )
    both.assert_same_scores(TOLERANCE.get(family, 1e-6))
    both.assert_same_tokens()


@pytest.mark.parametrize("positions", ["keep", "reindex"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("variant", ["code", "paper", "block"])
def test_ttv_and_iga_stay_aligned_through_three_boundaries(
    family: str, variant: str, positions: str
) -> None:
    first, boundaries, shares = 1, (2, 3, 5), (0.8, 0.5, 0.2)
    score = forward.normalised_sum(forward.ttv(variant, first), forward.iga())
    counts = [
        lambda scores, image, ratio=ratio, sizes=sizes: formulas.top_k(
            scores, formulas.share(sizes[image], ratio)
        )
        for sizes in [_image_sizes(family)]
        for ratio in shares
    ]
    prompts = [Prompt(3, DEFAULT_IMAGES[family], 5, seed=5)]
    both = compared(
        family,
        prompts,
        {
            "positions": positions,
            "stages": [
                {
                    "at": list(boundaries),
                    "keep": list(shares),
                    "score": [
                        {
                            "scorer": "ttv",
                            "variant": variant,
                            "layers": [first, 4],
                            "normalize": "sum",
                        },
                        {"scorer": "iga", "normalize": "sum"},
                    ],
                }
            ],
        },
        lambda _: [(at, score, pick) for at, pick in zip(boundaries, counts, strict=True)],
    )
    both.assert_same_tokens()
    both.assert_same_logits(TOLERANCE.get(family, 1e-6))


def _image_sizes(family: str) -> list[int]:
    return [tiny_models.image_tokens(family, image) for image in DEFAULT_IMAGES[family]]


def test_weights_and_normalizers_combine_as_written() -> None:
    """0.3 * (ttv, summing to 1) + 0.7 * (attention, between 0 and 1)."""

    def combined(state: forward.State, columns: list[int], image: int) -> formulas.Array:
        change = forward.ttv(first=1)(state, columns, image)
        asked = forward.attention()(state, columns, image)
        spread = (asked - asked.min()) / (asked.max() - asked.min() + 1e-8)
        added: formulas.Array = 0.3 * formulas.normalised(change) + 0.7 * spread
        return added

    terms = [
        {"scorer": "ttv", "layers": [1, 1], "normalize": "sum", "weight": 0.3},
        {"scorer": "attention", "normalize": "minmax", "weight": 0.7},
    ]
    both = compared(
        "internvl",
        two_prompts("internvl"),
        {"at": 2, "score": terms, "keep": 0.4},
        lambda _: [(2, combined, lambda s, _image: formulas.top_k(s, formulas.share(len(s), 0.4)))],
    )
    both.assert_same_tokens()
    both.assert_same_logits()


LIMITS: dict[str, tuple[dict[str, Any], Callable[[formulas.Array], float]]] = {
    "absolute": ({"rule": "absolute", "value": 1.05}, lambda _: 1.05),
    "quantile": ({"rule": "quantile", "value": 0.7}, lambda s: formulas.quantile(s, 0.7)),
    "iqr": ({"rule": "iqr", "value": 0.1}, lambda s: formulas.outlier_limit(s, 0.1)),
}


@pytest.mark.parametrize("rule", LIMITS)
@pytest.mark.parametrize("family", ["llava", "internvl"])
def test_threshold_keeps_what_each_image_has_above_its_limit(family: str, rule: str) -> None:
    """Counts depend on the data; images and samples of a batch do not see each other."""
    parameters, limit = LIMITS[rule]
    score = {"scorer": "cls-attention", "normalize": "sum", "weight": 20.0}

    def scaled(images: Sequence[Encoded]) -> Score:
        return forward.fixed(
            [20.0 * formulas.normalised(image.attention.sum(axis=0)) for image in images]
        )

    both = compared(
        family,
        two_prompts(family),
        {"at": 0, "score": score, "select": {"selector": "threshold", **parameters}},
        lambda images: [(0, scaled(images), lambda s, _image: formulas.above(s, limit(s)))],
    )
    both.assert_same_tokens()
    both.assert_same_logits()
    assert len(set(both.trace.stages[0].after)) > 1


@pytest.mark.parametrize("seed", range(20))
def test_selectors_match_their_definition_on_scores_with_ties(seed: int) -> None:
    generator = np.random.default_rng(seed)
    sizes, count = [37, 20, 5], 4
    rows = [np.round(generator.normal(size=size), 1) for size in sizes]
    scores, valid = torch.zeros(3, max(sizes), dtype=torch.float64), torch.zeros(3, max(sizes)) > 0
    for row, values in enumerate(rows):
        scores[row, : len(values)] = torch.from_numpy(values)
        valid[row, : len(values)] = True
    scores[~valid] = 99.0  # padding must not matter
    view = View(valid, torch.zeros_like(valid, dtype=torch.long), {})

    def kept(select: Any) -> list[list[int]]:
        stage = tokensieve.load_pipeline(
            {"at": 0, "score": "uniform", "select": select, "keep": 1.0}
        )
        chosen = stage.stages[0].select.select(scores, valid, [count] * 3, view)
        return [row.nonzero()[:, 0].tolist() for row in chosen]

    assert kept("top-k") == [formulas.top_k(values, count) for values in rows]
    for parameters, limit in LIMITS.values():
        expected = []
        for values in rows:
            high = formulas.above(values, limit(values))
            best = formulas.top_k(values, count)
            expected.append(sorted(set(high) & set(best)))
        assert kept({"selector": "threshold", **parameters}) == expected


@pytest.mark.parametrize("share", [0.83, 0.29, 0.5])
def test_composite_shares_a_budget_and_excludes_what_is_taken(share: float) -> None:
    """The last part gets the rest of the budget, among the tokens that are still there."""
    budget = 11
    first = int(share * budget + 1e-9)
    both = compared(
        "internvl",
        two_prompts("internvl"),
        {
            "at": 2,
            "keep": budget,
            "select": {
                "selector": "composite",
                "parts": [
                    {"share": share, "score": "attention"},
                    {"score": {"scorer": "ttv", "layers": [0, 1]}},
                ],
            },
        },
        lambda _: [(2, _two_scores, lambda s, _image: _in_two_parts(s, first, budget))],
    )
    for sample, outcome in enumerate(both.expected):
        assert both.trace.stages[0].kept[sample].tolist() == outcome.kept[0]
    both.assert_same_logits()


def _two_scores(state: forward.State, columns: list[int], image: int) -> formulas.Array:
    by_attention = forward.attention()(state, columns, image)
    by_change = forward.ttv()(state, columns, image)
    return np.array(list(zip(by_attention, by_change, strict=True)))


def _in_two_parts(scores: formulas.Array, first: int, budget: int) -> list[int]:
    return formulas.in_parts([(scores[:, 0], first), (scores[:, 1], budget - first)])


@pytest.mark.parametrize("family", ["llava", "qwen-vl", "internvl", "llava-pixtral"])
def test_where_no_text_follows_the_image_the_last_token_rates(family: str) -> None:
    """The words in front of the image cannot see it."""
    model, size = model_of(family), DEFAULT_IMAGES[family][0]
    batch = tiny_models.inputs(family, [Prompt(6, (size,), 0, seed=3)])
    if family != "llava":  # their image delimiter is text behind the image
        for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
            if name in batch:
                batch[name] = batch[name][:, :-1]
    kept = []
    for rows in ("raters", "last"):
        stage = {"at": 2, "score": {"scorer": "attention", "rows": rows}, "keep": 5}
        with tokensieve.attach(model, stage) as session, torch.no_grad():
            model(**batch)
        kept.append(session.trace.stages[0].kept[0].tolist())
    assert kept[0] == kept[1]
