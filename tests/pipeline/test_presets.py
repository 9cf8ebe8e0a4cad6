"""Every registered preset, on every family: exact, batched, answerable. No list kept by hand."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from generating import GREEDY, prompts, recorded_logits
from oracle import conversation_of, oracle_logits
from tiny_models import FAMILIES, IMAGE, Prompt, build, continuing, inputs
from torch.testing import assert_close

import tokensieve
from tokensieve.core.plugins.discovery import build_registry

PRESETS = {
    entry.name: tokensieve.load_pipeline(entry.name) for entry in build_registry().all("pipeline")
}
CUTTING = [name for name, pipeline in PRESETS.items() if pipeline.stages]
DROP_ONLY = [
    name
    for name in CUTTING
    if all(stage.merge is None and not stage.shrinks_images for stage in PRESETS[name].stages)
]
KEEP = 0.4
STEPS = 3


@cache
def model_of(family: str) -> Any:
    return build(family)


def policy_of(session: Any) -> str:
    pipeline, mrope = session.pipeline, session.bound.mrope
    chosen: str = (mrope and pipeline.mrope_positions) or pipeline.positions
    return chosen


def test_the_catalog_is_complete() -> None:
    methods = (
        "transprune transprune-low transprune-ttv-only transprune-iga-only fastv pyramiddrop "
        "sparsevlm sparsevlm-v2 v2drop dart fastervlm visionzip vispruner prumerge prumerge-plus "
        "hiprune vscan holov divprune cdpruner mmtok scope none random uniform downsample "
        "visionzip+transprune cdpruner+transprune visionzip+fastv visionzip+pyramiddrop "
        "divprune+random-deep"
    )
    assert set(methods.split()) <= PRESETS.keys()


@pytest.mark.parametrize("preset", DROP_ONLY)
@pytest.mark.parametrize("family", FAMILIES)
def test_drop_only_preset_equals_the_masked_oracle(family: str, preset: str) -> None:
    """Prefill and greedy decoding of a ragged, left-padded batch."""
    model, asked = model_of(family), prompts(family)
    batch = inputs(family, asked)
    with tokensieve.attach(model, preset, keep=KEEP) as session, recorded_logits(model) as steps:
        output = model.generate(**batch, max_new_tokens=STEPS, **GREEDY)
    assert sum(session.trace.stages[-1].after) < sum(session.trace.visual_tokens)
    length = batch["input_ids"].shape[1]
    for sample, prompt in enumerate(asked):
        generated = output.sequences[sample, length:-1].tolist()
        conversation = conversation_of(family, prompt, session.trace, sample, generated)
        expected = oracle_logits(model, family, conversation, policy_of(session))[-STEPS:]
        actual = torch.stack([step[sample] for step in steps])
        assert_close(actual, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("preset", CUTTING)
@pytest.mark.parametrize("family", FAMILIES)
def test_batch_equals_its_samples(family: str, preset: str, side: str) -> None:
    """Merged vectors, extra tokens and smaller images included."""
    model, asked = model_of(family), prompts(family)
    batch = inputs(family, asked, side=side)
    if family != "qwen-vl":  # as `generate` does; some norms depend on absolute positions
        batch["position_ids"] = (batch["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
    with tokensieve.attach(model, preset, keep=KEEP) as session, torch.no_grad():
        together = model(**batch).logits
        kept = [stage.order for stage in session.trace.stages]
        sizes = [stage.sizes for stage in session.trace.stages]
        for sample, prompt in enumerate(asked):
            alone = model(**inputs(family, [prompt])).logits[0]
            if prompt.images:
                stages = session.trace.stages
                mine = [stage.order[0].tolist() for stage in stages]
                assert [per_stage[sample].tolist() for per_stage in kept] == mine
                for per_stage, stage in zip(sizes, stages, strict=True):
                    assert torch.equal(per_stage[sample], stage.sizes[0])
            real = batch["attention_mask"][sample].bool()
            assert_close(together[sample][real], alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("preset", CUTTING)
@pytest.mark.parametrize("family", FAMILIES)
def test_second_turn_and_detaching_work(family: str, preset: str) -> None:
    """Text after a pruned prompt continues its cache; afterwards the model is as it was."""
    model = model_of(family)
    batch = inputs(family, [prompts(family)[1]])
    with torch.no_grad():
        untouched = model(**batch).logits
        with tokensieve.attach(model, preset, keep=KEEP):
            one = model.generate(**batch, max_new_tokens=2, **GREEDY)
            more = torch.cat([one.sequences, torch.randint(3, 60, (1, 4))], dim=1)
            again = {"input_ids": more, "attention_mask": torch.ones_like(more)}
            two = model.generate(**again, **continuing(model, one.past_key_values),
                                 max_new_tokens=2, **GREEDY)  # fmt: skip
        assert two.sequences.shape[1] == more.shape[1] + 2
        assert torch.equal(model(**batch).logits, untouched)


@pytest.mark.parametrize("keep", [1, 3, 0.25, {"average": 4}, {"flops": 0.6}, 1.0], ids=str)
@pytest.mark.parametrize("preset", CUTTING)
def test_every_preset_takes_a_budget_from_outside(preset: str, keep: Any) -> None:
    """What it promises is kept: never more tokens than asked for, and no error at the ends."""
    model = model_of("internvl")
    prompt = Prompt(3, (1,), 5, seed=4)
    asked = {"average": 16} if keep == {"average": 4} and len(PRESETS[preset].stages) > 1 else keep
    try:
        with tokensieve.attach(model, preset, keep=asked) as session, torch.no_grad():
            logits = model(**inputs("internvl", [prompt])).logits
    except tokensieve.TokensieveError as error:
        assert "is impossible" in str(error)  # the layers before the first boundary cost more
        return
    assert logits.isfinite().all()
    layers = session.trace.per_layer[0]
    if isinstance(keep, int):
        assert min(layers) <= keep
        assert session.pipeline.keep is None or sum(layers) / len(layers) <= keep
    elif keep == 1.0 and not any(s.select.adaptive_count for s in session.pipeline.stages):
        assert max(layers) == 16


@pytest.mark.parametrize("score", ["cls-attention", "uniform", "received-attention"])
@pytest.mark.parametrize("family", FAMILIES)
def test_vision_signals_behind_a_smaller_image_are_those_of_its_tokens(
    family: str, score: str
) -> None:
    """A batch gives what its samples give, and every kept token is one that the image fills."""
    model, asked = model_of(family), prompts(family)
    stages = [{"at": "image", "keep": 0.6}, {"at": 2, "score": score, "keep": 3}]
    pipeline = {"name": "small", "positions": "reindex", "stages": stages}
    with tokensieve.attach(model, pipeline) as session, torch.no_grad():
        model(**inputs(family, asked))
        small, cut = ([kept.tolist() for kept in stage.kept] for stage in session.trace.stages)
        for sample, prompt in enumerate(asked):
            assert set(cut[sample]) <= set(small[sample])
            model(**inputs(family, [prompt]))
            if prompt.images:
                assert session.trace.stages[1].kept[0].tolist() == cut[sample]


def test_kept_tokens_follow_the_budget_in_the_image_row() -> None:
    """The placeholders themselves stay in the ids that come back."""
    model = model_of("llava")
    batch = inputs("llava", [prompts("llava")[0]])
    with tokensieve.attach(model, "divprune", keep=4):
        ids = model.generate(**batch, max_new_tokens=1, do_sample=False)
    assert int((ids == IMAGE).sum()) == 16
