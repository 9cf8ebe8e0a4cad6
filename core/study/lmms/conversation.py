"""What a benchmark shows a model: turns of text and pictures."""

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
        """All that is said, a line per part."""
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
        """What the processor gets, up to where the model is to answer."""
        if self.is_question:
            return str(loaded.adapter.prompt(loaded.processor, self.text, list(self.images)))
        with foreign(ModelError, f"model {loaded.name!r}: the prompt cannot be made"):
            return render_chat(loaded.processor, self.messages)


def ask(images: Sequence[Any], text: str) -> list[dict[str, Any]]:
    """The turn of a user who shows pictures and asks about them, as lmms-eval writes it."""
    shown = [{"type": "image", "url": image} for image in images]
    return [{"role": "user", "content": [*shown, {"type": "text", "text": text}]}]


def read_conversation(messages: Sequence[Any]) -> Conversation:
    """From lmms-eval's messages.

    Raises:
        TaskError: they show something else than pictures.
    """
    turns: list[dict[str, Any]] = []
    images: list[Image] = []
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        turns.append({"role": message["role"], "content": [_part(p, images) for p in parts]})
    return Conversation(tuple(turns), tuple(images))


def _part(part: dict[str, Any], images: list[Image]) -> dict[str, str]:
    """The part without its picture, which is appended to ``images``."""
    if part["type"] == "text":
        return {"type": "text", "text": str(part["text"])}
    if part["type"] != "image":
        raise TaskError(f"shows the model {part['type']}: only pictures and text are supported")
    images.append(_picture(part["url"]))
    return {"type": "image"}


def _picture(value: Any) -> Image:
    from PIL import Image

    if isinstance(value, str | Path):
        return open_image(Path(value))
    if not isinstance(value, Image.Image):
        raise TaskError(f"shows the model a {type(value).__name__} for a picture")
    return as_seen(value)
