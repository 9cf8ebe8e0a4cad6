"""What components remember goes along with the tokens, and what the engine tells them is so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import Field
from tiny_models import DEFAULT_IMAGES, FAMILIES, Prompt, build, inputs

import tokensieve
from tokensieve.core.contract.view import View
from tokensieve.core.pipeline.pipeline import Pipeline
from tokensieve.core.pipeline.stage import ScoreTerm, Stage


class Diary(tokensieve.Scorer):
    """Rank tokens at random; remember each token's index and a number per text token."""

    name = "diary"
    needs = frozenset({"embeddings", "hidden"})
    seen: Any = Field(repr=False)

    def score(self, view: View) -> torch.Tensor:
        before, words = view.recall("index"), view.recall("words", per="text")
        self.seen.append((view.boundary, view.index.clone(), view.valid.clone(), before, words))
        view.remember("index", view.index.double()[..., None] + 1)
        if words is None:
            text = view.embeddings.text
            view.remember("words", text.sum(dim=-1), per="text")
        return torch.sin(view.index.double() * 12.9898 + 3)


def diary(stages: list[dict[str, Any]]) -> tuple[Pipeline, list[Any]]:
    seen: list[Any] = []
    terms = (ScoreTerm(scorer=Diary(seen=seen)),)
    made = tuple(Stage(**{"score": terms, **stage}) for stage in stages)
    return Pipeline(name="diary", stages=made), seen


def prompts(family: str) -> list[Prompt]:
    small, large = DEFAULT_IMAGES[family]
    return [Prompt(3, (small,), 5, seed=0), Prompt(6, (large, small), 4, seed=1)]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_values_follow_their_tokens_through_prunes_and_merges(family: str, side: str) -> None:
    pipeline, seen = diary(
        [
            {"at": 0, "keep": 0.8},
            {"at": [1, 3], "keep": [0.6, 0.3], "merge": "recycle"},
            {"at": 5, "keep": 2, "order": "selection"},
        ]
    )
    model = build(family)
    with tokensieve.attach(model, pipeline), torch.no_grad():
        model(**inputs(family, prompts(family), side=side))
    assert [boundary for boundary, *_ in seen] == [0, 1, 3, 5]
    first_words = None
    for number, (_, index, valid, before, words) in enumerate(seen):
        if number == 0:
            assert before is None
            assert words is None
            continue
        assert torch.equal(before[..., 0][valid], index.double()[valid] + 1)
        first_words = words if first_words is None else first_words
        assert torch.equal(words, first_words)  # text is never pruned


def stage_of(**given: Any) -> Stage:
    """As a file has it: single values for whole lists."""
    return Stage(**given)


def test_memory_ends_with_the_prefill() -> None:
    model = build("llava")
    pipeline, seen = diary([{"at": [1, 2], "keep": [0.5, 0.25]}])
    batch = inputs("llava", prompts("llava"))
    with tokensieve.attach(model, pipeline), torch.no_grad():
        model(**batch)
        model(**batch)
    assert [before is None for _, _, _, before, _ in seen] == [True, False, True, False]


def test_another_scope_does_not_find_memories_of_text() -> None:
    pipeline, seen = diary([{"at": 1, "keep": 0.5}, {"at": 2, "keep": 0.25, "scope": "sample"}])
    model = build("llava")
    with tokensieve.attach(model, pipeline), torch.no_grad():
        model(**inputs("llava", prompts("llava")))
    (_, _, _, _, first), (_, index, valid, before, words) = seen
    assert first is None
    assert words is None  # three images then, two samples now
    assert torch.equal(before[..., 0][valid], index.double()[valid] + 1)


def test_a_wrong_shape_is_refused_with_the_component_named() -> None:
    class Wrong(Diary):
        """Remembers one token too few."""

        name = "wrong"

        def score(self, view: View) -> torch.Tensor:
            view.remember("short", view.index[:, 1:])
            return view.index.double()

    pipeline = Pipeline(
        name="wrong", stages=(stage_of(at=1, score=(ScoreTerm(scorer=Wrong(seen=[])),), keep=3),)
    )
    model = build("llava")
    with (
        tokensieve.attach(model, pipeline),
        torch.no_grad(),
        pytest.raises(tokensieve.TokensieveError, match="scorer 'wrong' remembers 'short'"),
    ):
        model(**inputs("llava", prompts("llava")))


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_are_what_entered_layer_0_at_every_boundary(family: str) -> None:
    """Also for tokens that stand elsewhere by now."""
    got: list[torch.Tensor] = []

    class Reader(tokensieve.Scorer):
        """Reads the embeddings."""

        name = "reader"
        needs = frozenset({"embeddings", "hidden"})

        def score(self, view: View) -> torch.Tensor:
            states = view.embeddings
            got.append(torch.cat([states.visual[view.valid], states.text[states.valid]]))
            if view.boundary == 0:
                assert torch.equal(states.visual, view.hidden)
            return torch.cos(view.index.double() * 7)

    terms = (ScoreTerm(scorer=Reader()),)
    stage = stage_of(at=(0, 2, 4), score=terms, keep=(0.9, 0.5, 0.2), order="selection")
    model = build(family)
    entered: list[torch.Tensor] = []
    layer = model.model.language_model.layers[0]
    with tokensieve.attach(model, Pipeline(name="r", stages=(stage,))) as session, torch.no_grad():
        handle = layer.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
        model(**inputs(family, prompts(family)[:1]))
        handle.remove()
    (rows,) = entered[0]
    text = len(rows) - session.trace.stages[0].after[0]
    if family == "llava-pixtral":  # what stands between the rows of an image is no text
        text -= sum(rows - 1 for rows, _ in prompts(family)[0].images)
    for values, stage_before in zip(got[1:], session.trace.stages, strict=False):
        assert len(values) == stage_before.after[0] + text
        distance = torch.cdist(values, rows).amin(dim=1)
        assert float(distance.max()) == pytest.approx(0, abs=1e-12)
