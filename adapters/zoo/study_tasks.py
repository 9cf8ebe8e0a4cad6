"""The tasks of the built-in models as plugins: held-out questions only."""

from __future__ import annotations

from collections.abc import Sequence

from tokensieve.core.errors import TaskError
from tokensieve.core.tasks import Box, Example, Task

DRAW = 1_000_003  # pictures between two draws


class DigitsTask(Task):
    """Two to six handwritten digits on noise: colour, identity, count and position."""

    name = "digits"

    def examples(self, count: int, seed: int) -> Sequence[Example]:
        """One question about each picture; the kinds of question take turns."""
        start = seed * DRAW
        try:
            return [self._example(index) for index in range(start, start + count)]
        except ModuleNotFoundError as error:
            raise TaskError(f"task 'digits' needs {error.name}: pip install scikit-learn") from None

    def _example(self, index: int) -> Example:
        from PIL import Image

        from tokensieve.adapters.zoo import digit_scenes  # numpy and scikit-learn come with it

        scene = digit_scenes.make_scene("heldout", index)
        (question,) = digit_scenes.questions_for(scene, "heldout", index, 1)
        image = Image.fromarray(scene.image)
        boxes = tuple(
            Box(
                digit.left / image.width,
                digit.top / image.height,
                (digit.left + digit.side) / image.width,
                (digit.top + digit.side) / image.height,
            )
            for digit in (scene.digits[number] for number in question.about)
        )
        return Example(f"digits-{index}", (image,), question.text, question.answer, (boxes,))
