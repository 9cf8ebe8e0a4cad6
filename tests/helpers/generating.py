"""Prompts, settings and recorded logits of the tests that generate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from tiny_models import DEFAULT_IMAGES, SPECIAL, Prompt

GREEDY: dict[str, Any] = {
    "do_sample": False,
    "return_dict_in_generate": True,
    "suppress_tokens": SPECIAL,
}


def prompts(family: str) -> list[Prompt]:
    """Ragged text, one sample with two images, one without."""
    small, large = DEFAULT_IMAGES[family]
    return [
        Prompt(3, (small,), 5, seed=0),
        Prompt(6, (large, small), 4, seed=1),
        Prompt(8, (), 3, seed=2),
    ]


@contextmanager
def recorded_logits(model: Any) -> Iterator[list[torch.Tensor]]:
    """The last-row logits of every forward, in the model's own precision."""
    steps: list[torch.Tensor] = []

    def hook(module: Any, args: Any, output: Any) -> None:
        steps.append(output.logits[:, -1])

    handle = model.register_forward_hook(hook)
    try:
        yield steps
    finally:
        handle.remove()
