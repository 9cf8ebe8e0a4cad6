"""The rows that are left of a forward's tokens, and what belongs to each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from tokensieve.core.contract.tensors import on_device
from tokensieve.core.engine.layout import Layout
from tokensieve.core.engine.reduction import Reduction

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """The current rows of a forward that holds visual tokens.

    Attributes:
        layout: which of them are visual tokens of which image.
        origin: ``[batch, rows]`` index among the sample's original visual tokens, -1 otherwise.
        valid: ``[batch, rows]`` bool; None if all are real.
        input_rows: ``[batch, rows]`` where each was in the input; None: nothing moved.
        separators: ``[batch, rows]`` bool, rows of an image that are none of its tokens; None
            where no image has some.
        sizes: ``[batch, rows]`` original tokens that each stands for; None: one.
        row_tensors: by name, other ``[batch, rows, ...]`` tensors that go along.
        lost: for each sample, whether it lost rows.
        reductions: what made these rows, each as (tokens in the cache, boundary).
    """

    layout: Layout
    origin: Tensor
    valid: Tensor | None = None
    input_rows: Tensor | None = None
    separators: Tensor | None = None
    sizes: Tensor | None = None
    row_tensors: Mapping[str, Tensor] = field(default_factory=dict)
    lost: tuple[bool, ...] = ()
    reductions: tuple[tuple[int, int], ...] = ()

    def reduced(self, reduction: Reduction, past: int, boundary: int) -> Rows:
        """The rows that survive a reduction, with all that belongs to them."""
        take, before, after = reduction.rows, self.layout, reduction.layout
        batch = len(before.samples)
        input_rows = self.input_rows
        if input_rows is None:
            input_rows = torch.arange(before.length, device=reduction.order.device)[None]
        valid = None if self.valid is None else take(self.valid)
        if reduction.valid is not None:
            valid = reduction.valid if valid is None else valid & reduction.valid.to(valid.device)
        origin = take(reduction.relabel(self.origin))
        if valid is not None and after.ragged():
            origin = origin.masked_fill(~valid.to(origin.device), -1)
        sizes = self.sizes if reduction.sizes is None else reduction.sizes
        lost = tuple(after.used(sample) != before.used(sample) for sample in range(batch))
        return Rows(
            layout=after,
            origin=origin,
            valid=valid,
            input_rows=take(input_rows),
            separators=None if self.separators is None else take(self.separators),
            sizes=None if sizes is None else take(sizes),
            row_tensors={name: take(values) for name, values in self.row_tensors.items()},
            lost=tuple(a or b for a, b in zip(lost, self.lost or lost, strict=True)),
            reductions=(*self.reductions, (past, boundary)),
        )

    def carrying(self, name: str, values: Tensor) -> Rows:
        """The same, with a tensor that goes along."""
        return replace(self, row_tensors={**self.row_tensors, name: values})

    def marking(self, name: str, device: torch.device) -> Rows:
        """The same, with a tensor that goes along and says where each row is now."""
        here = torch.arange(self.layout.length, device=device)
        return self.carrying(name, here.expand(len(self.layout.samples), -1))

    def filler(self) -> list[int]:
        """For each sample, how many filler rows it begins with."""
        layout = self.layout
        return [layout.length - layout.used(sample) for sample in range(len(layout.samples))]

    def real_input_rows(self) -> Tensor | None:
        """``input_rows``, -1 at filler rows."""
        if self.input_rows is None or not self.layout.ragged():
            return self.input_rows
        device = self.input_rows.device
        here = torch.arange(self.layout.length, device=device)
        filler = on_device(self.filler(), device)[:, None]
        return self.input_rows.masked_fill(here < filler, -1)
