"""Conversations: the turns of text and pictures that a benchmark shows a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokensieve.core.errors import ModelError, TaskError
from tokensieve.core.files.pictures import as_seen, open_image
from tokensieve.core.foreign import foreign
from tokensieve.core.models.loading import LoadedModel
from tokensieve.core.templates.chat import render_chat

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Conversation:
    """Turns as chat templates take them; a picture's place is ``{"type": "image"}``."""

    messages: tuple[dict[str, Any], ...]
    images: tuple[Image, ...]

    @property
    def text(self) -> str:
        """The text of all turns, a line per part."""
        parts = [part for message in self.messages for part in message["content"]]
        return "\n".join(part["text"] for part in parts if part["type"] == "text")

    @property
    def is_question(self) -> bool:
        """One turn of the user: pictures, then one text. Adapters phrase that themselves."""
        if [message["role"] for message in self.messages] != ["user"]:
            return False
        kinds = [part["type"] for part in self.messages[0]["content"]]
        return kinds == ["image"] * len(self.images) + ["text"]

    def prompt(self, loaded: LoadedModel) -> str:
        """The prompt for the processor, up to where the model is to answer."""
        if self.is_question:
            return str(loaded.adapter.prompt(loaded.processor, self.text, list(self.images)))
        with foreign(ModelError, f"model {loaded.name!r}: the prompt cannot be made"):
            return render_chat(loaded.processor, self.messages)


def ask(images: Sequence[object], text: str) -> list[dict[str, Any]]:
    """The turn of a user who shows pictures and asks about them, as lmms-eval writes it."""
    shown = [{"type": "image", "url": image} for image in images]
    return [{"role": "user", "content": [*shown, {"type": "text", "text": text}]}]


def read_conversation(messages: Sequence[Any]) -> Conversation:
    """From lmms-eval's messages.

    Raises:
        TaskError: they show something else than pictures.
    """
    from PIL import Image

    turns: list[dict[str, Any]] = []
    images: list[Image.Image] = []
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        bare: list[dict[str, str]] = []
        for part in parts:
            kind = part["type"]
            if kind == "text":
                bare.append({"type": "text", "text": str(part["text"])})
                continue
            if kind != "image":
                raise TaskError(f"shows the model {kind}: only pictures and text are supported")
            picture = part["url"]
            if isinstance(picture, str | Path):
                images.append(open_image(Path(picture)))
            elif isinstance(picture, Image.Image):
                images.append(as_seen(picture))
            else:
                raise TaskError(f"shows the model a {type(picture).__name__} for a picture")
            bare.append({"type": "image"})
        turns.append({"role": message["role"], "content": bare})
    return Conversation(tuple(turns), tuple(images))
