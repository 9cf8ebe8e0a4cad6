"""The trained families see all tasks, and pruning blindly costs them something."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from tokensieve.adapters.zoo import MODELS
from tokensieve.adapters.zoo.tasks.glyphs import PATCH
from tokensieve.adapters.zoo.tasks.pictures import TASKS
from tokensieve.adapters.zoo.training.evaluate import evaluate, heldout_questions
from tokensieve.adapters.zoo.training.starting import FAMILIES
from tokensieve.core.contract.tasks import Box
from tokensieve.core.models.loading import LoadedModel, load_model
from tokensieve.core.plugins.discovery import build_registry
from tokensieve.core.run.prompts import VisualQuestion, find_panels
from tokensieve.core.study.work.relevance import relevant_tokens

REGISTRY = build_registry()
QUESTIONS = 120  # a multiple of the kinds of every task
KEPT = 0.22
CASES = [(name, task) for name in FAMILIES for task in TASKS]


@lru_cache(maxsize=1)
def loaded(name: str) -> tuple[Any, Any]:
    model = AutoModelForImageTextToText.from_pretrained(MODELS[name]).eval()
    return model, AutoProcessor.from_pretrained(MODELS[name])


def accuracy(name: str, task: str, **pruned: Any) -> float:
    questions = list(heldout_questions(QUESTIONS, task))
    return evaluate(*loaded(name), questions, batch_size=20, **pruned)["all"].accuracy


@pytest.mark.parametrize("name", FAMILIES)
def test_it_is_small_plain_and_transformers_own(name: str) -> None:
    model, processor = loaded(name)
    folder = MODELS[name]
    assert type(model) is type(FAMILIES[name]().build_model())
    assert model.dtype is torch.float32
    assert sum(p.numel() for p in model.parameters()) <= 3_000_000
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 8_000_000
    assert not [path for path in folder.iterdir() if path.suffix in {".bin", ".pt", ".py"}]
    assert processor.chat_template


@pytest.mark.parametrize("name", FAMILIES)
def test_a_large_picture_has_576_tokens_or_more(name: str) -> None:
    model, processor = loaded(name)
    image, question = next(heldout_questions(1, "needle"))
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question.text}]}]
    )
    ids = processor(images=image, text=text, return_tensors="pt")["input_ids"]
    assert int((ids == model.config.image_token_id).sum()) >= 576


@pytest.mark.parametrize(("name", "task"), CASES)
def test_it_answers_heldout_questions_and_random_pruning_costs_ten_points(
    name: str, task: str
) -> None:
    whole = accuracy(name, task)
    assert whole >= 0.9
    assert whole - accuracy(name, task, pipeline="random", keep=KEPT) >= 0.1


@pytest.mark.parametrize(("name", "task"), CASES)
def test_relevant_tokens_are_those_that_the_recipe_trained_on(name: str, task: str) -> None:
    """Panels and boxes of a study against the layout of the recipe, which knows neither."""
    subject = load_model(name, REGISTRY)
    assert isinstance(subject, LoadedModel)
    side = TASKS[task].side
    cells = FAMILIES[name]().layout(side).cells
    squares = side // PATCH
    for example in REGISTRY.get("task", task)().examples(4, 0):
        panels = find_panels(subject, VisualQuestion(example.question, example.images), len(cells))
        marked = torch.zeros(squares, squares, dtype=torch.bool)
        for box in example.boxes[0]:
            left, top, right, bottom = (round(x * squares) for x in box_ends(box))
            marked[top:bottom, left:right] = True
        flags = torch.tensor(relevant_tokens(panels or [], example.boxes), dtype=torch.bool)
        assert torch.equal(flags[cells >= 0], marked.flatten()[cells[cells >= 0]])
        assert flags.any()


def box_ends(box: Box) -> tuple[float, float, float, float]:
    return box.left, box.top, box.right, box.bottom
