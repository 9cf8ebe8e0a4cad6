"""Tasks: questions about pictures whose answers can be scored. Plugins, like scorers."""

from __future__ import annotations

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pydantic import ConfigDict

from tokensieve.core.strict import StrictModel

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Box:
    """A rectangle of a picture, as shares (0 to 1) of its width and height."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class Example:
    """A question about pictures and its answer.

    Attributes:
        id: names the example in results; the same for the same example, always.
        images: pictures of PIL, in the order of the prompt.
        question: what is asked; ``answer`` what is right.
        boxes: per picture, the places of the answer; empty where nobody knows.
    """

    id: str
    images: tuple[Image, ...]
    question: str
    answer: str
    boxes: tuple[tuple[Box, ...], ...] = ()


class Task(StrictModel, ABC):
    """A source of examples. Subclass it, give it a ``name``, write ``examples``.

    Its fields are its YAML parameters.
    """

    model_config = ConfigDict(validate_default=True)

    name: ClassVar[str] = ""

    @abstractmethod
    def examples(self, count: int, seed: int) -> Sequence[Example]:
        """The first ``count`` examples of the draw ``seed``, fewer if there are no more.

        The same arguments give the same examples, and a larger count begins with those of a
        smaller one. None of them may have been trained on.
        """

    def score(self, example: Example, answer: str) -> float:
        """The score of ``answer``, 0 to 1: by default equal or not; see :func:`same_text`."""
        return float(same_text(answer, example.answer))

    @classmethod
    def summary(cls) -> str:
        """First line of the docstring."""
        return next(iter((cls.__doc__ or "").strip().splitlines()), "")


def same_text(one: str, other: str) -> bool:
    """Equal but for case, white space, and how Unicode writes a letter (compared after NFC)."""
    return _words(one) == _words(other)


def _words(text: str) -> list[str]:
    folded = unicodedata.normalize("NFC", text).casefold()
    return unicodedata.normalize("NFC", folded).split()
