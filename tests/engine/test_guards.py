"""What pruning assumes of a model is checked where it is used; else there is no answer."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from tiny_models import Prompt, build, continuing, inputs
from transformers import DynamicCache, MistralConfig

import tokensieve
from tokensieve.core.contract.hooks import FORWARD_HOOKS
from tokensieve.core.errors import AttachError, GuardError, UnsupportedError

HALF = {"name": "half", "positions": "reindex", "at": 2, "score": "attention", "keep": 0.5}
FAMILIES = ("llava", "qwen-vl", "internvl", "llava-pixtral")
IMAGES: dict[str, Any] = {"llava": 1, "qwen-vl": (3, 4), "internvl": 1, "llava-pixtral": (3, 4)}


def batch_of(family: str) -> dict[str, Any]:
    return inputs(family, [Prompt(3, (IMAGES[family],), 5)])


# ---------------------------------------------------------------- at attach


def without(config: Any, name: str, kind: str) -> None:
    stored = config.attribute_map.get(name, name)
    if kind == "missing":
        config.__dict__.pop(stored, None)
    else:
        config.__dict__[stored] = None


@pytest.mark.parametrize("kind", ["missing", "none"])
@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("llava", "image_token_id"),
        ("internvl", "image_token_id"),
        ("qwen-vl", "image_token_id"),
        ("qwen-vl", "video_token_id"),
    ],
)
def test_config_without_its_token(
    family: str, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty list of placeholders would make every visual token text, and prune nothing."""
    model = build(family)
    for base in type(model.config).__mro__:  # configs keep defaults on their class
        for spelling in {name, model.config.attribute_map.get(name, name)} & vars(base).keys():
            monkeypatch.delattr(base, spelling)
    without(model.config, name, kind)
    with pytest.raises(AttachError, match=rf"has no {name}.*tokensieve doctor"):
        tokensieve.attach(model, HALF)


def test_adapter_without_placeholders(monkeypatch: pytest.MonkeyPatch) -> None:
    from tokensieve.adapters import projected as encoders

    monkeypatch.setattr(encoders, "placeholder_ids", lambda *_: ())
    with pytest.raises(AttachError, match="names no placeholder_ids"):
        tokensieve.attach(build("llava"), HALF)


@pytest.mark.parametrize("value", [None, []])
def test_config_that_lost_its_layer_types(value: Any) -> None:
    model = build("internvl")
    model.config.text_config.layer_types = value
    with pytest.raises(AttachError, match=r"unknown.*only full attention"):
        tokensieve.attach(model, HALF)


def test_window_that_no_layer_type_tells() -> None:
    """Mistral has no layer types; its window is on by default."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    llava = build("llava").config
    sizes = {name: getattr(llava.text_config, name) for name in (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
        "num_attention_heads", "num_key_value_heads", "pad_token_id",
    )}  # fmt: skip
    for window, refused in ((4096, True), (None, False)):
        text = MistralConfig(**sizes, sliding_window=window)
        config = LlavaConfig(  # type: ignore[call-arg]  # one of its names
            vision_config=llava.vision_config, text_config=text, image_token_id=60,
            vision_feature_layer=-2,
        )  # fmt: skip
        model = LlavaForConditionalGeneration(config).eval()
        if refused:
            with pytest.raises(AttachError, match=r"Sliding.*only full attention"):
                tokensieve.attach(model, HALF)
        else:
            with tokensieve.attach(model, HALF), torch.no_grad():
                model(**inputs("llava", [Prompt(3, (1,), 5)], dtype=torch.float32))


@pytest.mark.parametrize("norm", ["query_norm", "q_norm", "qk_norm"])
def test_unknown_head_norm(norm: str) -> None:
    """Queries that are normalized in a way we do not know would be scored wrongly."""
    model = build("llava")
    setattr(model.model.language_model.layers[4].self_attn, norm, torch.nn.RMSNorm(8))
    with pytest.raises(AttachError, match="is not laid out as a layer of"):
        tokensieve.attach(model, {**HALF, "score": "iga"})


def test_head_norm_over_all_heads() -> None:
    model = build("llava")
    for layer in model.model.language_model.layers:
        layer.self_attn.q_norm = layer.self_attn.k_norm = torch.nn.RMSNorm(32)
    with pytest.raises(AttachError, match="is not laid out as a layer of"):
        tokensieve.attach(model, HALF)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_rope_that_turns_by_the_length(kind: str) -> None:
    """Angles of contiguous positions would be those of a shorter sequence."""
    model = build("llava")
    model.model.language_model.rotary_emb.rope_type = kind
    with pytest.raises(AttachError, match="positions: keep"):
        tokensieve.attach(model, HALF)
    with tokensieve.attach(model, {**HALF, "positions": "keep"}), torch.no_grad():
        model.model.language_model.rotary_emb.rope_type = "default"
        model(**batch_of("llava"))


def test_an_encoder_that_is_not_known() -> None:
    """How its images stand among the tokens is not known either."""
    model = build("llava")
    model.config.vision_config.model_type = "dinov2"
    with pytest.raises(AttachError, match="the vision encoder is a dinov2"):
        tokensieve.attach(model, HALF)


def test_pixtral_that_loses_a_patch() -> None:
    model = build("llava-pixtral")
    model.config.vision_feature_select_strategy = "default"
    with pytest.raises(AttachError, match="cuts the first patch off"):
        tokensieve.attach(model, HALF)


def test_attributes_that_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not an AttributeError from inside: one line that says what to do."""
    model = build("llava")
    monkeypatch.delattr(model.model.language_model, "rotary_emb")
    with pytest.raises(AttachError, match=r"rotary_emb.*transformers \d.*tokensieve doctor"):
        tokensieve.attach(model, HALF)
    assert not any(module._forward_pre_hooks for module in model.modules())


# ---------------------------------------------------------------- in a forward


def test_caches_of_old(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = build("llava"), batch_of("llava")
    pairs = tuple((torch.zeros(1, 4, 2, 8), torch.zeros(1, 4, 2, 8)) for _ in range(6))
    with (
        tokensieve.attach(model, HALF),
        pytest.raises(UnsupportedError, match="DynamicCache, got a tuple of tensors"),
    ):
        model(**batch, **continuing(model, pairs))


def test_mask_that_does_not_fit() -> None:
    model, batch = build("llava"), batch_of("llava")
    batch["attention_mask"] = batch["attention_mask"][:, 1:]
    with tokensieve.attach(model, HALF), pytest.raises(UnsupportedError, match="columns"):
        model(**batch)


def test_cache_given_by_position() -> None:
    """The cache is known by its type, wherever it is."""
    model, batch = build("llava"), batch_of("llava")
    with tokensieve.attach(model, HALF), torch.no_grad():
        expected = model(**batch, use_cache=True).logits
        ids, pixels = batch["input_ids"], batch["pixel_values"]
        made = model.model(ids, pixels, batch["attention_mask"], None, DynamicCache())
        assert torch.equal(model.lm_head(made.last_hidden_state), expected)


def test_plain_tuples() -> None:
    model, batch = build("llava"), batch_of("llava")
    with tokensieve.attach(model, HALF), torch.no_grad():
        expected = model(**batch).logits
        assert torch.equal(model(**batch, return_dict=False)[0], expected)


def test_argument_with_an_entry_per_token() -> None:
    """An argument that nobody knows would not fit the rows that are left."""
    model, batch = build("llava"), batch_of("llava")
    decoder = model.model.language_model
    extra = torch.zeros(1, batch["input_ids"].shape[1], 4)

    def add(module: Any, args: Any, kwargs: Any) -> Any:
        return args, {**kwargs, "per_token": extra}

    handles = [layer.register_forward_pre_hook(add, with_kwargs=True) for layer in decoder.layers]
    try:
        with tokensieve.attach(model, HALF), pytest.raises(GuardError, match="'per_token'"):
            model(**batch)
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("family", FAMILIES)
def test_refused_halfway_leaves_no_hook(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter that fails after its first hooks never says which they are."""
    model, batch = build(family), batch_of(family)
    untouched = model(**batch).logits

    def hooks() -> list[Any]:
        return [list(getattr(m, name)) for m in model.modules() for name in FORWARD_HOOKS]

    before = hooks()  # transformers' own
    stages = [
        {"at": "image", "keep": 0.5},
        {"at": 0, "score": "cls-attention", "keep": 0.4},
        {"at": 2, "score": ["ttv", "iga"], "keep": 0.3},
    ]
    count = failing = 0

    def refusing(register: Any) -> Any:
        def registering(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == failing:
                raise AttachError("no more hooks")
            return register(*args, **kwargs)

        return registering

    for name in ("register_forward_hook", "register_forward_pre_hook"):
        monkeypatch.setattr(torch.nn.Module, name, refusing(getattr(torch.nn.Module, name)))
    tried = 0
    for parts in (stages[:1], stages[1:]):
        spec = {"name": "halfway", "positions": "keep", "stages": parts}
        for number in range(1, 60):
            failing, count = number, 0
            try:
                session = tokensieve.attach(model, spec)
            except AttachError as error:
                assert "no more hooks" in str(error)
                assert hooks() == before
                tried += 1
                continue
            with session:
                model(**batch)
                break
        assert torch.equal(model(**batch).logits, untouched)
    assert tried > 12


def test_decoder_without_the_model() -> None:
    model = build("llava")
    with tokensieve.attach(model, HALF), pytest.raises(GuardError, match="without LlavaModel"):
        model.model.language_model(input_ids=torch.tensor([[1, 5, 6]]))


def test_module_swapped_after_attach() -> None:
    model, other = build("llava"), build("llava")
    with tokensieve.attach(model, HALF), pytest.raises(GuardError, match="did not run"):
        model.model.language_model = other.model.language_model
        model(**batch_of("llava"))


def test_layer_swapped_after_attach() -> None:
    model, other = build("llava"), build("llava")
    with tokensieve.attach(model, {**HALF, "at": 5}), pytest.raises(GuardError, match="layer 5"):
        model.model.language_model.layers[5] = other.model.language_model.layers[5]
        model(**batch_of("llava"))


# ---------------------------------------------------------------- nothing seen


@pytest.mark.parametrize("family", FAMILIES)
def test_trace_before_any_forward(family: str) -> None:
    model = build(family)
    with tokensieve.attach(model, HALF) as session, torch.no_grad():
        with pytest.raises(GuardError, match="no forward of"):
            _ = session.trace
        model(**batch_of(family))
        assert session.trace.visual_tokens != [0]


def test_model_that_is_bypassed_altogether() -> None:
    """Another copy of the model runs, or a compiled one: nothing here is told of it."""
    model = build("llava")
    session = tokensieve.attach(model, HALF)
    copied = copy.copy(model)
    copied._modules = build("llava")._modules
    copied.__dict__.pop("generate")
    for hooks in ("_forward_hooks", "_forward_pre_hooks"):
        setattr(copied, hooks, {})
    with torch.no_grad():
        copied(**batch_of("llava"))
    with pytest.raises(GuardError, match="no forward of"):
        _ = session.trace
    with pytest.warns(RuntimeWarning, match="nothing was pruned") as caught:
        session.detach()
    assert len(caught) == 1
    assert not session.attached


def test_generate_that_runs_another_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model, other = build("llava"), build("llava")
    monkeypatch.setitem(model.__dict__, "generate", other.generate)
    with tokensieve.attach(model, HALF), pytest.raises(GuardError, match="no answer"):
        model.generate(**batch_of("llava"), max_new_tokens=2)


def test_no_warning_on_top_of_an_error() -> None:
    model = build("llava")
    with warnings.catch_warnings(), pytest.raises(ZeroDivisionError):
        warnings.simplefilter("error")
        with tokensieve.attach(model, HALF):
            raise ZeroDivisionError
    assert tokensieve.core.engine.session.session_of(model) is None


def test_pipeline_without_stages_is_not_watched() -> None:
    model = build("llava")
    with tokensieve.attach(model, "none") as session:
        assert session.trace.stages == []


def test_decode_step_keeps_the_trace_of_its_prompt() -> None:
    model, batch = build("llava"), batch_of("llava")
    with tokensieve.attach(model, HALF) as session, torch.no_grad():
        cache = model(**batch, use_cache=True).past_key_values
        before = session.trace
        model(input_ids=torch.tensor([[5]]), **continuing(model, cache))
        assert session.trace is before
        model(input_ids=torch.tensor([[5]]))  # one token and no cache
        assert session.trace is before


def test_trace_of_a_text_prompt_says_so_for_every_layer() -> None:
    model = build("llava")
    with tokensieve.attach(model, HALF) as session, torch.no_grad():
        model(**inputs("llava", [Prompt(4, (), 3)]))
    assert session.trace.visual_tokens == [0]
    assert session.trace.per_layer == [[0] * 6]


def test_prompt_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under whatever name ``generate`` will offer it: each part would be a prompt of its own."""
    from tokensieve.core.engine import session

    monkeypatch.delitem(session._REFUSED, "prefill_chunk_size")
    model = build("llava")
    with tokensieve.attach(model, HALF), pytest.raises(UnsupportedError, match="run in parts"):
        model.generate(**batch_of("llava"), max_new_tokens=2, prefill_chunk_size=4)
