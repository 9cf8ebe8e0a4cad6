"""Prompts: a question about pictures, as the tensors that a model takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokensieve.core.contract.panel import Panel
from tokensieve.core.errors import ModelError
from tokensieve.core.foreign import foreign, half_character, shown
from tokensieve.core.models.loading import LoadedModel

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


@dataclass(frozen=True)
class VisualQuestion:
    """A text and the pictures it is about."""

    text: str
    images: tuple[Image, ...]


def prepare(loaded: LoadedModel, question: VisualQuestion) -> Mapping[str, Tensor]:
    """The processor's tensors for one question, on the model's device and in its dtype."""
    return prepare_batch(loaded, [question])


def prepare_batch(loaded: LoadedModel, questions: Sequence[VisualQuestion]) -> Mapping[str, Tensor]:
    """The tensors for several questions at once; shorter prompts are padded on the left."""
    for question in questions:
        check_question(question.text)
    with foreign(ModelError, f"model {loaded.name!r}: the prompt cannot be made"):
        texts = [
            loaded.adapter.prompt(loaded.processor, question.text, list(question.images))
            for question in questions
        ]
    images = [image for question in questions for image in question.images]
    return encode_batch(loaded, texts, images)


def encode_batch(
    loaded: LoadedModel, texts: Sequence[str], images: Sequence[Image]
) -> Mapping[str, Tensor]:
    """The processor's tensors for prompts and the pictures of all of them, in order."""
    more = {"padding": True, "padding_side": "left"} if len(texts) > 1 else {}
    with foreign(ModelError, f"model {loaded.name!r}: the processor refuses this"):
        try:
            inputs = loaded.processor(
                images=list(images) or None, text=list(texts), return_tensors="pt", **more
            )
        except StopIteration:  # how transformers up to 5.22 says it
            raise ValueError("other placeholders than pictures") from None
        moved: Mapping[str, Tensor] = inputs.to(loaded.model.device, loaded.model.dtype)
        return moved


def check_question(text: object, what: str = "the question") -> None:
    """Refuse what no tokenizer takes.

    Raises:
        ModelError: it is no text, or holds half a character.
    """
    if not isinstance(text, str):  # of a task that is a plugin
        raise ModelError(f"{what} is no text, but {shown(text)}")
    half = half_character(text)
    if half:
        raise ModelError(
            f"{what} has half a character, or bytes that are not UTF-8 ({half}): write it as UTF-8"
        )


def find_panels(
    loaded: LoadedModel, question: VisualQuestion, visual_tokens: int
) -> list[list[Panel]] | None:
    """For each picture, where its visual tokens are on it; None if the adapter cannot say."""
    panels = [
        loaded.bound.panels(
            image.size, loaded.processor, prepare(loaded, VisualQuestion(question.text, (image,)))
        )
        for image in question.images
    ]
    covered = sum(panel.rows * panel.columns for group in panels for panel in group)
    return panels if covered == visual_tokens else None
