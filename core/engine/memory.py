"""What components remember from boundary to boundary, kept in step with the tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from tokensieve.core.contract.memory import Per
from tokensieve.core.engine.reduction import Groups
from tokensieve.core.engine.state import ForwardState

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class BoundaryMemory:
    """The memory as the view of one boundary sees it.

    Values per token lie in the state as ``[samples, rows, ...]``, so every reduction carries them
    along like hidden states. Text rows are never removed: values per text token stay as they are.
    """

    state: ForwardState
    groups: Groups

    def recall(self, key: str, per: Per) -> Tensor | None:
        """Today's rows of what was remembered; None if nothing was, or for other images."""
        if per == "token":
            stored = self.state.carried.get(key)
            if stored is None:
                return None
            return self.groups.take(stored.to(self.groups.rows.device))
        rows, values = self.state.texts.get(key, (None, None))
        if values is None or rows != self._owners():
            return None
        return values.to(self.groups.rows.device)

    def remember(self, key: str, values: Tensor, per: Per) -> None:
        """Store, over what was there."""
        if per == "token":
            samples, length = self.state.batch, self._length()
            old = self.state.carried.get(key)
            shape = (samples, length, *values.shape[2:])
            if old is None or old.shape != shape:
                old = torch.zeros(shape, dtype=values.dtype, device=values.device)
            self.state.carried[key] = self.groups.put(old, values)
        else:
            self.state.texts[key] = (self._owners(), values)

    def _owners(self) -> list[tuple[int, int]]:
        return [(group[0].sample, group[0].image) for group in self.groups.blocks]

    def _length(self) -> int:
        assert self.state.layout is not None
        return self.state.layout.length
