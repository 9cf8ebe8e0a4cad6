"""The rest of the catalog keeps the published tokens, at the token counts of the papers.

LLaVA with 576 visual tokens in tiny widths and float64, deep enough for every boundary as it is
written; what is expected comes from ``tests/references/published.py`` and ``inside.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest
import tiny_models
import torch
from published_cases import at_input, both_ways, seeing
from references import forward, inside, published
from references.compare import SIDE, Both, big_prompt, model_of, run_ours, run_theirs
from references.forward import Rows, best
from references.published import Stand, chosen, rewritten
from references.samples import Zip, reduced_by_visionzip
from references.vision import Encoded

import tokensieve

N = SIDE**2


def deep() -> Any:
    """25 decoder layers: 16, 17, 20, 22 and 24 stand as written."""
    return model_of("llava", side=SIDE, num_hidden_layers=25)


def wide() -> Any:
    """Features of more dimensions than CDPruner picks tokens."""
    return model_of("llava", side=SIDE, num_hidden_layers=14, hidden_size=224, vision_width=64)


@cache
def many_heads() -> Any:
    """32 heads, and RoPE so slow that its gravity stays positive, as for heads of 128."""
    rope = {"rope_type": "default", "rope_theta": 1e8}
    heads: dict[str, Any] = {"num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 16}
    return tiny_models.build(
        "llava", side=SIDE, num_hidden_layers=17, rope_parameters=rope, **heads
    )


@cache
def weighted_norm() -> Any:
    """A final norm that changes directions."""
    model = tiny_models.build("llava", side=SIDE)
    torch.nn.init.uniform_(model.model.language_model.norm.weight, 0.5, 1.5)
    return model


def question(model: Any, inputs: dict[str, Any]) -> Any:
    """Embeddings of the text behind the last image."""
    ids = inputs["input_ids"][0].tolist()
    last = max(row for row, token in enumerate(ids) if token == tiny_models.IMAGE)
    return model.model.language_model.embed_tokens.weight[ids[last + 1 :]].detach().numpy()


def cuts(score: forward.Score, **counts: int) -> list[tuple[int, forward.Score, forward.Choose]]:
    """``at8=288``: 288 tokens behind boundary 8."""
    return [(int(at[2:]), score, best(count)) for at, count in counts.items()]


def per_layer(both: Both) -> list[tuple[int, int]]:
    """Visual tokens and in how many layers, one after the other."""
    (layers,) = both.trace.per_layer
    numbers = sorted(set(layers), reverse=True)
    return [(number, layers.count(number)) for number in numbers]


# ------------------------------------------------------------------ inside the decoder


def test_pyramiddrop_halves_three_times_by_the_last_token() -> None:
    stages = cuts(forward.iga("last"), at8=288, at16=144, at24=72)
    both = both_ways(deep(), big_prompt(seed=1), "pyramiddrop", stages, reindex=True)
    assert per_layer(both) == [(N, 8), (288, 8), (144, 8), (72, 1)]
    both.assert_same_scores()


def test_sparsevlm_recycles_clusters_of_what_it_drops() -> None:
    """300, 200 and 110 tokens and 9, 4 and 3 clusters behind them, which compete later on."""
    model, inputs, layers = deep(), big_prompt(seed=1), (3, 7, 16)
    entered: dict[int, torch.Tensor] = {}
    norms = [model.model.language_model.layers[layer].input_layernorm for layer in layers]
    handles = [
        norm.register_forward_pre_hook(lambda _module, args, at=at: entered.update({at: args[0]}))
        for norm, at in zip(norms, layers, strict=True)
    ]
    score = inside.sparse_attention()
    stages: Any = [
        (at, rewritten(inside.recycled(score, count), reindex=True))
        for at, count in zip(layers, (300, 200, 110), strict=True)
    ]
    ours = run_ours(model, inputs, "sparsevlm")
    for handle in handles:
        handle.remove()
    ours.expected = [run_theirs(model, inputs, lambda _: stages, reindex=True)]
    ours.assert_same_tokens()
    ours.assert_same_logits()
    assert [stage.after for stage in ours.trace.stages] == [[309], [204], [113]]
    for stage, at, after in zip(ours.trace.stages, layers, (309, 204, 113), strict=True):
        rows = ours.expected[0].runs[at].rows
        torch.testing.assert_close(entered[at][0], rows.hidden, rtol=0, atol=1e-6)
        assert stage.order[0].tolist() == [token for token in rows.visual if token is not None]
        assert len(stage.order[0]) == after


def test_sparsevlm_v2_corrects_gravity_and_looks_at_14_of_32_heads() -> None:
    score = inside.sparse_attention(heads=14, theta=1e8)
    stages = cuts(score, at3=300, at7=200, at16=118)
    both = both_ways(many_heads(), big_prompt(seed=1), "sparsevlm-v2", stages, reindex=False)
    both.assert_same_scores(1e-5)  # rotary angles are float32


def test_v2drop_keeps_what_the_layers_change_and_ends_with_one_token() -> None:
    stages = cuts(inside.hidden_change(), at3=288, at17=144, at22=1)
    both = both_ways(deep(), big_prompt(seed=1), "v2drop", stages, reindex=False)
    assert per_layer(both) == [(N, 3), (288, 14), (144, 5), (1, 3)]
    both.assert_same_scores()


def test_dart_keeps_pivots_and_what_resembles_them_least() -> None:
    model = weighted_norm()
    stages = [(2, rewritten(inside.dart(124), reindex=False))]
    both = both_ways(model, big_prompt(seed=1), "dart", stages, reindex=False)
    assert per_layer(both) == [(N, 2), (124, 4)]


# ------------------------------------------------------------------ before the decoder

BEFORE: dict[str, tuple[int, Callable[[Encoded], list[int]]]] = {
    "fastervlm": (64, lambda image: published.fastervlm(image, 64)),
    "vispruner": (64, lambda image: published.vispruner(image, 64)),
    "hiprune": (64, lambda image: published.hiprune(image, 64)),
    "holov": (64, lambda image: published.holov(image, 64)),
    "scope": (64, lambda image: published.scope(image, 64)),
    "divprune": (56, lambda image: published.divprune(image, 56)),
}


def each_by(pick: Callable[[Encoded], list[int]]) -> Callable[[Sequence[Encoded]], Stand]:
    """Every image of a prompt by itself."""
    return lambda images: chosen(lambda image: pick(images[image]))


@pytest.mark.parametrize("preset", BEFORE)
def test_tokens_that_enter_the_decoder(preset: str) -> None:
    count, pick = BEFORE[preset]
    stages = at_input(each_by(pick))
    both = both_ways(seeing(), big_prompt(seed=1), preset, stages, reindex=True)
    rows = both.expected[0].runs[0].rows
    order = [token for token in rows.visual if token is not None]
    assert both.trace.stages[0].order[0].tolist() == order
    assert len(order) == count
    assert (order == sorted(order)) == (preset != "holov")


def test_two_images_are_pruned_each_for_itself() -> None:
    picks = {preset: pick for preset, (_, pick) in BEFORE.items() if preset != "divprune"}
    for preset, pick in picks.items():
        stages = at_input(each_by(pick))
        both_ways(seeing(), big_prompt(seed=2, images=2), preset, stages, reindex=True)


def test_vispruner_with_an_odd_rest() -> None:
    """The release cannot pair an odd number of residual tokens; 63 leaves 545."""
    pipeline = tokensieve.load_pipeline("vispruner", keep=63)
    stages = at_input(lambda images: chosen(lambda n: published.vispruner(images[n], 63)))
    both_ways(seeing(), big_prompt(seed=3), pipeline, stages, reindex=True)


def test_hiprune_with_several_anchors() -> None:
    pipeline = tokensieve.load_pipeline("hiprune", keep=192)
    stages = at_input(lambda images: chosen(lambda n: published.hiprune(images[n], 192)))
    both_ways(seeing(), big_prompt(seed=3), pipeline, stages, reindex=True)


@pytest.mark.parametrize(("preset", "after"), [("prumerge", 9), ("prumerge-plus", 32)])
def test_prumerge_adds_neighbours_and_one_token_for_the_rest(preset: str, after: int) -> None:
    """Eight outliers: 1/r is 72, so every 24th token, 24 of them; one is an outlier already."""
    plus = preset.endswith("plus")
    stages = at_input(lambda images: published.prumerge(images, plus=plus))
    both = both_ways(seeing(), big_prompt(seed=1), preset, stages, reindex=True)
    assert both.trace.stages[0].after == [after]
    rows = both.expected[0].runs[0].rows
    torch.testing.assert_close(both.entered[0], rows.hidden, rtol=0, atol=1e-9)
    order = [token for token in rows.visual if token is not None]
    assert order[-1] == -1
    assert both.trace.stages[0].order[0].tolist() == order[:-1]
    assert order[:8] != sorted(order[:8])


def test_vscan_absorbs_at_the_input_and_cuts_again_at_layer_16() -> None:
    def stages(images: Sequence[Encoded]) -> Any:
        absorb = published.absorbed(lambda image: published.vscan(images[image], 96))
        return [(0, rewritten(absorb, reindex=True)), (16, forward.iga("last"), best(32))]

    both = both_ways(seeing(), big_prompt(seed=1), "vscan", stages, reindex=True)
    assert per_layer(both) == [(96, 16), (32, 1)]
    rows = both.expected[0].runs[0].rows
    torch.testing.assert_close(both.entered[0], rows.hidden, rtol=0, atol=1e-9)


@pytest.mark.parametrize("count", [64, 16])
def test_mmtok_covers_the_image_and_the_question(count: int) -> None:
    model, inputs = wide(), big_prompt(seed=1)
    words = question(model, inputs)
    stages = at_input(lambda images: chosen(lambda n: published.mmtok(images[n], words, count)))
    pipeline = tokensieve.load_pipeline("mmtok", keep=None if count == 64 else count)
    both = both_ways(model, inputs, pipeline, stages, reindex=True)
    assert both.trace.stages[0].after == [count]


def cdpruner(model: Any, inputs: dict[str, Any], count: int) -> Callable[..., Stand]:
    words = question(model, inputs)
    return lambda images: chosen(lambda image: published.cdpruner(images[image], words, count))


def test_cdpruner_falls_back_to_the_question_s_embeddings() -> None:
    model, inputs = wide(), big_prompt(seed=1)
    stages = at_input(cdpruner(model, inputs, 64))
    both = both_ways(model, inputs, "cdpruner", stages, reindex=True)
    assert both.trace.stages[0].after == [64]
    assert any("CLIP" in note for note in both.trace.notes)


# ------------------------------------------------------------------ composites


def zipped(rows: Rows, images: Sequence[Encoded]) -> Rows:
    return reduced_by_visionzip(rows, images, Zip(161, 30))[0]


COMPOSITES = {
    "visionzip+fastv": cuts(forward.attention("last"), at2=96),
    "visionzip+pyramiddrop": cuts(forward.iga("last"), at8=96, at16=48, at24=24),
}


@pytest.mark.parametrize("preset", COMPOSITES)
def test_visionzip_with_a_method_inside_the_decoder(preset: str) -> None:
    model, inputs, stages = deep(), big_prompt(seed=1), COMPOSITES[preset]
    both = run_ours(model, inputs, preset)
    outcome = run_theirs(model, inputs, lambda _: stages, reindex=True, start=zipped)
    both.expected = [outcome]
    assert min(outcome.margins) > 1e-7
    kept = [stage.kept[0].tolist() for stage in both.trace.stages]
    assert len(kept[0]) == 191  # the [CLS] is none of the image's tokens
    assert kept[1:] == outcome.kept
    both.assert_same_logits()


def test_cdpruner_then_transprune() -> None:
    model, inputs = wide(), big_prompt(seed=1)
    score = forward.normalised_sum(forward.ttv("code", 6), forward.iga())
    later = cuts(score, at7=96, at9=48, at12=24)

    def stages(images: Sequence[Encoded]) -> Any:
        return [*at_input(cdpruner(model, inputs, 192))(images), *later]

    both = both_ways(model, inputs, "cdpruner+transprune", stages, reindex=True)
    assert per_layer(both) == [(192, 7), (96, 2), (48, 3), (24, 2)]


def test_divprune_then_random_tokens_deep_in_the_decoder() -> None:
    both = run_ours(deep(), big_prompt(seed=1), "divprune+random-deep")
    assert per_layer(both) == [(288, 20), (144, 5)]
    outcome = run_theirs(
        deep(),
        big_prompt(seed=1),
        at_input(lambda images: chosen(lambda image: published.divprune(images[image], 288))),
        reindex=True,
    )
    first, second = (set(stage.kept[0].tolist()) for stage in both.trace.stages)
    assert first == set(outcome.kept[0])
    assert second < first
