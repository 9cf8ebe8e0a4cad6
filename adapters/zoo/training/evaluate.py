"""Held-out accuracy of a built-in model: ``python -m tokensieve.adapters.zoo.training.evaluate``.

Single questions on held-out pictures of a task, asked through the model's own processor and
``generate``, with or without a pipeline. Prints accuracy and confusion per kind of question as
Markdown, with 95 % Wilson intervals.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import tokensieve
from tokensieve.adapters.zoo.tasks.pictures import TASKS, PictureQuestion, PictureTask

NORMAL_95 = 1.959964


@dataclass
class Score:
    """Right answers and confusions of one kind of question."""

    right: int = 0
    asked: int = 0
    confusion: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.right / self.asked if self.asked else float("nan")

    def interval(self) -> tuple[float, float]:
        """95 % Wilson score interval of the accuracy."""
        n, z = self.asked, NORMAL_95
        center = (self.accuracy + z * z / (2 * n)) / (1 + z * z / n)
        half = (
            z
            / (1 + z * z / n)
            * math.sqrt(self.accuracy * (1 - self.accuracy) / n + z * z / (4 * n * n))
        )
        return center - half, center + half


def heldout_questions(
    count: int, task: str = "digits", side: int | None = None
) -> Iterator[tuple[Image.Image, PictureQuestion]]:
    """``count`` single questions of a task, one a picture of ``side`` pixels; kinds take turns."""
    chosen: PictureTask = TASKS[task]
    for index in range(count):
        scene = chosen.scene(index, "heldout", side or chosen.side)
        (question,) = chosen.questions(scene, index, "heldout", 1)
        yield Image.fromarray(scene.image), question


def answers(
    model: Any,
    processor: Any,
    images: Sequence[Image.Image],
    questions: Sequence[str],
    words: int = 1,
) -> list[str]:
    """Answers of at most ``words`` words to a batch of questions."""
    texts = [
        processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}],
            add_generation_prompt=True,
        )
        for question in questions
    ]
    inputs = processor(images=list(images), text=texts, return_tensors="pt", padding=True)
    with torch.inference_mode():
        ids = model.generate(**inputs.to(model.device), max_new_tokens=words + 1, do_sample=False)
    new = ids[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in processor.batch_decode(new, skip_special_tokens=True)]


def evaluate(
    model: Any,
    processor: Any,
    questions: int | Sequence[tuple[Image.Image, PictureQuestion]],
    *,
    pipeline: Any = None,
    keep: Any = None,
    seed: int = 0,
    batch_size: int = 64,
) -> dict[str, Score]:
    """Scores per kind of question, and in total under ``all``.

    A number of ``questions`` stands for the first ones of the digit scenes.
    """
    pending = questions if not isinstance(questions, int) else list(heldout_questions(questions))
    scores = {kind: Score() for kind in (*(q.kind for _, q in pending), "all")}
    words = max(len(question.answer.split()) for _, question in pending)
    session: Any = (
        tokensieve.attach(model, pipeline, keep=keep, seed=seed) if pipeline else nullcontext()
    )
    with session:
        for start in range(0, len(pending), batch_size):
            batch = pending[start : start + batch_size]
            images, asked = [b[0] for b in batch], [b[1].text for b in batch]
            texts = answers(model, processor, images, asked, words)
            for text, (_, question) in zip(texts, batch, strict=True):
                for kind in (question.kind, "all"):
                    scores[kind].asked += 1
                    scores[kind].right += text == question.answer
                    scores[kind].confusion[question.answer, text] += 1
    return scores


def accuracy_table(scores: dict[str, Score]) -> str:
    """Markdown: accuracy and interval per kind."""
    rows = ["| question | asked | right | accuracy | 95 % interval |", "|---|---|---|---|---|"]
    for kind, score in scores.items():
        low, high = score.interval()
        rows.append(
            f"| {kind} | {score.asked} | {score.right} | {score.accuracy:.1%} "
            f"| {low:.1%} to {high:.1%} |"
        )
    return "\n".join(rows)


def confusion_table(score: Score) -> str:
    """Markdown: right answers down, given answers across."""
    right = sorted({pair[0] for pair in score.confusion})
    given = [*right, *sorted({pair[1] for pair in score.confusion} - set(right))]
    rows = [f"| right \\ given | {' | '.join(given)} |", "|---" * (len(given) + 1) + "|"]
    for answer in right:
        cells = [str(score.confusion[answer, text] or "") for text in given]
        rows.append(f"| **{answer}** | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    """Command line of the evaluation."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from tokensieve.adapters.zoo import MODELS

    parser = argparse.ArgumentParser(description="Held-out accuracy of a built-in model.")
    parser.add_argument("--model", default="tiny-llava", help="built-in name or folder")
    parser.add_argument("--task", default="digits", choices=sorted(TASKS))
    parser.add_argument("--side", type=int, help="side of the pictures, else the task's own")
    parser.add_argument("--questions", type=int, default=2000)
    parser.add_argument("--pipeline", help="prune with this pipeline")
    parser.add_argument("--keep", type=float, help="its budget: share of the visual tokens")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--confusion", action="store_true")
    options = parser.parse_args()
    folder = MODELS.get(options.model, Path(options.model))
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    scores = evaluate(
        model,
        processor,
        list(heldout_questions(options.questions, options.task, options.side)),
        pipeline=options.pipeline,
        keep=options.keep,
        seed=options.seed,
        batch_size=options.batch_size,
    )
    print(accuracy_table(scores))
    if options.confusion:
        for kind in TASKS[options.task].kinds:
            print(f"\n### {kind}\n\n{confusion_table(scores[kind])}")


if __name__ == "__main__":
    main()
