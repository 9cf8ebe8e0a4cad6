"""Linear read-outs of a model in training: they give it a meaning early, and are thrown away."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tokensieve.adapters.zoo.families import Encoded
from tokensieve.adapters.zoo.tasks.digit_scenes import COLOR_NAMES
from tokensieve.adapters.zoo.tasks.glyphs import LABELS, PATCH
from tokensieve.adapters.zoo.tasks.pictures import LARGE
from tokensieve.adapters.zoo.training.packing import IGNORE, NOTHING
from tokensieve.adapters.zoo.training.probes import WordProbe

KINDS = (len(LABELS) + 1, len(COLOR_NAMES) + 1)
PLACES = LARGE // PATCH


class Sight(nn.Module):
    """Label and color of every visual token, and what each [CLS] token has seen."""

    def __init__(self, width: int, summary_width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.read = nn.Linear(width, sum(KINDS))
        self.summary_norm = nn.LayerNorm(summary_width) if summary_width else None
        self.summary = nn.Linear(summary_width, sum(KINDS) - 2) if summary_width else None

    def loss(
        self, encoded: Encoded, label: Tensor, color: Tensor, seen: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Loss, and the share of the items' tokens that are read correctly."""
        labels, colors = self.read(self.norm(encoded.features)).float().split(KINDS, dim=-1)
        loss = labels.new_zeros(())
        items, rest = (label != IGNORE) & (label < NOTHING), label == NOTHING
        for where in (items, rest):  # items are rare: each side counts one half
            loss = loss + nn.functional.cross_entropy(labels[where], label[where])
            loss = loss + nn.functional.cross_entropy(colors[where], color[where])
        for state in encoded.summaries:
            assert self.summary is not None
            assert self.summary_norm is not None
            said = self.summary(self.summary_norm(state)).float()
            loss = loss + nn.functional.binary_cross_entropy_with_logits(said, seen)
        right = (labels.argmax(-1) == label) & (colors.argmax(-1) == color)
        return loss, right[items].float().mean()


class Readouts(nn.Module):
    """All read-outs of one family."""

    def __init__(self, width: int, summary_width: int) -> None:
        super().__init__()
        self.sight = Sight(width, summary_width)
        sizes = len(LABELS), len(COLOR_NAMES), PLACES, PLACES
        self.grounding = WordProbe(width, sizes)
        self.order = WordProbe(width, (3,))
        self.comparison = WordProbe(width, (3, 3))
        self.verdict = WordProbe(width, (2,))


def safe(loss: Tensor) -> Tensor:
    """Zero where a batch has nothing to read (the mean of nothing is no number)."""
    return torch.where(loss.isnan(), torch.zeros_like(loss), loss)
