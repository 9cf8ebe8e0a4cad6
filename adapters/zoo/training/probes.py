"""Linear read-outs that give the model a meaning early in training and are then thrown away."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tokensieve.adapters.zoo.tasks import digit_scenes as scenes
from tokensieve.adapters.zoo.training.batches import BACKGROUND, IGNORE, PATCHES_PER_SIDE


class SightProbes(nn.Module):
    """Linear read-outs of the vision tower, used in training only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.patch = nn.Linear(width, 11 + len(scenes.COLOR_NAMES) + 1)
        self.summary = nn.Linear(width, 10 + len(scenes.COLOR_NAMES))
        self.middle_norm = nn.LayerNorm(width)

    def loss(
        self, tower: Any, hidden_states: tuple[torch.Tensor, ...], batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sight loss, and the share of digit patches read correctly."""
        middle, last = self.middle_norm(hidden_states[-2]), tower.post_layernorm(hidden_states[-1])
        logits = self.patch(middle[:, 1:])
        value, color = logits[..., :11], logits[..., 11:]
        digits = batch["patch_value"] < BACKGROUND
        loss = middle.new_zeros(())
        for where in (digits, ~digits):  # digit patches are rare: each side counts one half
            loss = loss + nn.functional.cross_entropy(value[where], batch["patch_value"][where])
            loss = loss + nn.functional.cross_entropy(color[where], batch["patch_colour"][where])
        for cls in (middle[:, 0], last[:, 0]):
            loss = loss + nn.functional.binary_cross_entropy_with_logits(
                self.summary(cls), batch["seen"]
            )
        right = (value.argmax(-1) == batch["patch_value"]) & (
            color.argmax(-1) == batch["patch_colour"]
        )
        return loss, right[digits].float().mean()


class WordProbe(nn.Module):
    """Linear read-out of the decoder at some words of a question, used in training only."""

    def __init__(self, width: int, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.sizes = sizes
        self.norm = nn.LayerNorm(width)
        self.read = nn.Linear(width, sum(sizes))

    def loss(self, hidden: torch.Tensor, facts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss, and the share of words at which the first two facts are known.

        ``facts`` is ``[batch, tokens, len(sizes)]``: class numbers, -100 where nothing is asked.
        """
        where = facts[..., 0] != IGNORE
        logits = self.read(self.norm(hidden[where])).float().split(self.sizes, dim=-1)
        targets = facts[where].unbind(-1)
        loss = sum(map(nn.functional.cross_entropy, logits, targets), hidden.new_zeros(()))
        right = [part.argmax(-1) == t for part, t in zip(logits[:2], targets, strict=False)]
        return loss, torch.stack(right).all(dim=0).float().mean()


class Probes(nn.Module):
    """All read-outs that exist only in training."""

    def __init__(self, vision_width: int, text_width: int) -> None:
        super().__init__()
        self.sight = SightProbes(vision_width)
        places = PATCHES_PER_SIDE, PATCHES_PER_SIDE
        self.grounding = WordProbe(text_width, (10, len(scenes.COLOR_NAMES), *places))
        self.comparison = WordProbe(text_width, (3, 3))
        self.verdict = WordProbe(text_width, (2,))
