"""The tasks of the built-in models as plugins: held-out questions only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, field_validator

from tokensieve.plugin import Box, Example, Task, TaskError

if TYPE_CHECKING:
    from PIL.Image import Image

DRAW = 1_000_003  # pictures between two draws
TILE = 48  # pixels: a whole number of every built-in model's patches, windows and tiles
SMALLEST, LARGEST, WIDEST_PHOTOGRAPH = 96, 384, 192
Side = Annotated[int, Field(ge=SMALLEST, le=LARGEST)]
PACKAGES = {"sklearn": "scikit-learn"}  # where the package is not called like the module


class _Drawn(Task):
    """A task whose pictures are drawn; the numbers of the examples of a draw follow each other."""

    def examples(self, count: int, seed: int) -> Sequence[Example]:
        """One question about each picture; the kinds of question take turns."""
        start = seed * DRAW
        try:
            return [self._example(index) for index in range(start, start + count)]
        except ModuleNotFoundError as error:
            module = str(error.name).partition(".")[0]
            raise TaskError(
                f"task {self.name!r} needs {module}: pip install {PACKAGES.get(module, module)}"
            ) from None

    def _example(self, index: int) -> Example:
        raise NotImplementedError


class _SceneTask(_Drawn):
    """A task of ``zoo.tasks.pictures``; ``side`` is that of a picture in pixels."""

    largest: ClassVar[int] = WIDEST_PHOTOGRAPH
    side: Side = SMALLEST

    @field_validator("side", mode="before")
    @classmethod
    def _in_tiles(cls, side: Any) -> Any:
        if not isinstance(side, int):
            return side
        if side % TILE or not SMALLEST <= side <= cls.largest:
            raise ValueError(
                f"a side of {side} pixels, allowed: multiples of {TILE} from {SMALLEST} to "
                f"{cls.largest}"
            )
        return side

    def _example(self, index: int) -> Example:
        from tokensieve.adapters.zoo.tasks import pictures as tasks

        drawn = tasks.sample(tasks.TASKS[self.name], index, "heldout", self.side)
        pixels, question, answer, boxes = drawn
        return _asked(f"{self.name}-{index}", pixels, question, answer, boxes)


class DigitsTask(_SceneTask):
    """Two to six handwritten digits on noise: color, identity, count and position."""

    name = "digits"
    largest: ClassVar[int] = LARGEST  # noise has no edges


class SignsTask(_SceneTask):
    """Two or three signs of three letters in 22 fonts on a photograph: read, letter, color."""

    name = "signs"


class NeedleTask(_SceneTask):
    """One handwritten digit and one letter, each on a small part of a large photograph."""

    name = "needle"
    side: Side = WIDEST_PHOTOGRAPH


class DigitTask(_Drawn):
    """One handwritten digit among colored squares: which one? For classifiers."""

    name = "digit"

    def _example(self, index: int) -> Example:
        from tokensieve.adapters.zoo import tiny_timm
        from tokensieve.adapters.zoo.tasks.digit_scenes import DIGIT_SIZE

        scene = tiny_timm.make_scene("heldout", index)
        left, top = scene.corner
        box = (left, top, left + DIGIT_SIZE, top + DIGIT_SIZE)
        question = "Which digit is in the picture?"
        return _asked(f"digit-{index}", scene.image, question, str(scene.digit), [box])


def _asked(
    name: str, pixels: Any, question: str, answer: str, boxes: Iterable[tuple[int, int, int, int]]
) -> Example:
    """An example about ``pixels`` ``[height, width, 3]`` (uint8); ``boxes`` in pixels."""
    from PIL import Image as pillow

    image: Image = pillow.fromarray(pixels)
    across, down = image.size
    shares = tuple(
        Box(left / across, top / down, right / across, bottom / down)
        for left, top, right, bottom in boxes
    )
    return Example(name, (image,), question, answer, (shares,))


TASKS: tuple[type[Task], ...] = (DigitTask, DigitsTask, NeedleTask, SignsTask)
