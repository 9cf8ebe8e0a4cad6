"""The presets, at the token count and the boundaries of their papers, keep the published tokens.

LLaVA with 576 visual tokens and 14 decoder layers (so that 7, 9 and 12 stand as written), in tiny
widths and float64; expected tokens, hidden states and logits come from ``tests/references``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import tiny_models
import torch
from references import forward
from references.compare import (
    DEEP,
    SIDE,
    Both,
    Stages,
    big_llava,
    big_prompt,
    model_of,
    run_ours,
    run_theirs,
)
from references.forward import Rows, best
from references.samples import Zip, encode, reduced_by_visionzip, sequence
from references.vision import Encoded
from tiny_models import DEFAULT_IMAGES, Prompt
from transformers import LlavaConfig, LlavaForConditionalGeneration

N = SIDE**2
LLAVAS = ["llava", "llava-gqa"]
BUDGETS = {64: Zip(53, 10), 128: Zip(107, 20), 192: Zip(161, 30)}
"""VisionZip's dominant patches and merged vectors; [CLS] makes up the sum."""

ZIPPED = {"at": 0, "score": "cls-attention", "keep": 8}


def transprune_score(first: int = 6) -> forward.Score:
    return forward.normalised_sum(forward.ttv("code", first), forward.iga())


def transprune(*counts: int) -> Callable[[Sequence[Encoded]], Stages]:
    boundaries = zip((7, 9, 12), counts, strict=True)
    stages = [(at, transprune_score(), best(count)) for at, count in boundaries]
    return lambda _images: stages


def zipped(how: Zip) -> Callable[..., Rows]:
    return lambda rows, images: reduced_by_visionzip(rows, images, how)[0]


def both_ways(
    family: str, preset: str, stages: Callable[..., Stages], *, reindex: bool, **options: Any
) -> Both:
    model, inputs = big_llava(family), big_prompt(seed=1)
    both = run_ours(model, inputs, preset)
    both.expected = [run_theirs(model, inputs, stages, reindex=reindex, **options)]
    return both


@pytest.mark.parametrize("family", LLAVAS)
def test_transprune_keeps_exactly_the_published_tokens_at_all_three_boundaries(family: str) -> None:
    """576 -> 504 -> 360 -> 72, positions contiguous after each boundary."""
    both = both_ways(family, "transprune", transprune(504, 360, 72), reindex=True)
    assert [stage.boundary for stage in both.trace.stages] == [7, 9, 12]
    assert [stage.after for stage in both.trace.stages] == [[504], [360], [72]]
    assert both.trace.per_layer == [[N] * 7 + [504] * 2 + [360] * 3 + [72] * 2]
    both.assert_same_tokens()
    both.assert_same_logits()


def test_transprune_scores_are_the_published_ones_at_all_three_boundaries() -> None:
    """TTV and IGA of each boundary, before normalization."""
    both = both_ways("llava", "transprune", transprune(504, 360, 72), reindex=True)
    states: list[list[list[float]]] = [[], []]

    def spy(state: forward.State, columns: list[int], image: int) -> Any:
        for place, score in enumerate((forward.ttv("code", 6), forward.iga())):
            states[place].append(score(state, columns, image).tolist())
        return transprune_score()(state, columns, image)

    stages: Any = [(at, spy, best(k)) for at, k in ((7, 504), (9, 360), (12, 72))]
    run_theirs(big_llava(), big_prompt(seed=1), lambda _: stages, reindex=True)
    ours = [scores for _, images in both.scores for scores in images]
    theirs = [scores for pair in zip(*states, strict=True) for scores in pair]
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(torch.tensor(mine), torch.tensor(other), rtol=1e-6, atol=0)


def test_transprune_on_two_images_prunes_each_with_its_own_budget() -> None:
    model, inputs = big_llava(), big_prompt(seed=2, images=2)
    both = run_ours(model, inputs, "transprune")
    both.expected = [run_theirs(model, inputs, transprune(504, 360, 72), reindex=True)]
    assert [stage.after for stage in both.trace.stages] == [[1008], [720], [144]]
    both.assert_same_tokens()
    both.assert_same_logits()


@pytest.mark.parametrize(("depth", "boundaries"), [(10, [2, 3, 4]), (8, [2, 3, 4]), (6, [1, 2, 3])])
def test_transprune_boundaries_and_layers_are_scaled_on_a_shallow_model(
    depth: int, boundaries: list[int]
) -> None:
    """7, 9, 12 of 32 layers in proportion; TTV adds up from the layer before the first cut on."""
    model = model_of("llava", num_hidden_layers=depth)
    inputs = tiny_models.inputs("llava", [Prompt(4, (1,), 6, seed=6)])
    score = transprune_score(first=boundaries[0] - 1)
    stages = [(at, score, best(k)) for at, k in zip(boundaries, (14, 10, 2), strict=True)]
    both = run_ours(model, inputs, "transprune")
    both.expected = [run_theirs(model, inputs, lambda _: stages, reindex=True)]
    assert [stage.boundary for stage in both.trace.stages] == boundaries
    assert [stage.written_boundary for stage in both.trace.stages] == [7, 9, 12]
    both.assert_same_tokens()
    both.assert_same_logits()
    assert any(f"scaled to {boundaries}" in note for note in both.trace.notes)


def test_transprune_keeps_the_mrope_positions_of_qwen() -> None:
    model = model_of("qwen-vl", num_hidden_layers=DEEP)
    inputs = tiny_models.inputs("qwen-vl", [Prompt(4, ((4, 5),), 6, seed=7)])
    both = run_ours(model, inputs, "transprune")
    both.expected = [run_theirs(model, inputs, transprune(17, 12, 2), reindex=False)]
    both.assert_same_tokens()
    both.assert_same_logits(2e-5)


@pytest.mark.parametrize("family", LLAVAS)
def test_fastv_keeps_the_half_that_the_last_token_attends_to_most(family: str) -> None:
    stages: Stages = [(2, forward.attention("last"), best(288))]
    both = both_ways(family, "fastv", lambda _: stages, reindex=False)
    assert both.trace.per_layer == [[N] * 2 + [288] * 12]
    both.assert_same_scores()
    both.assert_same_tokens()
    both.assert_same_logits()


@pytest.mark.parametrize("tokens", BUDGETS)
@pytest.mark.parametrize("family", LLAVAS)
def test_visionzip_feeds_the_decoder_cls_dominant_and_merged_vectors(
    family: str, tokens: int
) -> None:
    """54 + 10: [CLS], 53 patches in raster order, 10 merged vectors; the text around as it was."""
    model, inputs = big_llava(family), big_prompt(seed=3)
    ours = run_ours(model, inputs, "visionzip", keep=tokens)
    with torch.no_grad():
        images = encode(model, inputs)
        whole = sequence(model, inputs, images)
        rows, standing = reduced_by_visionzip(whole, images, BUDGETS[tokens])
        expected = forward.run(model, rows, [], reindex=True)
    (stage,) = ours.trace.stages
    assert (stage.boundary, stage.before, stage.after) == (0, [N], [tokens])
    assert stage.kept[0].tolist() == standing
    assert len(standing) == tokens - 1
    torch.testing.assert_close(ours.entered[0], rows.hidden, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.logits[0], expected.logits[-1], rtol=0, atol=1e-6)


def test_visionzip_alone_is_54_plus_10() -> None:
    ours = run_ours(big_llava(), big_prompt(seed=3), "visionzip")
    assert ours.trace.stages[0].after == [64]
    assert len(ours.trace.stages[0].kept[0]) == BUDGETS[64].dominant + BUDGETS[64].contextual


@pytest.mark.parametrize("family", [*LLAVAS, "internvl", "qwen-vl"])
@pytest.mark.parametrize("rule", ["target_plus_mean", "average"])
def test_contextual_merging_follows_its_rule_on_every_family(family: str, rule: str) -> None:
    """Two prompts of different length; without a [CLS] for the projector one more patch stays."""
    model, small = model_of(family), DEFAULT_IMAGES[family][0]
    images = [(small,), (small, small)]
    prompts = [Prompt(3 + 4 * n, group, 5 - n, seed=8 + n) for n, group in enumerate(images)]
    merge = {"merger": "contextual", "keep": 3, "merge": rule}
    positions = "keep" if family == "qwen-vl" else "reindex"
    pipeline = {**ZIPPED, "merge": merge, "positions": positions}
    ours = run_ours(model, tiny_models.inputs(family, prompts), pipeline)
    has_cls = family in LLAVAS
    for sample, prompt in enumerate(prompts):
        inputs = tiny_models.inputs(family, [prompt])
        with torch.no_grad():
            encoded = encode(model, inputs)
            rows, standing = reduced_by_visionzip(
                sequence(model, inputs, encoded),
                encoded,
                Zip(4 if has_cls else 5, 3, rule, cls=has_cls),
                reindex=positions == "reindex",
            )
            expected = forward.run(model, rows, [], reindex=False)
        assert ours.trace.stages[0].kept[sample].tolist() == standing
        entered = ours.entered[sample, -len(rows.image) :]
        torch.testing.assert_close(entered, rows.hidden, rtol=0, atol=2e-5)
        torch.testing.assert_close(ours.logits[sample], expected.logits[-1], rtol=0, atol=2e-5)


def test_merged_vectors_without_cls_and_in_raster_order() -> None:
    """``cls: false, order: raster``: every vector stands where its patch or target stood."""
    model, inputs = big_llava(), big_prompt(seed=4)
    merge = {"merger": "contextual", "keep": 10, "cls": False, "order": "raster"}
    pipeline = {"at": 0, "score": "cls-attention", "keep": 64, "merge": merge}
    ours = run_ours(model, inputs, pipeline)
    with torch.no_grad():
        images = encode(model, inputs)
        whole = sequence(model, inputs, images)
        rows, standing = reduced_by_visionzip(whole, images, Zip(54, 10, cls=False), reindex=False)
        rows = rows.only(sorted(range(len(rows.image)), key=lambda row: int(rows.positions[row])))
        expected = forward.run(model, rows, [], reindex=False)
    assert ours.trace.stages[0].kept[0].tolist() == standing
    torch.testing.assert_close(ours.entered[0], rows.hidden, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.logits[0], expected.logits[-1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", LLAVAS)
def test_visionzip_then_transprune_prunes_the_merged_sequence(family: str) -> None:
    """192 vectors -> 96 -> 48 -> 24; [CLS] and merged vectors compete like any other."""
    both = both_ways(
        family,
        "visionzip+transprune",
        transprune(96, 48, 24),
        reindex=True,
        start=zipped(BUDGETS[192]),
    )
    assert [stage.after for stage in both.trace.stages] == [[192], [96], [48], [24]]
    assert both.trace.per_layer == [[192] * 7 + [96] * 2 + [48] * 3 + [24] * 2]
    kept = [stage.kept[0].tolist() for stage in both.trace.stages[1:]]
    assert kept == both.expected[0].kept
    both.assert_same_logits()


@pytest.mark.parametrize("layer", [1, 2, -2, -1])
def test_visionzip_looks_at_the_layer_that_feeds_the_projector(
    layer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``vision_feature_layer`` counts hidden states: 2 is -2 of four (three encoder layers)."""
    model = tiny_models.build("llava")
    monkeypatch.setattr(model.config, "vision_feature_layer", layer)
    inputs = tiny_models.inputs("llava", [Prompt(3, (1,), 4, seed=9)])
    merge = {"merger": "contextual", "keep": 3}
    pipeline = {**ZIPPED, "merge": merge, "positions": "reindex"}
    ours = run_ours(model, inputs, pipeline)
    with torch.no_grad():
        images = encode(model, inputs)
        rows, standing = reduced_by_visionzip(sequence(model, inputs, images), images, Zip(4, 3))
    assert ours.trace.stages[0].kept[0].tolist() == standing
    torch.testing.assert_close(ours.entered[0], rows.hidden, rtol=0, atol=1e-5)


def siglip_llava() -> Any:
    """A LLaVA whose vision encoder has no [CLS] token."""
    config = model_of("llava").config.to_dict()
    vision = {
        "model_type": "siglip_vision_model",
        "image_size": 16,
        "patch_size": 4,
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "vision_use_head": False,
    }
    torch.manual_seed(1)
    changed = {"vision_config": vision, "vision_feature_select_strategy": "full"}
    model = LlavaForConditionalGeneration(LlavaConfig(**{**config, **changed})).double().eval()
    for name, weight in model.model.vision_tower.named_parameters():
        if "proj" in name and weight.ndim == 2:
            torch.nn.init.normal_(weight, std=0.5)
    return model


def test_without_a_cls_token_llava_ranks_by_received_attention() -> None:
    model = siglip_llava()
    inputs = tiny_models.inputs("llava", [Prompt(3, (1,), 4, seed=10)])
    merge = {"merger": "contextual", "keep": 3}
    pipeline = {**ZIPPED, "merge": merge, "positions": "reindex"}
    ours = run_ours(model, inputs, pipeline)
    with torch.no_grad():
        images = encode(model, inputs)
        rows, standing = reduced_by_visionzip(
            sequence(model, inputs, images), images, Zip(5, 3, cls=False)
        )
    assert ours.trace.stages[0].kept[0].tolist() == standing
    torch.testing.assert_close(ours.entered[0], rows.hidden, rtol=0, atol=1e-5)
    expected = images[0].attention.sum(axis=0).tolist()
    torch.testing.assert_close(ours.scores[0][1][0], expected, rtol=1e-9, atol=0)
