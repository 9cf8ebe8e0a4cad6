"""The trained families see all tasks, and pruning blindly costs them something."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from tokensieve.adapters.zoo import MODELS
from tokensieve.adapters.zoo.evaluate import evaluate, heldout_questions
from tokensieve.adapters.zoo.starting import FAMILIES
from tokensieve.adapters.zoo.tasks import TASKS

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
