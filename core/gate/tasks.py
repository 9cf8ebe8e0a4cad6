"""The gate for tasks: the examples that they draw, and the score of an answer."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

from tokensieve.core.blame import blamed, titled
from tokensieve.core.contract.tasks import Box, Example, Task
from tokensieve.core.errors import TaskError
from tokensieve.core.foreign import shown

ROUNDING = 1e-9
"""A mean of shares may be so far above 1 or below 0, and still be meant as one."""


def asked_examples(task: Task, count: int, seed: int) -> list[Example]:
    """The examples of a draw, checked: as many as asked for at most, and made of what they name.

    Raises:
        TaskError: they are something else.
    """
    with blamed(task, f"examples({count}, {seed})"):
        answer: object = task.examples(count, seed)
        if not isinstance(answer, Sequence) or isinstance(answer, str | bytes):
            raise TaskError(f"{titled(task)}: examples must return a list, not {shown(answer)}")
        if len(answer) > count:
            raise TaskError(f"{titled(task)}: {len(answer)} examples where {count} are asked for")
        examples = list(answer)
        for number, example in enumerate(examples):
            wrong = flaw_of_example(example)
            if wrong:
                raise TaskError(f"{titled(task)}: example {number}: {wrong}")
    return examples


def flaw_of_example(example: object) -> str:
    """The flaw of an example; empty if there is none."""
    from PIL.Image import Image

    if not isinstance(example, Example):
        return f"is no Example but {shown(example)}"
    for field in ("id", "answer"):  # a question is looked at when it is asked, and then named
        if not isinstance(getattr(example, field), str):
            return f"{field} is text, not {shown(getattr(example, field))}"
    if not isinstance(example.images, tuple | list):
        return f"images is a tuple of pictures, not {shown(example.images)}"
    if not all(isinstance(image, Image) for image in example.images):
        return "an image is a picture of PIL"
    groups: object = example.boxes
    if not isinstance(groups, tuple | list) or len(groups) not in (0, len(example.images)):
        return "boxes is empty, or a tuple of boxes for each picture"
    boxes = [box for group in groups for box in group]
    return "" if all(map(_is_share, boxes)) else "sides of a box are shares of the picture, 0 to 1"


def _is_share(box: object) -> bool:
    if not isinstance(box, Box):
        return False
    sides = (box.left, box.top, box.right, box.bottom)
    return all(isinstance(side, numbers.Real) and 0 <= side <= 1 for side in sides)


def asked_score(task: Task, example: Example, answer: str) -> float:
    """The score of an answer, 0 to 1, checked.

    Raises:
        TaskError: the task gives something else: the mean of a cell would be no share either.
    """
    with blamed(task, f"example {shown(example.id)}"):
        given: Any = task.score(example, answer)
        score = given.item() if getattr(given, "ndim", None) == 0 else given  # of numpy and torch
        real: Any = score if isinstance(score, numbers.Real) else None
        if real is None or not -ROUNDING <= real <= 1 + ROUNDING:
            raise TaskError(f"{titled(task)} scores an answer {shown(given)}, allowed: 0 to 1")
        return min(max(float(real), 0.0), 1.0)
