"""`order: selection` puts each image's tokens into the order in which the selector took them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from generating import prompts
from oracle import conversation_of, oracle_logits
from tiny_models import Prompt, build, inputs
from torch import Tensor

import tokensieve
from tokensieve.core.contract.view import View
from tokensieve.core.errors import PluginError
from tokensieve.strategies.selectors.composite import CompositeSelector
from tokensieve.strategies.selectors.top_k import TopKSelector

SELECTORS: dict[str, Any] = {
    "top-k": "top-k",
    "bottom-k": "bottom-k",
    "threshold": {"selector": "threshold", "rule": "quantile", "value": 0.6, "grid": True},
    "max-min": "max-min",
    "dpp": "dpp",
    "coverage": {"selector": "coverage", "features": "hidden"},
    "dedupe": {"selector": "dedupe", "features": "hidden"},
    "pivots": "pivots",
    "dilated": {"selector": "dilated", "share": 1.0},
    "windowed": {"selector": "windowed", "windows": [2, 2]},
    "partitioned": {"selector": "partitioned", "parts": 3},
    "composite": {
        "selector": "composite",
        "parts": [{"share": 0.5, "select": "bottom-k"}, {"select": "max-min"}],
    },
}


def stage(select: Any, **more: Any) -> dict[str, Any]:
    return {"at": 1, "score": "hidden-change", "select": select, "keep": 0.4} | more


def stages_of(model: Any, batch: dict[str, Any], pipeline: Any) -> list[Any]:
    """Positions are counted from the prompt's own start, as `generate` does."""
    positions = (batch["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
    with torch.no_grad(), tokensieve.attach(model, pipeline) as session:
        model(**batch, position_ids=positions)
        return list(session.trace.stages)


@pytest.mark.parametrize("select", SELECTORS.values(), ids=SELECTORS)
def test_the_order_changes_no_choice_and_no_batch_changes_the_order(select: Any) -> None:
    model, asked = build("llava"), prompts("llava")[:2]
    selection = {**stage(select, order="selection"), "positions": "reindex"}
    (raster,) = stages_of(model, inputs("llava", asked), stage(select))
    (ordered,) = stages_of(model, inputs("llava", asked), selection)
    moved = False
    for sample, prompt in enumerate(asked):
        assert ordered.kept[sample].tolist() == raster.kept[sample].tolist()
        assert sorted(ordered.order[sample].tolist()) == ordered.kept[sample].tolist()
        moved |= ordered.order[sample].tolist() != ordered.kept[sample].tolist()
        (alone,) = stages_of(model, inputs("llava", [prompt]), selection)
        assert ordered.order[sample].tolist() == alone.order[0].tolist()
    assert moved


@pytest.mark.parametrize("select", ["max-min", SELECTORS["composite"]], ids=["max-min", "parts"])
def test_tokens_in_their_order_equal_the_masked_oracle(select: Any) -> None:
    model, prompt = build("llava"), Prompt(3, (1,), 5, seed=4)
    batch = inputs("llava", [prompt])

    pipeline = {**stage(select, order="selection"), "positions": "reindex"}
    with torch.no_grad(), tokensieve.attach(model, pipeline) as session:
        logits = model(**batch).logits[0, -1]
        conversation = conversation_of("llava", prompt, session.trace, 0)
    expected = oracle_logits(model, "llava", conversation, "reindex")
    torch.testing.assert_close(logits, expected[-1], rtol=0, atol=1e-9)


class BackToFront(tokensieve.Selector):
    """Takes the last tokens, the last one first; says so in the call that decides."""

    name = "back-to-front"

    def take_in_order(
        self, scores: Tensor, available: Tensor, counts: list[int], view: View
    ) -> Tensor:
        behind = available.flip(1).long().cumsum(dim=1).flip(1)
        taken = available & (behind <= torch.tensor(counts)[:, None])
        return (100 * behind).masked_fill(~taken, 0)

    def select(self, scores: Tensor, available: Tensor, counts: list[int], view: View) -> Tensor:
        return self.take_in_order(scores, available, counts, view) > 0


class Strided(tokensieve.Selector):
    """Takes every other token and defines nothing but `select`."""

    name = "strided"

    def select(self, scores: Tensor, available: Tensor, counts: list[int], view: View) -> Tensor:
        place = available.long().cumsum(dim=1) - 1
        return available & (place % 2 == 0) & (place // 2 < torch.tensor(counts)[:, None])


@pytest.mark.parametrize("scope", ["image", "sample"])
def test_every_image_keeps_its_place_in_the_prompt(scope: str) -> None:
    """Two images of 36 tokens: with one budget for both, all of it goes to the second."""
    batch = inputs("llava", [Prompt(3, (1, 1), 5, seed=2)])
    pipeline = stage(BackToFront(), keep=3, order="selection", scope=scope)
    (one,) = stages_of(build("llava"), batch, pipeline)
    tokens = one.before[0] // 2
    last = [2 * tokens - 1 - n for n in range(6 if scope == "sample" else 3)]
    first = [] if scope == "sample" else [tokens - 1, tokens - 2, tokens - 3]
    assert one.order[0].tolist() == [*first, *last]


def test_one_budget_for_two_images_is_arranged_image_by_image() -> None:
    batch = inputs("llava", [Prompt(3, (1, 1), 5, seed=2)])
    more = {"order": "selection", "scope": "sample"}
    (one,) = stages_of(build("llava"), batch, stage(BackToFront(), keep=0.75, **more))
    tokens = one.before[0] // 2
    kept = int(0.75 * tokens) * 2
    second = [2 * tokens - 1 - n for n in range(tokens)]
    assert one.order[0].tolist() == [tokens - 1 - n for n in range(kept - tokens)] + second


def test_parts_stand_in_the_order_of_their_selectors() -> None:
    batch = inputs("llava", [Prompt(3, (1,), 5, seed=3)])
    parts = [{"share": 0.5, "select": Strided(), "score": "uniform"}, {"select": BackToFront()}]
    select = CompositeSelector.model_validate({"parts": parts})
    (one,) = stages_of(build("llava"), batch, stage(select, keep=6, order="selection"))
    last = one.before[0] - 1
    order = one.order[0].tolist()
    assert sorted(order[:3]) == [0, 2, 4]
    assert order[3:] == [last, last - 1, last - 2]


def test_a_selector_that_only_selects_is_ordered_by_score() -> None:
    batch = inputs("llava", [Prompt(3, (1,), 5, seed=3)])
    pipeline = stage(Strided(), score="uniform", keep=5, order="selection")
    (one,) = stages_of(build("llava"), batch, pipeline)
    (ranked,) = stages_of(
        build("llava"), batch, {"at": 1, "score": "uniform", "keep": 0.99, "order": "selection"}
    )
    assert one.kept[0].tolist() == [0, 2, 4, 6, 8]
    expected = [token for token in ranked.order[0].tolist() if token in one.kept[0].tolist()]
    assert one.order[0].tolist() == expected


class Turns(tokensieve.Selector):
    """Answers what it is told to, whatever it is asked."""

    name = "turns"
    answer: Any = None

    def take_in_order(
        self, scores: Tensor, available: Tensor, counts: list[int], view: View
    ) -> Tensor:
        given: Tensor = self.answer(available)
        return given

    def select(self, scores: Tensor, available: Tensor, counts: list[int], view: View) -> Tensor:
        given: Tensor = self.answer(available)
        return given


WRONG: dict[str, Any] = {
    "numbers for a mask": lambda available: available.long(),
    "real numbers": lambda available: available.double(),
    "another shape": lambda available: available[:, 1:].long(),
    "a list": lambda available: available.long().tolist(),
}


@pytest.mark.parametrize("answer", WRONG.values(), ids=WRONG)
def test_what_is_no_mask_of_the_tokens_is_refused(answer: Any) -> None:
    batch = inputs("llava", [Prompt(3, (1,), 5, seed=3)])
    expected = r"selector 'turns' at stage 1, .* must return a bool tensor \(1, \d+\) on cpu"
    with pytest.raises(PluginError, match=expected):
        stages_of(build("llava"), batch, stage(Turns(answer=answer), keep=6))


@pytest.mark.parametrize("wrong", ["a mask", *list(WRONG)[1:]])
def test_turns_that_are_no_integers_are_refused(wrong: str) -> None:
    answer = {**WRONG, "a mask": lambda available: available}[wrong]
    batch = inputs("llava", [Prompt(3, (1,), 5, seed=3)])
    expected = r"selector 'turns' at .*: take_in_order must return an integer tensor \(1, \d+\) on"
    with pytest.raises(PluginError, match=expected):
        stages_of(build("llava"), batch, stage(Turns(answer=answer), keep=6, order="selection"))


def test_every_selector_takes_in_order() -> None:
    """One that only selects, too: its own order, counted; padding and other tokens are 0."""
    scores = torch.tensor([[0.3, 0.1, 0.9, 0.5], [0.2, 0.4, 9.0, 9.0]])
    available = torch.tensor([[True, True, True, True], [True, True, False, False]])
    view = View(available, torch.zeros(2, 4, dtype=torch.long), {}, keys=[0, 1], boundary=0)
    turns = TopKSelector().take_in_order(scores, available, [2, 2], view)
    assert turns.tolist() == [[0, 0, 1, 2], [2, 1, 0, 0]]


def test_others_that_stay_follow_the_kept_tokens() -> None:
    """Rows into which a merger merges, but which the selector did not take."""
    batch = inputs("llava", [Prompt(3, (1,), 5, seed=3)])
    merge = {"merger": "contextual", "keep": 3, "order": "raster"}
    pipeline = {"at": 0, "score": "uniform", "select": BackToFront(), "merge": merge}
    (one,) = stages_of(build("llava"), batch, {**pipeline, "keep": 8, "order": "selection"})
    last, order = one.before[0] - 1, one.order[0].tolist()
    assert order[: len(order) - 3] == [last - n for n in range(len(order) - 3)]
    assert order[-3:] == sorted(order[-3:])
