"""The memory of components from boundary to boundary, kept in step with the tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tokensieve.core.contract.memory import Per
from tokensieve.core.engine.reduction import Groups
from tokensieve.core.engine.rows import Rows
from tokensieve.core.engine.state import Captures, ImageKey

if TYPE_CHECKING:
    from torch import Tensor


class BoundaryMemory:
    """The memory as the view of one boundary sees it.

    Values per token are row tensors ``[samples, rows, ...]``, so every reduction carries them along
    like hidden states. Text rows are never removed: values per text token stay as they are.

    Attributes:
        row_tensors: those of the current rows, with what was remembered here.
    """

    def __init__(self, rows: Rows, captures: Captures, groups: Groups) -> None:
        self.row_tensors = dict(rows.row_tensors)
        self._layout = rows.layout
        self._texts = captures.texts
        self._groups = groups
        self._images: list[ImageKey] = [(g[0].sample, g[0].image) for g in groups.blocks]

    def recall(self, key: str, per: Per) -> Tensor | None:
        """Current rows of what was remembered; None if nothing was, or for other images."""
        device = self._groups.rows.device
        if per == "token":
            stored = self.row_tensors.get(key)
            return None if stored is None else self._groups.take(stored.to(device))
        images, values = self._texts.get(key, (None, None))
        if values is None or images != self._images:
            return None
        return values.to(device)

    def remember(self, key: str, values: Tensor, per: Per) -> None:
        """Store, over what was there."""
        if per == "text":
            self._texts[key] = (self._images, values)
            return
        old = self.row_tensors.get(key)
        shape = (len(self._layout.samples), self._layout.length, *values.shape[2:])
        if old is None or old.shape != shape:
            old = torch.zeros(shape, dtype=values.dtype, device=values.device)
        self.row_tensors[key] = self._groups.put(old, values)
