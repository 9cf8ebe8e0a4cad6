"""Ten situations of public reports about caches, beams, padding, hooks and threads, pruned."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from oracle import Conversation, conversation_of, oracle_logits, turn_of, vision_inputs
from tiny_models import (
    DEFAULT_IMAGES,
    IMAGE,
    PAD,
    SPECIAL,
    Prompt,
    build,
    continuing,
    image_tokens,
    inputs,
)
from torch import nn
from transformers import TextIteratorStreamer

import tokensieve

FAMILIES = ("llava", "qwen-vl", "internvl", "llava-pixtral")
SPECS: dict[str, dict[str, Any]] = {
    "vision": {"at": 0, "score": "cls-attention", "keep": 0.4},
    "deep": {
        "positions": "reindex",
        "at": [1, 3],
        "score": [
            {"scorer": "ttv", "normalize": "sum", "layers": [0, 2]},
            {"scorer": "iga", "normalize": "sum"},
        ],
        "keep": [0.6, 0.3],
    },
    "end": {"at": [2, 6], "score": {"scorer": "attention", "rows": "raters"}, "keep": [0.5, 0.2]},
}
GREEDY: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "suppress_tokens": SPECIAL}
everywhere = pytest.mark.parametrize("family", FAMILIES)
pipelines = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


def prompt(family: str, seed: int, after: int = 4) -> Prompt:
    return Prompt(3 + seed % 3, (DEFAULT_IMAGES[family][0],), after, seed=seed)


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


def oracle(
    model: Any, family: str, conversation: Conversation, spec: dict[str, Any]
) -> torch.Tensor:
    return oracle_logits(model, family, conversation, spec.get("positions", "keep"))


@dataclass
class Said:
    """Logits that a pruned model gave, and the conversation that the oracle has to be asked."""

    logits: torch.Tensor
    conversation: Conversation

    def check(self, model: Any, family: str, spec: dict[str, Any]) -> None:
        expected = oracle_logits(
            model, family, self.conversation, str(spec.get("positions", "keep"))
        )
        close(self.logits, expected[-len(self.logits) :])


# ---------------------------------------------------------------- caches


@pipelines
@everywhere
def test_a_prompt_is_cached_once_and_copied_for_every_question(
    family: str, spec: dict[str, Any]
) -> None:
    """Questions of several lengths, asked in two orders: no copy changes another one."""
    model, asked, said = build(family), prompt(family, 1), []
    questions = ([5, 6, 7], [8], [9, 10, 11, 12])
    with tokensieve.attach(model, spec) as session, torch.no_grad():
        cache = model(**inputs(family, [asked]), use_cache=True).past_key_values
        trace = session.trace
        for question in (*questions, *reversed(questions)):
            copied = continuing(model, copy.deepcopy(cache))
            logits = model(input_ids=torch.tensor([question]), **copied).logits[0]
            said.append(Said(logits, conversation_of(family, asked, trace, 0, question)))
    for one in said:
        one.check(model, family, spec)


@pipelines
@everywhere
def test_two_prompts_are_decoded_in_turns(family: str, spec: dict[str, Any]) -> None:
    """Contrastive decoding: one token of the one, one of the other, each with its own cache."""
    model, said = build(family), []
    with tokensieve.attach(model, spec) as session, torch.no_grad():
        streams = []
        for asked in (prompt(family, 1), prompt(family, 2)):
            output = model(**inputs(family, [asked]), use_cache=True)
            ids = [int(output.logits[0, -1].argmax())]
            streams.append((asked, session.trace, output.past_key_values, ids))
        for _ in range(3):
            for asked, trace, cache, ids in streams:
                step = torch.tensor([ids[-1:]])
                logits = model(input_ids=step, **continuing(model, cache)).logits[0]
                said.append(Said(logits, conversation_of(family, asked, trace, 0, ids)))
                ids.append(int(logits[-1].argmax()))
    for one in said:
        one.check(model, family, spec)


@pipelines
@everywhere
def test_beams_that_sample_have_the_likelihood_of_the_oracle(
    family: str, spec: dict[str, Any]
) -> None:
    small, large = DEFAULT_IMAGES[family]
    model = build(family)
    asked = [Prompt(3, (large, small), 4, seed=1), Prompt(4, (small,), 4, seed=2)]
    batch = inputs(family, asked)
    torch.manual_seed(0)
    with tokensieve.attach(model, spec) as session:
        output = model.generate(
            **batch, max_new_tokens=3, do_sample=True, top_k=0, num_beams=3,
            num_return_sequences=2, length_penalty=0.0, suppress_tokens=SPECIAL,
            output_scores=True, return_dict_in_generate=True,
        )  # fmt: skip
    for row, sequence in enumerate(output.sequences):
        answer = sequence[batch["input_ids"].shape[1] :].tolist()
        conversation = conversation_of(family, asked[row // 2], session.trace, row // 2 * 3, answer)
        logits = oracle_logits(model, family, conversation, str(spec.get("positions", "keep")))[
            -len(answer) - 1 : -1
        ]
        likelihood = logits.log_softmax(-1)[torch.arange(len(answer)), answer].sum().item()
        assert output.sequences_scores[row].item() == pytest.approx(likelihood, abs=1e-4)


# ---------------------------------------------------------------- counts and places


@pytest.mark.parametrize("at", [0, 2, 6])
@pytest.mark.parametrize("keep", [1e-9, 0.001, {"share": 0.01, "of": "current"}, 1])
@everywhere
def test_a_budget_that_rounds_to_nothing_leaves_one_token(family: str, keep: Any, at: int) -> None:
    """Of every image; no image is lost, and nothing is divided by zero."""
    small, large = DEFAULT_IMAGES[family]
    model, batch = build(family), inputs(family, [Prompt(3, (large, small), 4, seed=1)])
    spec = {"at": at, "score": "uniform", "keep": keep}
    with tokensieve.attach(model, spec) as session, torch.no_grad():
        logits = model(**batch).logits
    (stage,) = session.trace.stages
    assert stage.after == [2]
    first, second = stage.kept[0].tolist()
    assert first < image_tokens(family, large) <= second
    assert logits.isfinite().all()


@pytest.mark.parametrize("width", [1, 2, 7])
@pipelines
@everywhere
def test_padding_that_the_caller_added(family: str, spec: dict[str, Any], width: int) -> None:
    """On the left for `generate`; on either side, whatever the ids, for a forward."""
    model, batch = build(family), inputs(family, [prompt(family, 1)])
    length = batch["input_ids"].shape[1]

    def padded(left: int, right: int, filler: int) -> dict[str, Any]:
        fill = {"input_ids": filler, "attention_mask": 0, "mm_token_type_ids": 0}
        return {
            name: nn.functional.pad(value, (left, right), value=fill[name])
            if name in fill
            else value
            for name, value in batch.items()
        }

    with tokensieve.attach(model, spec) as session, torch.no_grad():
        plain, answer = model(**batch).logits[0], model.generate(**batch, **GREEDY)
        kept = session.trace.stages[-1].kept[0].tolist()
        again = model.generate(**padded(width, 0, PAD), **GREEDY)
        assert torch.equal(again[:, -4:], answer[:, -4:])
        for left, right, filler in ((width, 0, 7), (0, width, 7), (width, 1, PAD)):
            logits = model(**padded(left, right, filler)).logits[0, left : left + length]
            assert session.trace.stages[-1].kept[0].tolist() == kept
            close(logits, plain)


@pytest.mark.parametrize("images", [2, 3])
@pipelines
def test_images_that_touch(spec: dict[str, Any], images: int) -> None:
    """No text between them: each has its own budget, and its own pictures' scores."""
    model = build("llava")
    whole = inputs("llava", [Prompt(3, (1,) * images, 4, seed=1)])
    ids = whole["input_ids"][0].tolist()
    before, behind = ids[: ids.index(IMAGE)], ids[-4:]

    def batch(first: int, last: int) -> dict[str, Any]:
        row = torch.tensor([[*before, *[IMAGE] * 16 * (last - first), *behind]])
        pixels = whole["pixel_values"][first:last]
        return {"input_ids": row, "attention_mask": torch.ones_like(row), "pixel_values": pixels}

    with tokensieve.attach(model, spec) as session, torch.no_grad():
        alone = []
        for number in range(images):
            model(**batch(number, number + 1))
            alone.append(session.trace.stages[0].kept[0].tolist())
        logits = model(**batch(0, images)).logits[0]
    kept = session.trace.stages[0].kept[0].tolist()
    mine = [[t - 16 * n for t in kept if t // 16 == n] for n in range(images)]
    assert [len(tokens) for tokens in mine] == [len(tokens) for tokens in alone]
    if spec["at"] == 0:  # what the encoder says of a picture does not depend on the others
        assert mine == alone
    touching = batch(0, images)
    row = touching["input_ids"][0].tolist()
    turns = [turn_of(session.trace, 0, 0, len(row))]
    Said(logits[-4:], Conversation(row, vision_inputs(touching), turns)).check(model, "llava", spec)


@pipelines
@everywhere
def test_hidden_states_that_an_embedding_is_made_of(family: str, spec: dict[str, Any]) -> None:
    """Each layer's rows are those that it ran on, text last; the last row is the one that reads."""
    model, batch = build(family), inputs(family, [prompt(family, 1)])
    with tokensieve.attach(model, spec) as session, torch.no_grad():
        output = model(**batch, output_hidden_states=True)
    (layers,), (last,) = session.trace.per_layer, session.trace.stages[-1].after
    text = session.trace.text_tokens[0]
    rows = [states.shape[1] for states in output.hidden_states]
    assert rows == [text + visual for visual in (layers[0], *layers[:-1], last)]
    close(model.lm_head(output.hidden_states[-1][:, -1]), output.logits[:, -1])


# ---------------------------------------------------------------- modules and modes


@contextmanager
def offloaded(model: nn.Module) -> Iterator[None]:
    """Weights are there while their module's forward runs, as offloading does it; else `meta`."""
    owners = [module for module in model.modules() if module._parameters]
    kept = {module: dict(module._parameters) for module in owners}
    plain = {module: module.forward for module in owners}

    def away(module: nn.Module) -> None:
        for name, weight in kept[module].items():
            if weight is not None:
                module._parameters[name] = nn.Parameter(weight.to("meta"), requires_grad=False)

    def loaded(module: nn.Module) -> Any:
        def forward(*args: Any, **kwargs: Any) -> Any:
            module._parameters.update(kept[module])
            try:
                return plain[module](*args, **kwargs)
            finally:
                away(module)

        return forward

    for module in owners:
        away(module)
        module.forward = loaded(module)
    try:
        yield
    finally:
        for module in owners:
            del module.forward
            module._parameters.update(kept[module])


@pipelines
@everywhere
def test_weights_that_are_there_only_while_their_module_runs(
    family: str, spec: dict[str, Any]
) -> None:
    model, batch = build(family), inputs(family, [prompt(family, 1)])
    with torch.no_grad():
        untouched = model.generate(**batch, **GREEDY)
        with tokensieve.attach(model, spec) as session:
            answer, kept = model.generate(**batch, **GREEDY), session.trace.stages[0].kept[0]
        with offloaded(model), tokensieve.attach(model, spec) as session:
            assert torch.equal(model.generate(**batch, **GREEDY), answer)
            assert torch.equal(session.trace.stages[0].kept[0], kept)
        assert torch.equal(model.generate(**batch, **GREEDY), untouched)


MODES = {"inference": torch.inference_mode, "no grad": torch.no_grad, "grad": nullcontext}


@pytest.mark.parametrize("mode", MODES)
@pipelines
@everywhere
def test_modes_are_mixed_on_one_session(family: str, spec: dict[str, Any], mode: str) -> None:
    """A prompt whose cache was made in inference mode is continued outside of it, and back."""
    model, asked = build(family), prompt(family, 1)
    with tokensieve.attach(model, spec) as session:
        with MODES[mode]():
            batch = inputs(family, [asked])
            answer = model.generate(**batch, **GREEDY)
        plain = inputs(family, [asked])
        assert torch.equal(model.generate(**plain, **GREEDY), answer)
        with torch.no_grad():
            logits = model(**batch).logits[0]
    Said(logits[-4:], conversation_of(family, asked, session.trace, 0)).check(model, family, spec)


class Numbers:
    """A tokenizer whose text is the ids themselves."""

    def decode(self, ids: Any, **options: Any) -> str:
        return "".join(f"{int(token)} " for token in (ids if hasattr(ids, "__len__") else [ids]))


@pipelines
@everywhere
def test_answers_are_streamed_from_threads(family: str, spec: dict[str, Any]) -> None:
    """Two at once: what each reader gets, token by token, is its own answer."""
    model = build(family)
    batches = [inputs(family, [prompt(family, seed)]) for seed in (1, 2)]
    with tokensieve.attach(model, spec):
        expected = [model.generate(**batch, **GREEDY)[0, -4:].tolist() for batch in batches]
        tokenizer: Any = Numbers()
        streamers = [TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60) for _ in batches]
        threads = [
            threading.Thread(
                target=model.generate, kwargs={**batch, **GREEDY, "streamer": streamer}
            )
            for batch, streamer in zip(batches, streamers, strict=True)
        ]
        for thread in threads:
            thread.start()
        streamed = ["".join(streamer).split() for streamer in streamers]
        for thread in threads:
            thread.join()
    assert [[int(token) for token in tokens] for tokens in streamed] == expected
    assert expected[0] != expected[1]
