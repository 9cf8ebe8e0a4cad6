"""The signals at a boundary of an encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tokensieve.core.contract.adapted import AdaptedEncoder
from tokensieve.core.contract.tensors import on_device, take_rows
from tokensieve.core.engine.boundary_signals import BoundarySignals, Readers
from tokensieve.core.engine.encoder.attention import BlockAttention
from tokensieve.core.engine.encoder.state import EncoderState, rows_of
from tokensieve.core.engine.reduction import Groups
from tokensieve.core.engine.rows import Rows
from tokensieve.core.errors import SignalError, UnsupportedError

if TYPE_CHECKING:
    from torch import Tensor


class EncoderSignals(BoundarySignals):
    """Everything the view of a boundary of an encoder can be asked for."""

    def __init__(
        self,
        bound: AdaptedEncoder,
        state: EncoderState,
        rows: Rows,
        groups: Groups,
        boundary: int,
        hidden: Tensor,
    ) -> None:
        super().__init__(bound, state, rows, groups, boundary, hidden)
        self.bound = bound
        self.encoder = state

    def project(self, vectors: Tensor) -> Tensor:
        """There is no projector."""
        raise UnsupportedError("an encoder has no projector in front of which tokens could merge")

    def readers(self) -> Readers:
        """What all engines read, and the blocks that have run."""
        return super().readers() | {
            "previous_attention": lambda: self._block(None),
            "vision_attention": lambda: self._block(None).attention(),
            "vision_keys": lambda: self._block(None).keys(),
            "encoder_layers": lambda: self._block,
            "grid": self._grid,
            "tile": lambda: torch.zeros_like(self.index),
        }

    def _grid(self) -> Tensor:
        columns = self.encoder.grid[1]
        index = self.index.clamp(min=0)
        return torch.stack([index // columns, index % columns], dim=-1)

    def _block(self, depth: float | None) -> BlockAttention:
        """The block before the boundary, or the one at a depth."""
        layer = self.boundary - 1 if depth is None else self.bound.layer_at(depth)
        if layer not in self.encoder.captured:
            raise SignalError(
                f"the encoder block at depth {depth} was not captured: declare it in "
                "vision_depths()"
            )
        seen = self.encoder.captured[layer]
        queries, keys = self.bound.queries_and_keys(layer, seen.output)
        then = self.groups.take(self.rows.row_tensors[rows_of(layer)])

        def pick(values: Tensor) -> Tensor:
            return take_rows(values[self.groups.sample], then)

        return BlockAttention(
            queries, keys, self.bound.attention_scale(layer), seen.mask, seen.valid,
            on_device(seen.cls, self.hidden.device) if self.bound.has_cls else None, pick,
        )  # fmt: skip
