"""Decisions of a prompt's forward, for forwards that repeat it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from tokensieve.core.engine.layout import Layout
    from tokensieve.core.engine.reduction import Reduction


@dataclass
class EarlierDecisions:
    """What a prompt's forward decided, for later forwards of the same call without a cache.

    Such a forward runs the prompt again, and a few new tokens: what was removed of the prompt stays
    removed. ``ids`` ``[batch, rows]`` are its tokens; ``reductions`` are by boundary.
    """

    ids: Tensor
    reductions: dict[int, Reduction | None] = field(default_factory=dict)

    def holds(self, ids: Tensor) -> bool:
        """Whether ``ids`` are this prompt, with or without tokens after it."""
        batch, rows = self.ids.shape
        return ids.shape[0] == batch and torch.equal(ids[:, :rows], self.ids)

    def decide(
        self, boundary: int, layout: Layout, fresh: Callable[[], Reduction | None]
    ) -> Reduction | None:
        """What was decided at a boundary, for the current rows; ``fresh`` decides once."""
        if boundary not in self.reductions:
            self.reductions[boundary] = fresh()
            return self.reductions[boundary]
        known = self.reductions[boundary]
        return None if known is None else known.extended(layout)
