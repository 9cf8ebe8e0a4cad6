"""Signal anatomy: the worth of a token is what the masked oracle says, scores are the scorer's."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import Conversation, Turn, oracle_logits, vision_inputs
from PIL import Image

import tokensieve
from tokensieve.core.contract.panel import Panel
from tokensieve.core.contract.tasks import Box, Example
from tokensieve.core.errors import ModelError
from tokensieve.core.models.loading import LoadedModel, load_model
from tokensieve.core.output.quiet import quiet_transformers
from tokensieve.core.plugins.discovery import build_registry
from tokensieve.core.run.prompts import VisualQuestion, prepare
from tokensieve.core.study.spec.parts import term_label
from tokensieve.core.study.work.relevance import relevant_tokens
from tokensieve.core.study.work.token_attribution import (
    able_terms,
    examine,
    leave_one_out,
    read_terms,
    score_tokens,
)

FAMILIES = ("llava", "qwen-vl", "internvl")
REGISTRY = build_registry()
ANSWERS = {"llava": "red 7", "qwen-vl": "w7 w9", "internvl": "w7 w9"}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def loaded(family: str, folders: dict[str, Path]) -> LoadedModel:
    with quiet_transformers():
        found = load_model(str(folders[family]), REGISTRY)
    assert isinstance(found, LoadedModel)
    found.model.double()
    return found


@pytest.fixture
def example(family: str, picture: Path) -> Example:
    image = Image.open(picture).convert("RGB")
    return Example("one", (image,), "w11 w12", ANSWERS[family], ((Box(0.0, 0.0, 0.5, 0.5),),))


def prompt(loaded: LoadedModel, example: Example) -> Any:
    return prepare(loaded, VisualQuestion(example.question, example.images))


def test_leaving_one_out_is_masking_it(
    family: str, loaded: LoadedModel, example: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oracle.IMAGE", loaded.bound.placeholder_ids[0])
    inputs = prompt(loaded, example)
    with torch.no_grad():
        full, worth = leave_one_out(loaded, inputs, example.answer, batch=5)
        answer = loaded.processor.tokenizer(example.answer, add_special_tokens=False).input_ids
        ids = [*inputs["input_ids"][0].tolist(), *answer]
        count = sum(i in loaded.bound.placeholder_ids for i in ids)
        assert len(worth) == count > 5

        def likelihood(kept: list[int]) -> float:
            turns = [Turn(0, len(ids), {0: kept})]
            conversation = Conversation(ids, vision_inputs(dict(inputs)), turns)
            logits = oracle_logits(loaded.model, family, conversation, "keep")
            chances = logits.log_softmax(dim=-1)
            first = len(ids) - len(answer)
            return sum(float(chances[first + n - 1, token]) for n, token in enumerate(answer))

        assert full == pytest.approx(likelihood(list(range(count))), abs=1e-9)
        for token in range(0, count, max(1, count // 16)):
            without = likelihood([other for other in range(count) if other != token])
            assert worth[token] == pytest.approx(full - without, abs=1e-9)


def test_the_batch_makes_no_difference(loaded: LoadedModel, example: Example) -> None:
    inputs = prompt(loaded, example)
    with torch.no_grad():
        alone, together = (
            leave_one_out(loaded, inputs, example.answer, batch=size)[1] for size in (3, 100)
        )
    assert alone == pytest.approx(together, abs=1e-9)


def test_scores_are_those_that_a_pipeline_keeps_by(loaded: LoadedModel, example: Example) -> None:
    inputs = prompt(loaded, example)
    for scorer in ("ttv", "iga", "random"):
        (scores,) = score_tokens(loaded, inputs, read_terms([scorer], REGISTRY), 2, seed=3)
        pipeline = {"at": 2, "score": scorer, "keep": 4, "scope": "sample"}
        with tokensieve.attach(loaded.model, pipeline, seed=3) as session, torch.no_grad():
            loaded.model(**inputs)
        kept = session.trace.stages[0].kept[0].tolist()
        if len(loaded.bound.split_run(len(scores))) == 1:
            best = sorted(range(len(scores)), key=lambda token: -scores[token])[:4]
            assert kept == sorted(best)


def test_a_record_is_plain_and_whole(loaded: LoadedModel, example: Example) -> None:
    terms = read_terms(["iga", {"scorer": "ttv", "variant": "block"}], REGISTRY)
    (record,) = examine(loaded, [example], terms, 2)
    count = len(record["loo"])
    assert record["rows"] * record["columns"] == count
    assert {name: len(scores) for name, scores in record["scores"].items()} == {
        "iga": count,
        "ttv (variant=block)": count,
    }
    assert 0 < sum(record["relevant"]) < count
    assert len(record["relevant"]) == count
    covered = sum(rows * columns for rows, columns, _ in record["panels"][0])
    assert covered == count
    copy = Image.open(io.BytesIO(base64.b64decode(record["pictures"][0])))
    assert copy.size == example.images[0].size


def test_scorers_that_cannot_look_are_named(loaded: LoadedModel, example: Example) -> None:
    terms = read_terms(["ttv", "random"], REGISTRY)
    able, missing = able_terms(loaded, terms, 0)
    assert [term_label(term) for term in able] == ["random"]
    assert "needs transitions" in missing["ttv"]


def test_an_answer_without_tokens_is_refused(loaded: LoadedModel, example: Example) -> None:
    with pytest.raises(ModelError, match="has no tokens"):
        leave_one_out(loaded, prompt(loaded, example), "")


ADAPTER = """
from tokensieve.adapters.llava import LlavaAdapter
import tokensieve

class Found(LlavaAdapter):
    \"\"\"Another family.\"\"\"

    name = "another"
    model_types = frozenset({"another"})
    calls = []

    @classmethod
    def recognizes(cls, model):
        cls.calls.append(model)
        return False

@tokensieve.hookimpl
def tokensieve_register(registry):
    registry.add(Found)
"""


def test_plugin_files_reach_every_attach(folders: dict[str, Path], tmp_path: Path) -> None:
    """An adapter that comes in a file is asked whenever a pipeline goes onto the model."""
    file = tmp_path / "another.py"
    file.write_text(ADAPTER)
    registry = build_registry([file])
    with quiet_transformers():
        loaded = load_model(str(folders["qwen-vl"]), registry)
    image = Image.new("RGB", (56, 56))
    example = Example("one", (image,), "w11 w12", ANSWERS["qwen-vl"])
    calls = registry.get("adapter", "another").calls
    (record,) = examine(loaded, [example], read_terms(["random"], registry), 1, plugins=[file])
    assert len(calls) == 1 + -(-len(record["loo"]) // 16)


# ------------------------------------------------------------------ relevance


WHOLE = Panel(2, 4, (0.0, 0.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        (Box(0.0, 0.0, 0.25, 0.5), [0]),
        (Box(0.3, 0.1, 0.35, 0.2), [1]),  # much smaller than a patch
        (Box(0.2, 0.0, 0.5, 0.5), [1]),  # a fifth of patch 0 is not enough
        (Box(0.125, 0.25, 0.375, 0.75), [0, 1, 4, 5]),
        (Box(0.0, 0.0, 1.0, 1.0), list(range(8))),
    ],
)
def test_patches_under_a_box(box: Box, expected: list[int]) -> None:
    flags = relevant_tokens([[WHOLE]], [[box]])
    assert [token for token, flag in enumerate(flags) if flag] == expected


def test_tiles_overview_and_several_pictures() -> None:
    tiles = [Panel(1, 1, (0.0, 0.0, 0.5, 1.0)), Panel(1, 1, (0.5, 0.0, 1.0, 1.0)), WHOLE]
    right = Box(0.75, 0.0, 1.0, 0.5)
    flags = relevant_tokens([tiles, [WHOLE]], [[right], []])
    assert flags == [0, 1, 0, 0, 0, 1, 0, 0, 0, 0, *[0] * 8]
    assert relevant_tokens([[WHOLE]], []) == []
    assert relevant_tokens([[WHOLE]], [[]]) == []
