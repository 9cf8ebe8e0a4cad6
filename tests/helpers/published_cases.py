"""A published method, run by us and by its reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from references.compare import SIDE, Both, model_of, run_ours, run_theirs
from references.published import Stand, rewritten
from references.vision import Encoded


def seeing() -> Any:
    """24 encoder layers, as CLIP-L has: the 6th, 9th, 23rd and 24th are what they are there."""
    return model_of("llava", side=SIDE, num_hidden_layers=17, vision_layers=24)


def both_ways(
    model: Any, inputs: dict[str, Any], preset: Any, stages: Any, *, reindex: bool
) -> Both:
    """Same tokens, same logits; ``stages`` is a list, or makes one from the encoded images."""
    both = run_ours(model, inputs, preset)
    made = stages if callable(stages) else lambda _images: stages
    both.expected = [run_theirs(model, inputs, made, reindex=reindex)]
    both.assert_same_tokens()
    both.assert_same_logits()
    return both


def at_input(stand: Callable[[Sequence[Encoded]], Stand]) -> Callable[[Sequence[Encoded]], Any]:
    return lambda images: [(0, rewritten(stand(images), reindex=True))]
