"""Prompts run inside generate, masks that change, look-alike pictures, rows by any index."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from oracle import Conversation, conversation_of, oracle_logits, turn_of, vision_inputs
from tiny_models import DEFAULT_IMAGES, IMAGE, SPECIAL, Prompt, build, continuing, inputs
from transformers import LogitsProcessor, LogitsProcessorList

import tokensieve
from tokensieve.core.contract.shrinking import small_grid
from tokensieve.core.errors import GuardError, SignalError, UnsupportedError

FAMILIES = ("llava", "qwen-vl", "internvl", "llava-pixtral")
MIDDLE = {"name": "middle", "at": 2, "score": "attention", "keep": 0.4}
VISION = {"name": "vision", "at": 0, "score": "cls-attention", "keep": 0.4}
SMALLER = {"name": "smaller", "stages": [{"at": "image", "keep": 0.5}]}
EVEN = {"name": "even", "at": 0, "score": "uniform", "keep": 0.4}
SPECS = [MIDDLE, VISION, SMALLER]
GREEDY: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "suppress_tokens": SPECIAL}
TEXT = torch.tensor([[1, 5, 6]])


def asked(family: str, seed: int = 1) -> Prompt:
    return Prompt(3 + seed % 3, (DEFAULT_IMAGES[family][seed % 2 - 1],), 4, seed=seed)


class Meanwhile(LogitsProcessor):
    """Does something else at every step, and leaves the scores alone."""

    def __init__(self, other: Callable[[], Any]) -> None:
        self.other = other

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        self.other()
        return scores


# ---------------------------------------------------------------- prompts inside generate

INSIDE: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "a forward": lambda model, other: model(**other),
    "text": lambda model, other: model(input_ids=TEXT),
    "text without a cache": lambda model, other: model(input_ids=TEXT, use_cache=False),
    "generate": lambda model, other: model.generate(**other, **GREEDY),
    "generate without a cache": lambda model, other: model.generate(
        **other, **GREEDY, use_cache=False
    ),
}


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("inside", INSIDE.values(), ids=INSIDE)
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec["name"])
def test_another_prompt_inside_generate_changes_nothing(
    spec: Any, inside: Any, use_cache: bool
) -> None:
    """A criterion that asks the model about another picture, at every step."""
    family = "llava"
    model = build(family)
    batch, other = (inputs(family, [asked(family, seed)]) for seed in (1, 2))
    with tokensieve.attach(model, spec):
        alone = model.generate(**batch, **GREEDY, use_cache=use_cache)
        processor = Meanwhile(lambda: inside(model, other))
        ids = model.generate(
            **batch,
            **GREEDY,
            use_cache=use_cache,
            logits_processor=LogitsProcessorList([processor]),
        )
    assert torch.equal(ids, alone)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("given", [True, False], ids=["negative prompt", "none"])
@pytest.mark.parametrize("family", ["llava", "internvl", "llava-pixtral"])
def test_guidance_is_that_of_the_oracle(family: str, given: bool, use_cache: bool) -> None:
    """Guidance runs a second prompt, shorter than the first, on the same model."""
    model, batch, scale = build(family), inputs(family, [asked(family)]), 1.5
    prompt = batch["input_ids"][0].tolist()
    negative = [1, 9, 8, 7] if given else prompt[-1:]
    option = {"negative_prompt_ids": torch.tensor([negative])} if given else {}
    with tokensieve.attach(model, MIDDLE) as session:
        ids = model.generate(**batch, **GREEDY, guidance_scale=scale, use_cache=use_cache, **option)
        with torch.no_grad():
            model(**batch)
        trace = session.trace
    said: list[int] = []
    for _ in range(4):
        guided = oracle_logits(
            model, family, conversation_of(family, asked(family), trace, 0, said), "keep"
        )[-1].log_softmax(-1)
        with torch.no_grad():
            free = model(input_ids=torch.tensor([[*negative, *said]])).logits[0, -1].log_softmax(-1)
        scores = scale * (guided - free) + free
        scores[SPECIAL] = -math.inf
        said.append(int(scores.argmax()))
    assert ids[0, len(prompt) :].tolist() == said


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec["name"])
def test_a_session_that_ends_while_generate_runs_gives_no_answer(spec: Any) -> None:
    """Without a cache the rest of the answer would be the untouched model's."""
    model, batch = build("llava"), inputs("llava", [asked("llava")])
    session = tokensieve.attach(model, spec)
    ending = LogitsProcessorList([Meanwhile(session.detach)])
    with pytest.raises(GuardError, match="was detached while generate ran"):
        model.generate(**batch, **GREEDY, use_cache=False, logits_processor=ending)


# ---------------------------------------------------------------- masks


def embedded(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """What enters the decoder, merged by hand."""
    embeds: torch.Tensor = model.get_input_embeddings()(batch["input_ids"]).clone()
    names = ("pixel_values", "image_sizes")
    features = model.get_image_features(
        **{name: batch[name] for name in names if name in batch}, return_dict=True
    ).pooler_output
    flat = torch.cat([part.reshape(-1, part.shape[-1]) for part in features])
    embeds[batch["input_ids"] == IMAGE] = flat
    return embeds


@pytest.mark.parametrize("hidden", [[], [1], [1, 2], [2, -2]], ids=str)
@pytest.mark.parametrize("first", [[], [1], [-2]], ids=str)
@pytest.mark.parametrize("family", ["llava", "internvl", "llava-pixtral"])
def test_a_later_mask_says_what_later_tokens_see(
    family: str, first: list[int], hidden: list[int]
) -> None:
    """Tokens hidden at the prompt, and others at the step behind it; the truth has short rows."""
    model, batch = build(family), inputs(family, [asked(family)])
    mask = batch["attention_mask"].clone()
    mask[0, first] = 0
    later = torch.ones_like(mask)
    later[0, hidden] = 0
    later = torch.cat([later, torch.ones_like(later[:, :1])], dim=1)
    length = mask.shape[1]
    step = {"input_ids": torch.tensor([[9]]), "position_ids": torch.tensor([[length]])}
    with torch.no_grad():
        embeds, places = embedded(model, batch), torch.arange(length)[None]
        with tokensieve.attach(model, EVEN) as session:
            output = model(**{**batch, "attention_mask": mask}, position_ids=places, use_cache=True)
            cache = continuing(model, output.past_key_values)
            logits = model(**step, attention_mask=later, **cache).logits
        image = (batch["input_ids"][0] == IMAGE).nonzero()[:, 0]
        gone = set(image.tolist()) - {int(image[k]) for k in session.trace.stages[0].kept[0]}
        rows = [row for row in range(length) if row not in gone]
        cache = model(
            inputs_embeds=embeds[:, rows],
            attention_mask=mask[:, rows],
            position_ids=places[:, rows],
            use_cache=True,
        ).past_key_values
        expected = model(
            **step, attention_mask=later[:, [*rows, length]], **continuing(model, cache)
        ).logits
    assert gone
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize("family", ["llava", "internvl", "llava-pixtral"])
def test_sequences_packed_into_one_sample_are_refused(family: str, at: int, attention: str) -> None:
    """Positions that start again: the model hides the first sequence from the second."""
    model, batch = build(family, attention=attention), inputs(family, [asked(family)])
    del batch["attention_mask"]
    length = batch["input_ids"].shape[1]
    places = torch.cat([torch.arange(length - 4), torch.arange(4)])[None]
    with tokensieve.attach(model, {**EVEN, "at": at}), torch.no_grad():
        with pytest.raises(UnsupportedError, match="pack several sequences into one sample"):
            model(**batch, position_ids=places, use_cache=False)
        plain = model(**batch, position_ids=torch.arange(length)[None], use_cache=False).logits
        model(**batch)
    assert not plain[0, -1].isnan().any()


# ---------------------------------------------------------------- pictures that look alike


def of_one_color(batch: dict[str, Any]) -> dict[str, Any]:
    return {**batch, "pixel_values": torch.full_like(batch["pixel_values"], 0.5)}


@pytest.mark.parametrize("shapes", [((2, 6), (6, 2)), ((3, 4), (2, 6)), ((4, 3), (6, 2))], ids=str)
def test_pictures_of_one_color_are_not_taken_for_each_other(shapes: Any) -> None:
    """Their features are equal, their rows and columns are not."""
    model, family = build("qwen-vl"), "qwen-vl"
    spec = {**VISION, "score": "received-attention", "select": "windowed"}
    prompts = [Prompt(3, (shape,), 4, seed=n) for n, shape in enumerate(shapes)]
    batches = [of_one_color(inputs(family, [prompt])) for prompt in prompts]

    def kept(**given: Any) -> list[list[int]]:
        model(**given)
        return [rows.tolist() for rows in session.trace.stages[0].kept]

    with tokensieve.attach(model, spec) as session, torch.no_grad():
        alone = [kept(**batch)[0] for batch in batches]
        assert kept(**of_one_color(inputs(family, prompts))) == alone
        names = ("pixel_values", "image_grid_thw")
        ahead = [
            model.get_image_features(**{name: batch[name] for name in names}, return_dict=True)
            for batch in batches
        ]
        del batches[0]["pixel_values"]
        with pytest.raises(SignalError, match="several pictures of other shapes"):
            model(**batches[0], mm_encoder_outputs={"image": ahead[0]})
        with pytest.raises(SignalError, match="several pictures of other shapes"):
            model.generate(**of_one_color(inputs(family, prompts)), **GREEDY, num_beams=2)


@pytest.mark.parametrize("rows", range(1, 9))
@pytest.mark.parametrize("columns", range(1, 9))
def test_smaller_pictures_of_any_shape(rows: int, columns: int) -> None:
    for tokens in (0.1, 0.5, 1, 1.5, 2, 3.5, rows * columns / 2, rows * columns - 0.5):
        height, width = small_grid((rows, columns), tokens)
        assert 1 <= height <= rows and 1 <= width <= columns
        assert height * width <= max(1, tokens)


# ---------------------------------------------------------------- rows by any index

ROWS: dict[str, Callable[[int], Any]] = {
    "list": lambda length: [length - 1, length - 2],
    "slice": lambda length: slice(length - 2, length),
    "numpy": lambda length: np.array([length - 1]),
    "flags": lambda length: torch.arange(length) >= length - 2,
    "from the end": lambda length: torch.tensor([-1, -2]),
    "negative number": lambda length: -(length - 2),
    "none": lambda length: torch.tensor([], dtype=torch.long),
}


@pytest.mark.parametrize("wanted", ROWS.values(), ids=ROWS)
def test_whatever_the_model_takes_for_rows(wanted: Any) -> None:
    model, batch = build("llava"), inputs("llava", [asked("llava")])
    rows = wanted(batch["input_ids"].shape[1])
    with tokensieve.attach(model, MIDDLE), torch.no_grad():
        whole = model(**batch).logits
        logits = model(**batch, logits_to_keep=rows).logits
    span = slice(-rows, None) if isinstance(rows, int) else rows
    torch.testing.assert_close(logits, whole[:, span], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "rows",
    [-3, [5, 6, 7, 8, 9], slice(3, 20), torch.arange(25) > 2],
    ids=lambda rows: str(rows)[:9],
)
def test_removed_rows_are_refused_however_they_are_named(rows: Any) -> None:
    model, batch = build("llava"), inputs("llava", [asked("llava")])
    with tokensieve.attach(model, MIDDLE), torch.no_grad():
        with pytest.raises(UnsupportedError, match="logits of removed visual tokens are read"):
            model(**batch, logits_to_keep=rows)


@pytest.mark.parametrize("kind", [list, tuple])
def test_sizes_of_pictures_in_plain_numbers(kind: Any) -> None:
    """Pairs of numbers are no cache."""
    model, batch = build("llava-pixtral"), inputs("llava-pixtral", [asked("llava-pixtral")])
    sizes = kind(kind(pair) for pair in batch["image_sizes"].tolist())
    with tokensieve.attach(model, MIDDLE), torch.no_grad():
        expected = model(**batch).logits
        logits = model(**{**batch, "image_sizes": sizes}).logits
    torch.testing.assert_close(logits, expected, equal_nan=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_cache_of_a_prefix_is_copied_for_every_picture(family: str) -> None:
    """A text prefix is run once, with or without a pipeline; generate gets all ids and its copy."""
    model, batch = build(family), inputs(family, [asked(family)])
    prefix = batch["input_ids"][:, :3]
    with torch.no_grad():
        before = model(input_ids=prefix, use_cache=True).past_key_values
        with tokensieve.attach(model, MIDDLE) as session:
            output = model.generate(
                **batch,
                **GREEDY,
                **continuing(model, deepcopy(before)),
                return_dict_in_generate=True,
                output_logits=True,
            )
        trace = session.trace
    length = batch["input_ids"].shape[1]
    turn = turn_of(trace, 0, 3, length - 3)
    ids = output.sequences[0].tolist()[:-1]
    expected = oracle_logits(model, family, Conversation(ids, vision_inputs(batch), [turn]), "keep")
    got = torch.stack([logits[0] for logits in output.logits])
    torch.testing.assert_close(got, expected[-4:].to(got.dtype), rtol=0, atol=1e-5)
