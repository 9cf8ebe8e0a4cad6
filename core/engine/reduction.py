"""Index algebra of one reduction: decided once, applied to every tensor that has rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from tokensieve.core.contract.tensors import on_device
from tokensieve.core.engine.layout import Block, Layout

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Groups:
    """The visual tokens of a boundary as a padded batch of images (or of samples).

    Attributes:
        blocks: the images of each row of the batch.
        sample: ``[batch]`` the sample a row belongs to.
        rows: ``[batch, tokens]`` sequence rows of its tokens (0 where not valid).
        valid: ``[batch, tokens]`` bool.
    """

    blocks: list[list[Block]]
    sample: Tensor
    rows: Tensor
    valid: Tensor

    @classmethod
    def of(
        cls, layout: Layout, scope: str, device: torch.device, separators: Tensor | None = None
    ) -> Groups:
        """Group the visual tokens of ``layout`` by image or by sample.

        ``separators`` ``[samples, rows]`` marks the rows of images that are none of their tokens.
        """
        blocks = layout.blocks()
        if scope == "sample":
            members = sorted({block.sample for block in blocks})
            grouped = [[b for b in blocks if b.sample == sample] for sample in members]
        else:
            grouped = [[block] for block in blocks]
        rows = [[row for block in group for row in block.rows] for group in grouped]
        widest = max(len(row) for row in rows)
        padded = on_device([row + [-1] * (widest - len(row)) for row in rows], device)
        sample = on_device([group[0].sample for group in grouped], device)
        if separators is not None:
            padded = padded.masked_fill(separators.to(device)[sample[:, None], padded], -1)
            tokens_first = (padded < 0).to(torch.uint8).sort(dim=1, stable=True).indices
            padded = padded.gather(1, tokens_first)
            padded = padded[:, : max(sum(block.length for block in group) for group in grouped)]
        return cls(grouped, sample, padded.clamp(min=0), padded >= 0)

    @property
    def sizes(self) -> list[int]:
        """Tokens in each row of the batch."""
        return [sum(block.length for block in group) for group in self.blocks]

    def take(self, tensor: Tensor) -> Tensor:
        """``[samples, sequence, ...]`` -> ``[batch, tokens, ...]``."""
        return tensor[self.sample[:, None], self.rows]

    def put(self, tensor: Tensor, values: Tensor) -> Tensor:
        """A copy of ``[samples, sequence, ...]`` with ``[batch, tokens, ...]`` written in."""
        spare = tensor.shape[1]  # padding is written to a row that is cut off
        rows = self.rows.masked_fill(~self.valid, spare)
        sample = self.sample[:, None].expand_as(rows)
        longer = torch.cat([tensor, tensor[:, :1]], dim=1)
        return longer.index_put((sample, rows), values.to(tensor.dtype))[:, :-1]

    @property
    def image_starts(self) -> Tensor:
        """``[batch, tokens]`` the sequence row at which the image of each token begins."""
        starts = [[b.start for b in group for _ in range(b.length)] for group in self.blocks]
        width = self.rows.shape[1]
        padded = [row + [0] * (width - len(row)) for row in starts]
        return on_device(padded, self.rows.device)


@dataclass(frozen=True)
class Reduction:
    """New row ``i`` of a sample is old row ``order[sample, i]``; ``valid`` marks real ones.

    ``written`` holds vectors that replace hidden states: old rows ``(sample, row)`` and values;
    ``unplaced`` ``[samples, rows]`` marks old rows that now hold a token of no visual place;
    ``sizes`` ``[samples, rows]`` says how many original tokens went into each old row.
    """

    order: Tensor
    valid: Tensor | None
    layout: Layout
    written: tuple[Tensor, Tensor, Tensor] | None = None
    unplaced: Tensor | None = None
    sizes: Tensor | None = None

    def extended(self, layout: Layout) -> Reduction:
        """The same for ``layout``, which has more text after the same prompt."""
        length, samples = layout.length, len(layout.samples)
        counts = {(block.sample, block.image): block.length for block in self.layout.blocks()}
        after = layout.with_images(counts)
        more = after.length - self.order.shape[1]
        device = self.order.device
        new = torch.arange(length - more, length, device=device).expand(samples, -1)
        ones = torch.ones(samples, more, device=device)
        return replace(
            self,
            order=torch.cat([self.order, new], dim=1),
            valid=_followed(self.valid, ones.bool()),
            layout=after,
            unplaced=_followed(self.unplaced, ones.bool() & False),
            sizes=_followed(self.sizes, ones),
        )

    def relabel(self, origin: Tensor) -> Tensor:
        """Origins, -1 for the rows that an extra token takes over."""
        return origin if self.unplaced is None else origin.masked_fill(self.unplaced, -1)

    def rows(self, tensor: Tensor) -> Tensor:
        """Apply to ``[samples, rows, ...]`` (a leading 1 is expanded)."""
        if tensor.shape[0] != self.order.shape[0]:
            tensor = tensor.expand(self.order.shape[0], *tensor.shape[1:])
        order = self.order.to(tensor.device)
        sample = torch.arange(order.shape[0], device=tensor.device)[:, None]
        return tensor[sample, order]  # copies whole rows; gather reads an index per element

    def hidden(self, hidden: Tensor) -> Tensor:
        """Reduce hidden states, writing merged vectors in."""
        if self.written is None:
            return self.rows(hidden)
        sample, row, values = (part.to(hidden.device) for part in self.written)
        return self.rows(hidden.index_put((sample, row), values.to(hidden.dtype)))


def _followed(flags: Tensor | None, more: Tensor) -> Tensor | None:
    return None if flags is None else torch.cat([flags, more.to(flags)], dim=1)


def reduce_rows(
    layout: Layout, drop: Tensor, kept_counts: dict[tuple[int, int], int], rank: Tensor | None
) -> Reduction:
    """Build the reduction that removes the rows marked in ``drop`` ``[samples, rows]``.

    Args:
        layout: rows before.
        drop: True for dropped visual tokens; filler rows are dropped here.
        kept_counts: tokens left of each image ``(sample, image)``.
        rank: ``[samples, rows]`` integers by which the remaining rows are ordered; None keeps
            their order.
    """
    after = layout.with_images(kept_counts)
    device = drop.device
    if layout.ragged():
        used = on_device([layout.used(s) for s in range(len(layout.samples))], device)
        filler = torch.arange(layout.length, device=device) < (layout.length - used)[:, None]
        drop = drop | filler
    if rank is None:
        order = (~drop).to(torch.uint8).sort(dim=1, stable=True).indices
    else:
        order = rank.masked_fill(drop, -1).sort(dim=1, stable=True).indices
    order = order[:, layout.length - after.length :]
    valid = None
    if after.ragged():
        used = on_device([after.used(s) for s in range(len(after.samples))], device)
        valid = torch.arange(after.length, device=device) >= (after.length - used)[:, None]
    return Reduction(order, valid, after)
