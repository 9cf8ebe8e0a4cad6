"""The masked oracle (:mod:`tokensieve.core.testing.oracle`) for the tiny models of the tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tiny_models import IMAGE, Prompt, inputs
from torch.nn.functional import pad

from tokensieve.core.models.binding import bind
from tokensieve.core.testing import oracle
from tokensieve.core.testing.oracle import Conversation, Turn, turn_of

__all__ = [
    "Conversation",
    "Turn",
    "conversation_of",
    "oracle_logits",
    "single",
    "together",
    "turn_of",
    "vision_inputs",
]


VISION = ("pixel_values", "image_grid_thw", "image_sizes")


def single(family: str, prompt: Prompt, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """The prompt alone, as model inputs."""
    return inputs(family, [prompt], dtype=dtype)


def oracle_logits(model: Any, family: str, conversation: Conversation, policy: str) -> torch.Tensor:
    """``[tokens, vocabulary]`` logits of the masked, unpruned model."""
    if family == "qwen-vl":
        images = [int(token == IMAGE) for token in conversation.ids]
        conversation.per_token = {"mm_token_type_ids": images}
    bound: Any = bind(model)
    return oracle.oracle_logits(bound, conversation, policy)


def vision_inputs(batch: dict[str, Any]) -> dict[str, Any]:
    """The vision part of model inputs."""
    return {k: v for k, v in batch.items() if k in VISION}


def together(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """The vision parts of two prompts, one after the other, pictures in frames of one size."""
    pictures = [first["pixel_values"], second["pixel_values"]]
    if "image_sizes" in first:
        tall, wide = (max(each.shape[axis] for each in pictures) for axis in (2, 3))
        pictures = [pad(e, (0, wide - e.shape[3], 0, tall - e.shape[2])) for e in pictures]
    joined = {
        name: torch.cat([part, second[name]])
        for name, part in first.items()
        if name != "pixel_values"
    }
    return {**joined, "pixel_values": torch.cat(pictures)}


def conversation_of(
    family: str,
    prompt: Prompt,
    trace: Any,
    sample: int,
    generated: Sequence[int] = (),
    dtype: torch.dtype = torch.float64,
) -> Conversation:
    """One prefill and the tokens decoded after it."""
    alone = single(family, prompt, dtype)
    ids = alone["input_ids"][0].tolist()
    turn = turn_of(trace, sample, 0, len(ids))
    return Conversation([*ids, *generated], vision_inputs(alone), [turn])
