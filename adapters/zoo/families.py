"""Differences between the families of trained models: a model, a processor, a picture's tokens.

A :class:`Family` builds transformers' own classes with a small config and says, for the recipe,
how pixels become features and where each feature is in the sequence. Decoder and vocabulary are
alike in all families, so that a new family can start from the decoder of a trained one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tokensieve.adapters.zoo.tasks.glyphs import PATCH
from tokensieve.adapters.zoo.tasks.pictures import SMALL, PictureTask, vocabulary

IMAGE_MEAN, IMAGE_STD = [0.25] * 3, [0.25] * 3
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
DECODER_WIDTH = 128
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}USER:{% else %} ASSISTANT:{% endif %}"
    "{% if message['content'] is string %} {{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %} IMAGE{% elif part['type'] == 'text' %} {{ part['text'] }}"
    "{% endif %}{% endfor %}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


@dataclass(frozen=True)
class TokenLayout:
    """Places of the tokens of a picture of one size.

    ``positions`` is ``[axes, tokens]`` (one axis, or three with M-RoPE), ``start`` the position of
    the first token after the picture. ``cells`` is ``[tokens]``: the token's square of 8 pixels in
    raster order, -1 for a token that shows something else
    (a reduced picture, a border). ``tiles`` is ``[tokens]``.
    """

    side: int
    positions: Tensor
    start: int
    cells: Tensor
    tiles: Tensor

    @property
    def rows(self) -> int:
        """Squares of 8 pixels down and across."""
        return self.side // PATCH


@dataclass(frozen=True)
class Encoded:
    """Features ``[images, tokens, dim]`` as the decoder gets them, and [CLS] states.

    Every entry of ``summaries`` is ``[images, tiles, width]``, from one encoder layer.
    """

    features: Tensor
    summaries: tuple[Tensor, ...] = ()


class Family(ABC):
    """One family: configuration, processor, and how features get into the sequence."""

    name: ClassVar[str]
    image_token: ClassVar[str]
    delimiters: ClassVar[tuple[str, ...]] = ()
    summary_width: ClassVar[int] = 0
    sides: ClassVar[tuple[int, ...]]
    fewer: ClassVar[int] = 1
    """Above 1: every picture has as many tokens as a large one; batches are divided by this."""
    sheet_side: ClassVar[int] = SMALL

    @abstractmethod
    def build_model(self) -> Any:
        """The untrained model; seed torch before the call."""

    @abstractmethod
    def build_processor(self) -> Any:
        """The processor that belongs to it."""

    @abstractmethod
    def pixels(self, images: Tensor) -> Tensor:
        """``[images, 3, side, side]``, normalized -> what the encoder takes."""

    @abstractmethod
    def encode(self, model: Any, pixels: Tensor, images: int) -> Encoded:
        """Features exactly as the model itself computes them."""

    @abstractmethod
    def layout(self, side: int) -> TokenLayout:
        """Places of the tokens of a square picture."""

    def side_of(self, task: PictureTask) -> int:
        """How large the recipe draws a task's pictures."""
        return task.side if self.fewer > 1 else SMALL

    def inherit_encoder(self, model: Any, old: Any) -> None:  # noqa: B027 - most families cannot
        """Start from the vision encoder of another trained model, where it fits."""

    def special_tokens(self) -> dict[str, str]:
        """Names under which the processor finds its tokens."""
        return {"image_token": self.image_token}

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Word-level tokenizer over the vocabulary of the tasks; case does not matter.

        The words of all families have the same ids: ``<image>`` keeps its place even where another
        word takes its part.
        """
        extra = [*self.special_tokens().values(), *self.delimiters]
        extra = [token for token in dict.fromkeys(extra) if token not in SPECIAL_TOKENS]
        words = {w: i for i, w in enumerate([*SPECIAL_TOKENS, *vocabulary(), *extra])}
        tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
        tokenizer.normalizer = normalizers.Lowercase()
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", words["<s>"])]
        )
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            pad_token="<pad>",
            bos_token="<s>",
            eos_token="</s>",
            unk_token="<unk>",
            extra_special_tokens=self.special_tokens(),
            padding_side="left",
            model_max_length=2048,
        )
        fast.add_special_tokens({"additional_special_tokens": extra})
        return fast

    def ids(self, *tokens: str) -> list[int]:
        """Ids of tokens."""
        return [int(self.tokenizer.get_vocab()[token]) for token in tokens]

    @property
    def head(self) -> list[int]:
        """Ids before the picture's tokens."""
        return [*self.tokenizer("USER:")["input_ids"], *self.ids(*self.delimiters[:1])]

    @property
    def tail(self) -> list[int]:
        """Ids between the picture's tokens and the question."""
        return self.ids(*self.delimiters[1:])

    def text_settings(self) -> dict[str, Any]:
        """The decoder that all families share: ten layers of width 128."""
        tokenizer = self.tokenizer
        return {
            "vocab_size": len(tokenizer),
            "hidden_size": DECODER_WIDTH,
            "intermediate_size": 192,
            "num_hidden_layers": 10,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 2048,
            "initializer_range": 0.06,
            "tie_word_embeddings": True,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        }

    def template(self, image: str) -> str:
        """The chat template with ``image`` where a picture goes."""
        return TEMPLATE.replace("IMAGE", image)


def line_positions(head: int, tokens: int) -> Tensor:
    """``[1, tokens]``: a picture's positions in a model that counts tokens."""
    return torch.arange(head, head + tokens)[None]


def raster_cells(side: int) -> Tensor:
    """The squares of a picture, row by row."""
    return torch.arange((side // PATCH) ** 2)
