"""The built-in model really sees, pruning blindly really hurts, and its recipe really resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    LlavaForConditionalGeneration,
    PreTrainedConfig,
)

from tokensieve.adapters.zoo import EXAMPLES, MODELS
from tokensieve.adapters.zoo.tasks import digit_scenes
from tokensieve.adapters.zoo.training.evaluate import evaluate, heldout_questions
from tokensieve.adapters.zoo.training.train import LlavaRecipe, LlavaTrainer, train

FOLDER = MODELS["tiny-llava"]
QUESTIONS = 400


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForImageTextToText.from_pretrained(FOLDER).eval()


@pytest.fixture(scope="module")
def processor() -> Any:
    return AutoProcessor.from_pretrained(FOLDER)


def test_it_is_a_small_plain_hugging_face_model(model: Any, processor: Any) -> None:
    assert type(model) is LlavaForConditionalGeneration
    text = model.config.text_config
    assert isinstance(text, PreTrainedConfig)
    assert sum(p.numel() for p in model.parameters()) <= 3_000_000
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 8_000_000
    assert text.num_hidden_layers >= 8
    assert model.config.image_seq_length >= 144
    names = {path.name for path in FOLDER.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".py"))]
    assert processor.chat_template


def test_it_answers_heldout_questions(model: Any, processor: Any) -> None:
    scores = evaluate(model, processor, QUESTIONS)
    assert scores["all"].accuracy >= 0.9
    assert min(scores[kind].accuracy for kind in digit_scenes.KINDS) >= 0.8


def test_random_pruning_costs_at_least_ten_points(model: Any, processor: Any) -> None:
    """A benchmark on which nothing hurts measures nothing."""
    whole = evaluate(model, processor, QUESTIONS)["all"].accuracy
    seeds = [
        evaluate(model, processor, QUESTIONS, pipeline="random", keep=0.22, seed=seed)
        for seed in range(2)
    ]
    pruned = sum(scores["all"].accuracy for scores in seeds) / len(seeds)
    assert whole - pruned >= 0.1


def test_the_example_picture_is_answered(model: Any, processor: Any) -> None:
    from PIL import Image

    from tokensieve.adapters.zoo.training.evaluate import answers

    path, question = EXAMPLES["scene"]
    with Image.open(path) as image:
        (answer,) = answers(model, processor, [image.convert("RGB")], [question])
    scene = digit_scenes.make_scene("heldout", 1007)
    assert np.array_equal(np.asarray(Image.open(path).convert("RGB")), scene.image)
    asked = [d for d in scene.digits if str(d.value) in question]
    assert [answer] == [d.color for d in asked]


def test_heldout_handwriting_is_never_trained_on() -> None:
    bank = digit_scenes._digit_bank()
    for value in range(10):
        train_scans = {scan.tobytes() for scan in bank["train"][value]}
        assert not [s for s in bank["heldout"][value] if s.tobytes() in train_scans]
        assert len(bank["heldout"][value]) >= 30


def test_scenes_are_functions_of_their_number() -> None:
    one, two = (digit_scenes.make_scene("train", 5) for _ in range(2))
    assert np.array_equal(one.image, two.image)
    assert one.digits == two.digits
    assert digit_scenes.make_scene("heldout", 5).digits != one.digits


def test_answers_follow_from_the_digits() -> None:
    for _, question in heldout_questions(40):
        assert question.answer in digit_scenes.vocabulary()
    scene = digit_scenes.make_scene("heldout", 3)
    for asked in digit_scenes.questions_for(scene, "heldout", 3, 40):
        about = [scene.digits[i] for i in asked.about]
        if asked.kind == "count":
            assert asked.answer == str(len(scene.digits))
        elif asked.kind == "colour":
            assert (str(about[0].value) in asked.text, asked.answer) == (
                True,
                about[0].color,
            )
        elif asked.kind == "identity":
            assert (about[0].color in asked.text, asked.answer) == (
                True,
                str(about[0].value),
            )
        else:
            axis = 0 if "left" in asked.text else 1
            holds = about[0].center[axis] < about[1].center[axis]
            assert asked.answer == ("yes" if holds else "no")


def test_training_resumes_where_it_stopped(tmp_path: Path) -> None:
    """Two steps, a stop, two more: the same weights as four steps in one go."""
    recipe = LlavaRecipe(
        steps=4,
        sight_steps=1,
        batch_size=2,
        questions=4,
        comparison_from=2,
        verdict_from=3,
        warmup_steps=2,
        decay_steps=2,
    )
    whole = LlavaTrainer(recipe, tmp_path / "whole", "cpu")
    for _ in range(4):
        whole.advance()
    (tmp_path / "parts").mkdir()
    half = LlavaTrainer(recipe, tmp_path / "parts", "cpu")
    half.advance()
    half.advance()
    half.save()
    train(recipe, tmp_path / "parts", "cpu")
    saved = LlavaForConditionalGeneration.from_pretrained(tmp_path / "parts" / "model")
    for name, parameter in saved.named_parameters():
        assert torch.equal(parameter, dict(whole.model.named_parameters())[name]), name
    assert AutoProcessor.from_pretrained(tmp_path / "parts" / "model").chat_template
