"""Benchmarks of lmms-eval on local pictures: digit scenes as Parquet files beside their YAML."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from tokensieve.adapters.zoo.study_tasks import DigitsTask
from tokensieve.adapters.zoo.tasks import digit_scenes
from tokensieve.core.contract.tasks import Example

SCORER = """
def to_visual(doc):
    return [doc["image"].convert("RGB")]

def to_text(doc):
    return doc["question"]

def score(doc, results):
    return {"right": float(results[0].strip().lower() == doc["answer"].lower())}

def no_idea(doc, results):
    raise RuntimeError("the scorer has no idea\\nand says more")

def corpus(doc, results):
    return {"f1": (doc["answer"], results[0])}

def of_corpus(items):
    return sum(one == other for one, other in items) / len(items)
"""
ROUNDS = """
def to_visual(doc):
    return doc["images"]

def to_text(doc, lmms_eval_specific_kwargs=None, round_idx=None, previous_output=None,
            previous_round_info=None):
    if not round_idx:
        return doc["question"]
    return [doc["image"]], "how many digits are there ?", round_idx > 1, previous_output, None

def score(doc, results):
    first, second = results[0]
    return {"right": float(first.lower() == doc["answer"].lower()), "said": second}
"""
DIGITS: dict[str, Any] = {
    "dataset_path": "parquet",
    "dataset_kwargs": {"data_files": {"test": "digits.parquet"}},
    "test_split": "test",
    "output_type": "generate_until",
    "doc_to_visual": "!function scorer.to_visual",
    "doc_to_text": "!function scorer.to_text",
    "doc_to_target": "answer",
    "process_results": "!function scorer.score",
    "generation_kwargs": {"max_new_tokens": 3, "do_sample": False},
    "metric_list": [{"metric": "right", "aggregation": "mean", "higher_is_better": True}],
}


def yes_no_examples(count: int) -> list[Example]:
    """Position questions, which tiny-llava answers by yes and no."""
    found: list[Example] = []
    index = 0
    while len(found) < count:
        scene = digit_scenes.make_scene("heldout", index)
        for question in digit_scenes.questions_for(scene, "heldout", index, 4):
            if question.kind == "position":
                image = Image.fromarray(scene.image)
                found.append(Example(f"{index}", (image,), question.text, question.answer))
        index += 1
    return found[:count]


def save_rows(path: Path, examples: Sequence[Example], **more: Any) -> None:
    """A Parquet file as benchmarks have them: pictures are bytes."""
    import datasets

    rows = [
        {
            "question_id": str(number),
            "image": {"bytes": _png(example.images[0]), "path": None},
            "images": [{"bytes": _png(image), "path": None} for image in example.images],
            "question": example.question,
            "answer": example.answer,
            **more,
        }
        for number, example in enumerate(examples)
    ]
    table = datasets.Dataset.from_list(rows)
    table = table.cast_column("image", datasets.Image())
    table = table.cast_column("images", datasets.Sequence(datasets.Image()))
    table.to_parquet(path)


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def save_task(folder: Path, name: str, content: dict[str, Any]) -> None:
    """A task's YAML; text that starts with a tag of YAML is one."""
    text = yaml.safe_dump({"task": name, **content}, sort_keys=False)
    (folder / f"{name}.yaml").write_text(re.sub(r"'(!function [\w.]+)'", r"\1", text))


def digits_folder(folder: Path, count: int) -> Path:
    """The project's own digit questions as a benchmark, and tasks that go wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scorer.py").write_text(SCORER)
    save_rows(folder / "digits.parquet", DigitsTask().examples(count, 0))
    save_task(folder, "local_digits", DIGITS)
    save_task(folder, "broken_scorer", {**DIGITS, "process_results": "!function scorer.no_idea"})
    corpus = [
        {"metric": "f1", "aggregation": "!function scorer.of_corpus", "higher_is_better": True}
    ]
    save_task(
        folder,
        "corpus_only",
        {**DIGITS, "process_results": "!function scorer.corpus", "metric_list": corpus},
    )
    save_task(folder, "tagged", {**DIGITS, "tag": "some_digits"})
    arguments = {"max_new_tokens": 3, "do_sample": True, "temperature": 5.0, "image_grid": "pad"}
    save_task(folder, "sampled", {**DIGITS, "generation_kwargs": arguments})
    save_task(folder, "drawn", {**DIGITS, "output_type": "generate_visual_cot"})
    return folder


def pope_folder(folder: Path, examples: Sequence[Example]) -> Path:
    """The packaged POPE (its prompts, scorer and aggregation) on local pictures."""
    import lmms_eval

    folder.mkdir(parents=True, exist_ok=True)
    save_rows(folder / "pope.parquet", examples)
    content = {
        "include": str(Path(lmms_eval.__file__).parent / "tasks/pope/pope.yaml"),
        "dataset_path": "parquet",
        "dataset_kwargs": {"data_files": {"test": "pope.parquet"}},
        "lmms_eval_specific_kwargs": {"default": {"pre_prompt": "", "post_prompt": ""}},
    }
    save_task(folder, "local_pope", content)
    choices = {
        **DIGITS,
        "dataset_kwargs": {"data_files": {"test": "pope.parquet"}},
        "output_type": "multiple_choice",
        "doc_to_choice": ["yes", "no"],
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    del choices["process_results"], choices["generation_kwargs"]
    (folder / "scorer.py").write_text(SCORER)
    save_task(folder, "local_choices", choices)
    return folder


def rounds_folder(folder: Path, examples: Sequence[Example]) -> Path:
    """Two rounds: a question about all pictures of a document, then one about its first."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rounds.py").write_text(ROUNDS)
    save_rows(folder / "digits.parquet", examples)
    content = {
        **DIGITS,
        "output_type": "generate_until_multi_round",
        "doc_to_visual": "!function rounds.to_visual",
        "doc_to_text": "!function rounds.to_text",
        "process_results": "!function rounds.score",
    }
    save_task(folder, "two_rounds", content)
    return folder
