"""``generate`` in all its modes, and what a session leaves in the cache and on the model."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from oracle import Conversation, oracle_logits, turn_of, vision_inputs
from tiny_models import (
    DEFAULT_IMAGES,
    DEPTH,
    FAMILIES,
    SPECIAL,
    Prompt,
    build,
    continuing,
    inputs,
)
from transformers import DynamicCache

import tokensieve
from tokensieve.core.engine.decoder.cache import ReducedLayer

PIPELINE: dict[str, Any] = {
    "name": "three-steps",
    "positions": "reindex",
    "stages": [
        {
            "at": [1, 3, 4],
            "score": [
                {"scorer": "ttv", "layers": [0, 3], "normalize": "sum"},
                {"scorer": "iga", "normalize": "sum"},
            ],
            "keep": [0.8, 0.5, 0.2],
        }
    ],
}
VISION: dict[str, Any] = {"name": "vision", "at": 0, "score": "cls-attention", "keep": 0.4}


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {family: build(family) for family in FAMILIES}


def two_prompts(family: str) -> list[Prompt]:
    small, large = DEFAULT_IMAGES[family]
    return [Prompt(3, (small,), 5, seed=3), Prompt(5, (large, small), 2, seed=4)]


@pytest.mark.parametrize("spec", [PIPELINE, VISION], ids=["decoder", "vision"])
@pytest.mark.parametrize("family", FAMILIES)
def test_beam_scores_are_the_oracle_log_likelihoods(
    models: dict[str, Any], family: str, spec: dict[str, Any]
) -> None:
    """Four beams reorder the cache; each returned sequence must score what the oracle gives it."""
    model, prompts = models[family], two_prompts(family)
    batch = inputs(family, prompts)
    with tokensieve.attach(model, spec) as session:
        output = model.generate(
            **batch,
            max_new_tokens=5,
            num_beams=4,
            num_return_sequences=2,
            do_sample=False,
            length_penalty=0.0,
            suppress_tokens=SPECIAL,
            output_scores=True,
            return_dict_in_generate=True,
        )
    length = batch["input_ids"].shape[1]
    assert output.sequences.shape[0] == 2 * len(prompts)
    allowed = torch.ones(64, dtype=torch.bool)
    allowed[SPECIAL] = False
    for row in range(output.sequences.shape[0]):
        sample = row // 2
        assert torch.equal(output.sequences[row, :length], batch["input_ids"][sample])
        alone = inputs(family, [prompts[sample]])
        start = alone["input_ids"].shape[1]
        generated = output.sequences[row, length:].tolist()
        conversation = Conversation(
            [*alone["input_ids"][0].tolist(), *generated[:-1]],
            vision_inputs(alone),
            [turn_of(session.trace, sample * 4, 0, start)],
        )
        logits = oracle_logits(model, family, conversation, spec.get("positions", "keep"))
        picked = logits[-len(generated) :].log_softmax(-1)
        score = picked[torch.arange(len(generated)), generated].sum()
        assert output.sequences_scores[row].item() == pytest.approx(score.item(), abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_sampling_is_seeded_and_returns_the_prompt(models: dict[str, Any], family: str) -> None:
    model, batch = models[family], inputs(family, two_prompts(family))

    def sample(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        with tokensieve.attach(model, PIPELINE):
            ids: torch.Tensor = model.generate(
                **batch,
                max_new_tokens=6,
                do_sample=True,
                num_return_sequences=3,
                suppress_tokens=SPECIAL,
            )
        return ids

    first = sample(1)
    assert first.shape[0] == 6
    assert torch.equal(first, sample(1))
    assert not torch.equal(first, sample(2))
    expected = batch["input_ids"].repeat_interleave(3, dim=0)
    assert torch.equal(first[:, : expected.shape[1]], expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_two_calls_equal_two_fresh_sessions(models: dict[str, Any], family: str) -> None:
    model = models[family]
    batches = [inputs(family, [prompt]) for prompt in two_prompts(family)]
    options = {"max_new_tokens": 6, "do_sample": False, "suppress_tokens": SPECIAL}
    with tokensieve.attach(model, PIPELINE):
        together = [model.generate(**batch, **options) for batch in batches]
    for batch, ids in zip(batches, together, strict=True):
        with tokensieve.attach(model, PIPELINE):
            assert torch.equal(model.generate(**batch, **options), ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_cache_rows_follow_the_schedule(models: dict[str, Any], family: str) -> None:
    model = models[family]
    prompt = two_prompts(family)[0]
    batch = inputs(family, [prompt])
    with tokensieve.attach(model, PIPELINE) as session, torch.no_grad():
        cache = model(**batch, use_cache=True).past_key_values
    length = batch["input_ids"].shape[1]
    visual = session.trace.visual_tokens[0]
    one, two, three = (stage.after[0] for stage in session.trace.stages)
    assert [one, two, three] == [int(visual * share) for share in (0.8, 0.5, 0.2)]
    text = length - visual
    rows = [layer.keys.shape[-2] for layer in cache.layers]
    expected = [visual, one, one, two, three, three]
    assert rows == [text + count for count in expected]
    assert session.trace.per_layer == [expected]
    assert [layer.get_seq_length() for layer in cache.layers] == [length] * DEPTH


def test_trace_of_a_prompt_without_images(models: dict[str, Any]) -> None:
    """The trace of the prompt before must not stay."""
    model = models["llava"]
    with tokensieve.attach(model, PIPELINE) as session, torch.no_grad():
        model(**inputs("llava", two_prompts("llava")))
        assert sum(session.trace.visual_tokens) > 0
        model(**inputs("llava", [Prompt(4, (), 3)]))
    assert session.trace.visual_tokens == [0]
    assert session.trace.stages == []


def test_default_cache_types_are_left_alone() -> None:
    """Our cache layer must not take the place of transformers' own in its tables."""
    from transformers.cache_utils import DYNAMIC_LAYER_TYPE_MAPPING, DynamicLayer

    assert ReducedLayer not in DYNAMIC_LAYER_TYPE_MAPPING.values()
    replicate: Any = DynamicCache().layer_class_to_replicate
    assert isinstance(replicate(), DynamicLayer)


def test_pruned_cache_without_a_session_is_refused(models: dict[str, Any]) -> None:
    """Continuing a pruned cache unpruned would be a silent wrong answer."""
    model, batch = models["llava"], inputs("llava", two_prompts("llava")[:1])
    with tokensieve.attach(model, PIPELINE), torch.no_grad():
        cache = model(**batch, use_cache=True).past_key_values
    with pytest.raises(tokensieve.TokensieveError, match="attach the pipeline again"):
        model(input_ids=torch.tensor([[5]]), **continuing(model, cache))


def test_cache_can_be_continued_by_a_later_session(models: dict[str, Any]) -> None:
    model, batch = models["llava"], inputs("llava", two_prompts("llava")[:1])
    step = {"input_ids": torch.tensor([[5]])}
    with tokensieve.attach(model, PIPELINE), torch.no_grad():
        cache = model(**batch, use_cache=True).past_key_values
        whole = model(**step, **continuing(model, cache)).logits
        cache = model(**batch, use_cache=True).past_key_values
    with tokensieve.attach(model, PIPELINE), torch.no_grad():
        again = model(**step, **continuing(model, cache)).logits
    assert torch.equal(whole, again)


def test_cache_is_not_continued_under_another_position_policy(models: dict[str, Any]) -> None:
    model, batch = models["llava"], inputs("llava", two_prompts("llava")[:1])
    with tokensieve.attach(model, PIPELINE), torch.no_grad():
        cache = model(**batch, use_cache=True).past_key_values
    with (
        tokensieve.attach(model, {**PIPELINE, "positions": "keep"}),
        pytest.raises(tokensieve.TokensieveError, match="same policy"),
    ):
        model(input_ids=torch.tensor([[5]]), **continuing(model, cache))


def footprint(model: Any) -> dict[str, Any]:
    """Everything that a session could leave behind on a model."""
    hooks = [
        (name, len(getattr(module, kind)))
        for name, module in model.named_modules()
        for kind in (
            "_forward_hooks",
            "_forward_pre_hooks",
            "_forward_hooks_with_kwargs",
            "_forward_pre_hooks_with_kwargs",
            "_forward_hooks_always_called",
            "_backward_hooks",
        )
    ]
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    return {
        "hooks": hooks,
        "keys": sorted(model.__dict__),
        "attention": model.config._attn_implementation,
        "registries": (
            sorted(ALL_ATTENTION_FUNCTIONS.keys()),
            sorted(ALL_MASK_ATTENTION_FUNCTIONS.keys()),
        ),
        "weights": [(n, p.data_ptr(), p._version) for n, p in model.named_parameters()],
        "classes": [type(module) for module in model.modules()],
    }


class Broken(tokensieve.Scorer):
    """Fails when it is asked."""

    name = "broken"

    def score(self, view: tokensieve.View) -> torch.Tensor:
        raise RuntimeError("scorer broke")


def broken_pipeline() -> tokensieve.Pipeline:
    stage = {"at": 2, "score": [{"scorer": Broken()}], "keep": 2}
    return tokensieve.load_pipeline({"name": "broken", "stages": [stage]})


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("ending", ["detach", "with", "scorer", "generate"])
def test_model_is_restored_exactly(family: str, ending: str) -> None:
    model = build(family)
    batch = inputs(family, two_prompts(family))
    with torch.no_grad():
        logits = model(**batch).logits  # transformers installs its own capturing hooks here
    before = footprint(model)
    if ending == "detach":
        session = tokensieve.attach(model, PIPELINE)
        model.generate(**batch, max_new_tokens=2, suppress_tokens=SPECIAL)
        session.detach()
        session.detach()
    elif ending == "with":
        with tokensieve.attach(model, VISION):
            model.generate(**batch, max_new_tokens=2, suppress_tokens=SPECIAL)
    elif ending == "scorer":
        with (
            pytest.raises(tokensieve.TokensieveError, match=r"scorer 'broken' at .*scorer broke"),
            tokensieve.attach(model, broken_pipeline()),
        ):
            model.generate(**batch, max_new_tokens=2)
    else:

        def explode(ids: Any, scores: Any, **kwargs: Any) -> Any:
            raise RuntimeError("generate broke")

        with (
            pytest.raises(RuntimeError, match="generate broke"),
            tokensieve.attach(model, PIPELINE),
        ):
            model.generate(**batch, max_new_tokens=4, stopping_criteria=[explode])
    assert footprint(model) == before
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, logits)


def test_session_survives_a_failed_forward(models: dict[str, Any]) -> None:
    """After an error the same session prunes the next prompt as if nothing had happened."""
    model, batch = models["llava"], inputs("llava", two_prompts("llava"))
    with tokensieve.attach(model, PIPELINE), torch.no_grad():
        expected = model(**batch).logits
    with tokensieve.attach(model, PIPELINE), torch.no_grad():
        with pytest.raises((IndexError, RuntimeError, ValueError)):
            model(**{**batch, "pixel_values": batch["pixel_values"][:, :1]})
        assert torch.equal(model(**batch).logits, expected)


def test_detached_session_frees_the_model() -> None:
    import weakref

    model = build("llava")
    session = tokensieve.attach(model, PIPELINE)
    with torch.no_grad():
        model(**inputs("llava", two_prompts("llava")))
    session.detach()
    gone = weakref.ref(model)
    del model, session
    gc.collect()
    assert gone() is None


def test_second_attach_is_refused(models: dict[str, Any]) -> None:
    model = models["llava"]
    with tokensieve.attach(model, PIPELINE), torch.no_grad():
        with pytest.raises(tokensieve.TokensieveError, match="already attached"):
            tokensieve.attach(model, VISION)
        model(**inputs("llava", two_prompts("llava")))
    with tokensieve.attach(model, VISION) as session, torch.no_grad():
        assert session.attached
        model(**inputs("llava", two_prompts("llava")))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_precision_runs_and_agrees_on_counts(family: str, dtype: torch.dtype) -> None:
    model = build(family, dtype)
    batch = inputs(family, two_prompts(family), dtype=dtype)
    with tokensieve.attach(model, PIPELINE) as session, torch.no_grad():
        output, first = model(**batch), session.trace
        ids = model.generate(**batch, max_new_tokens=3, do_sample=False)
    assert output.logits.dtype == dtype
    removed = (output.logits == 0).all(dim=2)
    assert bool(output.logits.isfinite().all())
    assert (removed & batch["attention_mask"].bool()).sum(dim=1).tolist() == [
        before - after
        for before, after in zip(first.visual_tokens, first.stages[-1].after, strict=True)
    ]
    assert ids.shape[1] == batch["input_ids"].shape[1] + 3
    visual = session.trace.visual_tokens
    per_image = [image for image in visual if image]
    assert all(
        after < before
        for after, before in zip(session.trace.stages[-1].after, per_image, strict=True)
    )


def test_decisions_are_made_in_float32() -> None:
    """Scores that differ by less than bfloat16 resolves are still told apart, ties go left."""
    seen: list[torch.Tensor] = []

    class Close(tokensieve.Scorer):
        """Scores that bfloat16 cannot tell apart."""

        name = "close"

        def score(self, view: tokensieve.View) -> torch.Tensor:
            scores = 1 + torch.arange(view.valid.shape[1]).float()[None] * 1e-5
            seen.append(scores)
            return scores.expand(view.valid.shape)

    model = build("llava", torch.bfloat16)
    batch = inputs("llava", two_prompts("llava")[:1], dtype=torch.bfloat16)
    spec = {"name": "close", "stages": [{"at": 0, "score": [{"scorer": Close()}], "keep": 3}]}
    with tokensieve.attach(model, spec) as session, torch.no_grad():
        model(**batch)
    assert session.trace.stages[0].kept[0].tolist() == [13, 14, 15]
    assert seen


def test_ties_keep_the_lowest_index() -> None:
    class Flat(tokensieve.Scorer):
        """All tokens alike."""

        name = "flat"

        def score(self, view: tokensieve.View) -> torch.Tensor:
            return torch.zeros(view.valid.shape)

    model = build("llava", torch.float16)
    batch = inputs("llava", two_prompts("llava"), dtype=torch.float16)
    spec = {"name": "flat", "stages": [{"at": 1, "score": [{"scorer": Flat()}], "keep": 4}]}
    with tokensieve.attach(model, spec) as session, torch.no_grad():
        model(**batch)
    assert [k.tolist() for k in session.trace.stages[0].kept] == [
        [0, 1, 2, 3],
        [0, 1, 2, 3, 16, 17, 18, 19],
    ]
