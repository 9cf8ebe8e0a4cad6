"""The text of a prompt: its rows, for every image of a boundary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokensieve.core.contract.signals import QueryRows
from tokensieve.core.contract.tensors import on_device
from tokensieve.core.engine.layout import Layout
from tokensieve.core.engine.reduction import Groups

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class TextRows:
    """Text rows of the sample that each row of the batch belongs to.

    Attributes:
        rows: ``[batch, text]`` sequence rows (0 where not valid).
        valid: ``[batch, text]`` bool.
        instruction: ``[batch, text]`` bool, after the last image.
    """

    rows: Tensor
    valid: Tensor
    instruction: Tensor

    @classmethod
    def of(cls, layout: Layout, groups: Groups) -> TextRows:
        """The text of ``layout``, once for every row of ``groups``."""
        samples = [group[0].sample for group in groups.blocks]
        texts = [layout.rows(sample, "text") for sample in samples]
        after = []
        for sample, text in zip(samples, texts, strict=True):
            last = max(layout.rows(sample, "image"), default=-1)
            after.append([row > last for row in text])
        device = groups.rows.device
        rows = _padded(texts, -1, device)
        return cls(rows.clamp(min=0), rows >= 0, _padded(after, False, device))


def _padded(rows: list[list[int]] | list[list[bool]], fill: int, device: torch.device) -> Tensor:
    """At least one column, so that nothing has to handle empty tensors."""
    widest = max(1, *map(len, rows))
    return on_device([[*row, *[fill] * (widest - len(row))] for row in rows], device)


def query_rows(layout: Layout, sample: int, rows: QueryRows) -> list[int]:
    """Rows of a sample that ask: the ``last`` token of the prompt, the ``after-image-text``, or
    ``all-text``."""
    text = layout.rows(sample, "text")
    images = layout.rows(sample, "image")
    last = max([*text, *images], default=layout.length - 1)
    if rows == "last":
        return [last]
    if rows == "after-image-text":
        text = [row for row in text if row > max(images, default=-1)]
    return text or [last]
