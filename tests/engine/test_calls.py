"""What a call knows belongs to it alone: pictures, threads, copies, wrappers, prompts, caches."""

from __future__ import annotations

import copy
import pickle
import threading
import warnings
from typing import Any

import pytest
import torch
from oracle import conversation_of, oracle_logits
from tiny_models import DEFAULT_IMAGES, IMAGE, SPECIAL, VIDEO, Prompt, build, inputs

import tokensieve
from tokensieve.core.engine.session import session_of
from tokensieve.core.errors import GuardError, SignalError, UnsupportedError

FAMILIES = ("llava", "qwen-vl", "internvl", "llava-pixtral")
VISION = {"name": "vision", "at": 0, "score": "cls-attention", "keep": 0.4}
DEEP = {
    "name": "deep",
    "positions": "reindex",
    "at": [1, 3],
    "score": [
        {"scorer": "ttv", "normalize": "sum", "layers": [0, 2]},
        {"scorer": "iga", "normalize": "sum"},
    ],
    "keep": [0.6, 0.3],
}
MERGED = {
    "name": "merged",
    "at": 2,
    "score": "attention",
    "keep": 0.5,
    "merge": {"merger": "recycle"},
}
SMALLER = {"name": "smaller", "stages": [{"at": "image", "keep": 0.5}]}
GREEDY: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "suppress_tokens": SPECIAL}


def prompt(family: str, seed: int, image: int = 0) -> Prompt:
    return Prompt(3 + seed % 3, (DEFAULT_IMAGES[family][image],), 4, seed=seed)


def encoded(model: Any, batch: dict[str, Any]) -> Any:
    """The pictures of a batch, encoded by the caller."""
    names = ("pixel_values", "image_grid_thw")
    return model.get_image_features(
        **{name: batch[name] for name in names if name in batch}, return_dict=True
    )


def without_pictures(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: values for name, values in batch.items() if name != "pixel_values"}


def kept_of(session: Any) -> list[list[int]]:
    return [rows.tolist() for stage in session.trace.stages for rows in stage.kept]


def expected_kept(model: Any, batch: dict[str, Any], spec: Any = VISION) -> list[list[int]]:
    with tokensieve.attach(model, spec) as session, torch.no_grad():
        model(**batch)
    return kept_of(session)


# ---------------------------------------------------------------- whose picture it is


@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_encoded_ahead_of_their_question(family: str) -> None:
    """Two pictures of one size, asked about in the other order, with a text prompt in between."""
    model = build(family)
    batches = [inputs(family, [prompt(family, seed)]) for seed in (1, 2)]
    expected = [expected_kept(model, batch) for batch in batches]
    assert expected[0] != expected[1]
    with tokensieve.attach(model, VISION) as session, torch.no_grad():
        features = [encoded(model, batch) for batch in batches]
        model(**inputs(family, [Prompt(4, (), 3)]))
        for number in (1, 0, 1):
            rest = without_pictures(batches[number])
            model(**rest, mm_encoder_outputs={"image": features[number]})
            assert kept_of(session) == expected[number]


@pytest.mark.parametrize("family", FAMILIES)
def test_features_that_nobody_knows(family: str) -> None:
    """Changed by the caller, encoded before the pipeline was there, or by another model."""
    model, batch = build(family), inputs(family, [prompt(family, 1)])
    with torch.no_grad():
        early = encoded(model, batch)
    with tokensieve.attach(model, VISION), torch.no_grad():
        with pytest.raises(SignalError, match="own vision encoder"):
            model(**without_pictures(batch), mm_encoder_outputs={"image": early})
        changed = encoded(model, batch)
        whole = changed.pooler_output
        split = not isinstance(whole, torch.Tensor)
        changed.pooler_output = [part * 1.5 for part in whole] if split else whole * 1.5
        with pytest.raises(SignalError, match="own vision encoder"):
            model(**without_pictures(batch), mm_encoder_outputs={"image": changed})


def test_features_of_a_part_of_the_pictures() -> None:
    """A prompt about the second of three pictures that were encoded at once."""
    model = build("llava")
    three = inputs("llava", [prompt("llava", seed) for seed in (1, 2, 3)])
    second = inputs("llava", [prompt("llava", 2)])
    with tokensieve.attach(model, VISION) as session, torch.no_grad():
        features = encoded(model, three)
        features.pooler_output = features.pooler_output[1:2]
        model(**without_pictures(second), mm_encoder_outputs={"image": features})
        assert kept_of(session) == expected_of("llava", second)


def expected_of(family: str, batch: dict[str, Any]) -> list[list[int]]:
    return expected_kept(build(family), batch)


@pytest.mark.parametrize("order", ["video-image", "image-video"])
def test_image_beside_a_video(order: str) -> None:
    """Each is ranked by its own pass of the encoder."""
    model, generator = build("qwen-vl"), torch.Generator().manual_seed(3)
    pixels = {
        "image": torch.randn(16, 96, generator=generator).double(),
        "video": torch.randn(48, 96, generator=generator).double(),
    }
    grids = {"image": [[1, 4, 4]], "video": [[3, 4, 4]]}
    runs = {"image": [IMAGE] * 4, "video": [VIDEO] * 12}
    names = {"image": ("pixel_values", "image_grid_thw"),
             "video": ("pixel_values_videos", "video_grid_thw")}  # fmt: skip

    def made(kinds: list[str]) -> dict[str, Any]:
        ids = [1, 5]
        for kind in kinds:
            ids += [61, *runs[kind], 62]
        row = torch.tensor([[*ids, 7, 8]])
        batch: dict[str, Any] = {"input_ids": row, "attention_mask": torch.ones_like(row)}
        batch["mm_token_type_ids"] = (row == IMAGE).int() + 2 * (row == VIDEO).int()
        for kind in kinds:
            batch[names[kind][0]] = pixels[kind]
            batch[names[kind][1]] = torch.tensor(grids[kind])
        if "video" in kinds:
            batch["second_per_grid_ts"] = torch.tensor([1.0])
        return batch

    spec = {"name": "v", "at": 0, "score": "received-attention", "keep": 0.5}
    alone = {kind: expected_kept(model, made([kind]), spec)[0] for kind in runs}
    kinds = order.split("-")
    offset = len(runs[kinds[0]])
    joined = [*alone[kinds[0]], *[offset + place for place in alone[kinds[1]]]]
    assert expected_kept(model, made(kinds), spec) == [joined]


@pytest.mark.parametrize("beams", [1, 2, 3])
@pytest.mark.parametrize("sizes", [((2, 6), (6, 2)), ((4, 4), (2, 2)), ((3, 4), (4, 5))], ids=str)
def test_smaller_pictures_of_other_shapes_with_beams(sizes: Any, beams: int) -> None:
    model = build("qwen-vl")
    prompts = [Prompt(3, (size,), 4, seed=number) for number, size in enumerate(sizes)]

    def answers(asked: list[Prompt]) -> list[list[int]]:
        batch = inputs("qwen-vl", asked)
        with tokensieve.attach(model, SMALLER):
            ids = model.generate(**batch, **GREEDY, num_beams=beams)
        return [row.tolist() for row in ids[:, batch["input_ids"].shape[1] :]]

    assert answers(prompts) == [answers([one])[0] for one in prompts]


# ---------------------------------------------------------------- threads


@pytest.mark.parametrize("spec", [DEEP, VISION, SMALLER], ids=lambda spec: spec["name"])
@pytest.mark.parametrize("family", FAMILIES)
def test_threads_get_their_own_answers(family: str, spec: Any) -> None:
    model = build(family, torch.float32)
    batches = [
        inputs(family, [prompt(family, seed, seed % 2)], dtype=torch.float32) for seed in range(4)
    ]
    found: dict[int, Any] = {}

    def run(number: int) -> None:
        ids = model.generate(**batches[number], **GREEDY)
        found[number] = (ids.tolist(), kept_of(session))

    with tokensieve.attach(model, spec) as session:
        for number in range(4):
            run(number)
        expected, found = found, {}
        for _ in range(3):
            threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert found == expected
            found.clear()


# ---------------------------------------------------------------- copies, wrappers, swapped modules


@pytest.mark.parametrize("family", FAMILIES)
def test_a_deep_copy_is_pruned_by_itself(family: str) -> None:
    model, batch = build(family), inputs(family, [prompt(family, 1)])
    with torch.no_grad():
        untouched = model(**batch).logits
        with tokensieve.attach(model, VISION) as session:
            pruned = model(**batch).logits
            twin = copy.deepcopy(model)
        assert torch.equal(twin(**batch).logits, pruned)
        assert torch.equal(model(**batch).logits, untouched)
        own = session_of(twin)
        assert own is not None and own is not session and own.model is twin
        ids = twin.generate(**batch, **GREEDY)
        own.detach()
        assert torch.equal(twin(**batch).logits, untouched)
        with tokensieve.attach(model, VISION):
            assert torch.equal(model.generate(**batch, **GREEDY), ids)


def test_a_copy_of_a_part_is_clean() -> None:
    model, batch = build("llava"), inputs("llava", [prompt("llava", 1)])
    with torch.no_grad():
        untouched = model.model(**batch).last_hidden_state
        with tokensieve.attach(model, VISION):
            part = copy.deepcopy(model.model)
            model(**batch)
        assert torch.equal(part(**batch).last_hidden_state, untouched)


def test_pickling_is_refused() -> None:
    model, batch = build("llava"), inputs("llava", [prompt("llava", 1)])
    with tokensieve.attach(model, VISION), torch.no_grad():
        with pytest.raises(UnsupportedError, match="cannot be pickled: detach first"):
            pickle.dumps(model)
        model(**batch)  # from here on transformers' own hooks cannot be pickled either


def test_generate_keeps_its_face_and_its_wrappers() -> None:
    model, batch = build("llava"), inputs("llava", [prompt("llava", 1)])
    untouched = model.generate(**batch, **GREEDY)
    with tokensieve.attach(model, DEEP):
        assert model.generate.__name__ == "generate"
        inner = model.generate
        pruned = model.generate(**batch, **GREEDY)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return inner(*args, **kwargs)

        model.generate = wrapper
        assert torch.equal(model.generate(**batch, **GREEDY), pruned)
    assert model.generate is wrapper
    assert torch.equal(model.generate(**batch, **GREEDY), untouched)


def test_a_session_is_entered_again() -> None:
    model, batch = build("llava"), inputs("llava", [prompt("llava", 1)])
    with torch.no_grad():
        untouched = model(**batch).logits
        session = tokensieve.attach(model, VISION)
        pruned = model(**batch).logits
        session.detach()
        with session:
            with session:
                assert torch.equal(model(**batch).logits, pruned)
            assert torch.equal(model(**batch).logits, pruned)
        assert torch.equal(model(**batch).logits, untouched)
        with tokensieve.attach(model, DEEP):
            model(**batch)
            with pytest.raises(tokensieve.TokensieveError, match="already attached"), session:
                pass


@pytest.mark.parametrize("family", FAMILIES)
def test_projections_that_are_exchanged_while_attached(family: str) -> None:
    """LoRA and quantization put other modules there: they are looked up when they are used."""
    model, batch = build(family), inputs(family, [prompt(family, 1)])
    where = {
        "llava": ("vision_tower.encoder.layers.1.self_attn", "k_proj"),
        "qwen-vl": ("visual.blocks.1.attn", "qkv"),
        "internvl": ("vision_tower.encoder.layer.2.attention", "k_norm"),
        "llava-pixtral": ("vision_tower.transformer.layers.2.attention", "k_proj"),
    }[family]
    try:
        owner = model.model.get_submodule(where[0])
    except AttributeError:  # older versions have one level more
        owner = model.model.vision_tower.vision_model.encoder.layers[1].self_attn
    other = copy.deepcopy(getattr(owner, where[1]))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.copy_(torch.randn_like(parameter))
        with tokensieve.attach(model, VISION) as session:
            model(**batch)
            before = kept_of(session)
            setattr(owner, where[1], other)
            model(**batch)
            after = kept_of(session)
    assert after == expected_kept(model, batch) != before


@pytest.mark.filterwarnings("ignore")
def test_compiled_models_are_pruned_or_refused() -> None:
    model = build("llava", torch.float32)
    batch = inputs("llava", [prompt("llava", 1)], dtype=torch.float32)
    with torch.no_grad():
        untouched = model(**batch).logits
        with tokensieve.attach(model, DEEP):
            pruned = model(**batch).logits
        for layer in model.model.language_model.layers:
            layer.compile(backend="eager")
        model(**batch)
        with tokensieve.attach(model, DEEP):
            try:
                torch.testing.assert_close(model(**batch).logits, pruned)
            except GuardError:
                pass
        torch.testing.assert_close(model(**batch).logits, untouched)


def test_hooks_that_somebody_kept_do_nothing_after_detach() -> None:
    """Compiled code can go on running them."""
    model, batch = build("llava"), inputs("llava", [prompt("llava", 1)])
    with torch.no_grad():
        untouched = model(**batch).logits
        session = tokensieve.attach(model, DEEP)
        model(**batch)
        kept = {
            (module, name): dict(getattr(module, name))
            for module in model.modules()
            for name in ("_forward_hooks", "_forward_pre_hooks")
        }
        session.detach()
        for (module, name), hooks in kept.items():
            for number, hook in hooks.items():
                if type(hook).__name__ == "OwnHook":
                    getattr(module, name)[number] = lambda *args, hook=hook: hook(*args, {}, None)
        assert torch.equal(model(**batch).logits, untouched)


# ---------------------------------------------------------------- what is visual


@pytest.mark.parametrize("family", FAMILIES)
def test_features_merged_by_the_caller(family: str) -> None:
    """``generate(input_ids=..., inputs_embeds=...)``: the ids say which rows are visual."""
    model, batch = build(family), inputs(family, [prompt(family, 1), prompt(family, 2)])
    with torch.no_grad():
        with tokensieve.attach(model, DEEP):
            expected = model.generate(**batch, **GREEDY)
        features = torch.cat([part.flatten(0, -2) for part in encoded(model, batch).pooler_output])
        embeds = model.get_input_embeddings()(batch["input_ids"]).clone()
        embeds[batch["input_ids"] == IMAGE] = features
        rest = without_pictures(batch)
        with tokensieve.attach(model, DEEP) as session:
            made = model.generate(**rest, inputs_embeds=embeds, **GREEDY)
        assert session.trace.stages[-1].after < session.trace.visual_tokens
        assert torch.equal(made[:, -4:], expected[:, -4:])


def test_embeddings_and_pictures_without_ids() -> None:
    model, batch = build("llava"), inputs("llava", [prompt("llava", 1)])
    embeds = model.get_input_embeddings()(batch.pop("input_ids"))
    with (
        tokensieve.attach(model, DEEP),
        pytest.raises(UnsupportedError, match="give the input_ids"),
    ):
        model(inputs_embeds=embeds, **batch)


@pytest.mark.parametrize("family", FAMILIES)
def test_text_that_looks_like_placeholders(family: str) -> None:
    """Rounded to zero, the embeddings of a word and of a placeholder are the same."""
    model = build(family)
    table = model.get_input_embeddings().weight
    with torch.no_grad():
        table[IMAGE] = 0
        table[40] = 0
        embeds = model.get_input_embeddings()(torch.tensor([[2, 3, 40, 40, 40, 40, 5, 6]]))
        untouched = model(inputs_embeds=embeds).logits
        with tokensieve.attach(model, DEEP) as session:
            with pytest.warns(RuntimeWarning, match="taken for text"):
                made = model(inputs_embeds=embeds).logits
    assert torch.equal(made, untouched)
    assert session.trace.visual_tokens == [0]
    assert any("taken for text" in note for note in session.trace.notes)


# ---------------------------------------------------------------- rows that are read


@pytest.mark.parametrize("family", FAMILIES)
def test_prompt_that_ends_with_an_image(family: str) -> None:
    """Its last row is read: it is there, or the call is refused."""
    model = build(family)
    batch = inputs(family, [Prompt(4, (DEFAULT_IMAGES[family][0],), 0, seed=3)])
    cut = int((batch["input_ids"][0] == IMAGE).nonzero()[-1]) + 1
    ending = {
        name: values[:, :cut] if name in ("input_ids", "attention_mask", "mm_token_type_ids")
        else values
        for name, values in batch.items()
    }  # fmt: skip
    refused = {"name": "first", "at": 2, "score": "uniform", "select": "top-k", "keep": 1}
    with tokensieve.attach(model, refused), torch.no_grad():
        with pytest.raises(UnsupportedError, match="ends with an image"):
            model.generate(**ending, **GREEDY)
        with pytest.raises(UnsupportedError, match="ends with an image"):
            model(**ending, logits_to_keep=1)
        model(**ending)

    class Last(tokensieve.Scorer):
        """Later tokens are more important."""

        name = "last"

        def score(self, view: tokensieve.View) -> torch.Tensor:
            return view.index.float()

    spec = {"name": "last", "stages": [{"at": 2, "score": [{"scorer": Last()}], "keep": 3}]}
    with tokensieve.attach(model, spec), torch.no_grad():
        assert bool(model(**ending, logits_to_keep=1).logits.abs().sum() > 0)


def test_rows_that_logits_to_keep_asks_for() -> None:
    model = build("llava")
    batch = inputs("llava", [Prompt(3, (1,), 4, seed=1)])
    rows = batch["input_ids"].shape[1]
    spec = {"name": "s", "at": 2, "score": "uniform", "keep": 2}
    with tokensieve.attach(model, spec), torch.no_grad():
        whole = model(**batch).logits
        text = torch.tensor([0, 2, rows - 1])
        for wanted, there in ((4, whole[:, -4:]), (text, whole[:, text])):
            torch.testing.assert_close(model(**batch, logits_to_keep=wanted).logits, there)
        for wanted in (5, 12, torch.tensor([rows - 6])):
            with pytest.raises(UnsupportedError, match="logits_to_keep reaches into one"):
                model(**batch, logits_to_keep=wanted)


# ---------------------------------------------------------------- no cache


@pytest.mark.parametrize("spec", [DEEP, VISION, MERGED, SMALLER], ids=lambda spec: spec["name"])
@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_cache_tokens_are_chosen_once(family: str, spec: Any) -> None:
    model = build(family)
    small, large = DEFAULT_IMAGES[family]
    sizes = (small, small) if spec is SMALLER else (large, small)
    batch = inputs(family, [Prompt(3, sizes, 5, seed=1), Prompt(5, (small,), 2, seed=2)])
    answers = []
    for use_cache in (True, False):
        with tokensieve.attach(model, spec) as session:
            output = model.generate(
                **batch, **GREEDY, use_cache=use_cache, output_logits=True,
                return_dict_in_generate=True,
            )  # fmt: skip
        answers.append((kept_of(session), torch.stack(output.logits)))
    assert answers[0][0] == answers[1][0]
    torch.testing.assert_close(answers[0][1], answers[1][1], atol=1e-6, rtol=0)


def test_without_a_cache_the_oracle_agrees() -> None:
    model, asked = build("llava"), [prompt("llava", 1), prompt("llava", 2)]
    batch = inputs("llava", asked)
    with tokensieve.attach(model, DEEP) as session:
        output = model.generate(
            **batch, **GREEDY, use_cache=False, output_logits=True, return_dict_in_generate=True
        )
    start = batch["input_ids"].shape[1]
    for sample, one in enumerate(asked):
        generated = output.sequences[sample, start:-1].tolist()
        conversation = conversation_of("llava", one, session.trace, sample, generated)
        expected = oracle_logits(model, "llava", conversation, "reindex")[-4:]
        actual = torch.stack([step[sample] for step in output.logits]).double()
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def test_two_prompts_without_a_cache_are_two_choices() -> None:
    model = build("llava")
    batches = [inputs("llava", [prompt("llava", seed)]) for seed in (1, 4)]
    with tokensieve.attach(model, DEEP), warnings.catch_warnings():
        made = [model.generate(**batch, **GREEDY, use_cache=False) for batch in batches]
    for batch, ids in zip(batches, made, strict=True):
        with tokensieve.attach(model, DEEP):
            assert torch.equal(model.generate(**batch, **GREEDY), ids)
