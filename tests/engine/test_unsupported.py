"""What pruning does not support is refused in one clear sentence, never silently wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import Prompt, build, continuing, inputs
from transformers import LlamaConfig, LlamaForCausalLM, StaticCache

import tokensieve
from tokensieve.core.errors import AttachError, SignalError, UnsupportedError

HALF = {"name": "half", "at": 2, "score": "attention", "keep": 0.5}


@pytest.fixture(scope="module")
def model() -> Any:
    return build("llava")


@pytest.fixture
def batch() -> dict[str, Any]:
    return inputs("llava", [Prompt(3, (1,), 5)])


def test_labels(model: Any, batch: dict[str, Any]) -> None:
    with tokensieve.attach(model, HALF), pytest.raises(UnsupportedError, match="labels"):
        model(**batch, labels=batch["input_ids"])


def test_training_mode(model: Any, batch: dict[str, Any]) -> None:
    with tokensieve.attach(model, HALF):
        model.train()
        try:
            with pytest.raises(UnsupportedError, match=r"model\.eval\(\)"):
                model(**batch)
        finally:
            model.eval()


@pytest.mark.parametrize("option", ["static", "offloaded", "quantized", "sliding_window"])
def test_other_caches_in_generate(model: Any, batch: dict[str, Any], option: str) -> None:
    with tokensieve.attach(model, HALF), pytest.raises(UnsupportedError, match=option):
        model.generate(**batch, max_new_tokens=2, cache_implementation=option)


def test_static_cache_object(model: Any, batch: dict[str, Any]) -> None:
    cache = StaticCache(config=model.config.text_config, max_cache_len=64)
    with tokensieve.attach(model, HALF), pytest.raises(UnsupportedError, match="StaticCache"):
        model(**batch, **continuing(model, cache))


def test_sliding_window_cache_object(model: Any, batch: dict[str, Any]) -> None:
    from transformers.cache_utils import Cache, DynamicSlidingWindowLayer

    cache = Cache(layers=[DynamicSlidingWindowLayer(8) for _ in range(6)])
    with tokensieve.attach(model, HALF), pytest.raises(UnsupportedError, match="SlidingWindow"):
        model(**batch, **continuing(model, cache))


@pytest.mark.parametrize(
    ("option", "value", "match"),
    [
        ("prompt_lookup_num_tokens", 2, "prompt-lookup"),
        ("assistant_model", build("llava"), "assisted"),
        ("prefill_chunk_size", 4, "chunked prefill"),
    ],
)
def test_decoding_modes(
    model: Any, batch: dict[str, Any], option: str, value: Any, match: str
) -> None:
    with tokensieve.attach(model, HALF), pytest.raises(UnsupportedError, match=match):
        model.generate(**batch, max_new_tokens=2, **{option: value})


def test_decoding_modes_in_the_generation_config(model: Any, batch: dict[str, Any]) -> None:
    config = model.generation_config
    config.prompt_lookup_num_tokens = 2
    try:
        with tokensieve.attach(model, HALF), pytest.raises(UnsupportedError, match="prompt-lookup"):
            model.generate(**batch, max_new_tokens=2)
    finally:
        config.prompt_lookup_num_tokens = None


def test_cropping_a_pruned_cache(model: Any, batch: dict[str, Any]) -> None:
    with tokensieve.attach(model, HALF), torch.no_grad():
        cache = model(**batch, use_cache=True).past_key_values
        with pytest.raises(UnsupportedError, match="cropped"):
            cache.crop(-1)


def test_flex_attention(model: Any, batch: dict[str, Any]) -> None:
    model.set_attn_implementation("flex_attention")
    try:
        with pytest.raises(tokensieve.TokensieveError, match="flex_attention"):
            with tokensieve.attach(model, HALF):
                model(**batch)
    finally:
        model.set_attn_implementation("sdpa")


def test_four_dimensional_mask(model: Any, batch: dict[str, Any]) -> None:
    length = batch["input_ids"].shape[1]
    batch["attention_mask"] = torch.zeros(1, 1, length, length, dtype=torch.float64)
    with tokensieve.attach(model, HALF), pytest.raises(UnsupportedError, match="two-dimensional"):
        model(**batch)


def test_family_without_an_adapter() -> None:
    config = LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    with pytest.raises(AttachError, match=r"'llama'.*supported.*internvl.*llava.*qwen2_5_vl"):
        tokensieve.attach(LlamaForCausalLM(config), HALF)


def test_something_that_is_no_model() -> None:
    with pytest.raises(AttachError, match="no adapter"):
        tokensieve.attach(object(), HALF)


def test_inner_module_instead_of_the_model(model: Any) -> None:
    with pytest.raises(AttachError, match="LlavaForConditionalGeneration"):
        tokensieve.attach(model.model, HALF)


def test_sliding_window_decoder() -> None:
    layers = ["sliding_attention"] * 6
    model = build("internvl", use_sliding_window=True, sliding_window=8, layer_types=layers)
    with pytest.raises(AttachError, match="only full attention"):
        tokensieve.attach(model, HALF)


def test_boundary_beyond_the_model(model: Any) -> None:
    spec = {"name": "deep", "at": 7, "score": "attention", "keep": 0.5}
    with pytest.raises(AttachError, match=r"stage 1 .deep. at boundary 7: the model has 6"):
        tokensieve.attach(model, spec)


def test_missing_signal_names_stage_signal_adapter_and_remedy() -> None:
    model = build("llava")
    model.config.vision_feature_select_strategy = "full"
    spec = {"name": "vz", "at": 0, "score": "cls-attention", "keep": 0.5}
    with pytest.raises(AttachError) as caught:
        tokensieve.attach(model, spec)
    for part in ("stage 1", "vz", "encoder_layers", "adapter llava", "use another scorer"):
        assert part in str(caught.value)


def test_transitions_before_any_layer(model: Any) -> None:
    spec = {"name": "early", "at": 0, "score": "ttv", "keep": 0.5}
    with pytest.raises(AttachError, match="no decoder layer has run yet"):
        tokensieve.attach(model, spec)


def test_transitions_of_layers_that_come_later(model: Any) -> None:
    spec = {"name": "late", "at": 2, "score": {"scorer": "ttv", "layers": [3, 4]}, "keep": 0.5}
    with pytest.raises(AttachError, match="only layers 0 to 1 have run"):
        tokensieve.attach(model, spec)


def test_vision_signals_without_a_vision_pass(model: Any, batch: dict[str, Any]) -> None:
    """Precomputed features bypass the vision encoder: there is nothing to score."""
    with torch.no_grad():
        features = model.get_image_features(batch.pop("pixel_values"), return_dict=True)
    spec = {"name": "vz", "at": 0, "score": "cls-attention", "keep": 0.5}
    with (
        tokensieve.attach(model, spec),
        torch.no_grad(),
        pytest.raises(SignalError, match="vision encoder"),
    ):
        model(**batch, mm_encoder_outputs={"image": features})


def test_wrong_scorer_output_is_named(model: Any, batch: dict[str, Any]) -> None:
    class Wide(tokensieve.Scorer):
        """Returns one number too many."""

        name = "wide"

        def score(self, view: tokensieve.View) -> torch.Tensor:
            return torch.zeros(view.valid.shape[0], view.valid.shape[1] + 1)

    spec = {"name": "wide", "stages": [{"at": 0, "score": [{"scorer": Wide()}], "keep": 2}]}
    with (
        tokensieve.attach(model, spec),
        torch.no_grad(),
        pytest.raises(tokensieve.TokensieveError, match=r"'wide' at .* must return .*16.*got .*17"),
    ):
        model(**batch)


def test_impossible_average_is_said_when_the_image_is_known(
    model: Any, batch: dict[str, Any]
) -> None:
    spec = {"name": "few", "at": 3, "score": "attention", "keep": {"average": 2}}
    with (
        tokensieve.attach(model, spec),
        torch.no_grad(),
        pytest.raises(AttachError, match="impossible for an image of 16 tokens"),
    ):
        model(**batch)
