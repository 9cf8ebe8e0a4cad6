"""The stage before the vision encoder: smaller images, and the placeholders that they fill."""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING

import torch

from tokensieve.core.contract.shrinking import Grid, small_grid, spread_places
from tokensieve.core.contract.tensors import on_device
from tokensieve.core.contract.vision_record import MappedLayer, VisionRecord
from tokensieve.core.engine.layout import Layout
from tokensieve.core.engine.matched_records import MatchedRecords
from tokensieve.core.engine.reduction import Groups, Reduction, reduce_rows
from tokensieve.core.errors import SignalError

if TYPE_CHECKING:
    from torch import Tensor

Counts = dict[tuple[int, int], int]


class Shrinker(threading.local):
    """The plan for the smaller images of one pass of the encoder; threads run passes at once.

    Attributes:
        places: per image of the encoder's call, the placeholders that are filled, counted from
            the image's first.
        sizes: tokens of each of these images at full size.
    """

    def __init__(self) -> None:
        self.places: list[list[int]] = []
        self.sizes: list[int] = []

    def plan(
        self, grids: list[Grid], original: Counts, targets: Counts, *, square: bool
    ) -> list[Grid]:
        """A smaller grid for each of ``grids`` (images, or tiles of images), by the budgets."""
        small: list[Grid] = []
        self.places, self.sizes = [], []
        budgets = list(original)
        while len(small) < len(grids):
            key = budgets[len(self.sizes) % len(budgets)]
            tokens, places, start = original[key], [], 0
            while start < tokens:
                number = len(small)
                if number == len(grids) or math.prod(grids[number]) > tokens - start:
                    raise SignalError(
                        "the images of this call do not fill the prompt's placeholders: smaller "
                        "images need the images to pass through the model's own vision encoder"
                    )
                grid = grids[number]
                share = targets[key] * grid[0] * grid[1] / tokens
                small.append(small_grid(grid, share, square=square))
                places += [start + place for place in spread_places(grid, small[-1])]
                start += grid[0] * grid[1]
            self.places.append(places)
            self.sizes.append(tokens)
        return small

    def spread(self, record: VisionRecord) -> VisionRecord:
        """The record of the smaller images, at the places they take among the full tokens."""
        if not self.places:
            return record
        starts = [0, *accumulate(self.sizes)]
        flat = [
            start + place
            for start, places in zip(starts, self.places, strict=False)
            for place in places
        ]

        def at_places(values: Tensor) -> Tensor:
            full = values.new_zeros(starts[-1], *values.shape[1:])
            return full.index_copy(0, on_device(flat, values.device), values)

        fields = ("features", "grid", "tile", "clip_relevance")
        return replace(
            record,
            images=list(self.sizes),
            filled=[list(places) for places in self.places],
            layers={depth: MappedLayer(layer, at_places) for depth, layer in record.layers.items()},
            **{
                name: None if (values := getattr(record, name)) is None else at_places(values)
                for name in fields
            },
        )


def unfilled(layout: Layout, groups: Groups, evidence: MatchedRecords) -> Reduction | None:
    """Drops the placeholders that no smaller picture fills; None if all are filled."""
    own: list[list[int]] = []
    for group in groups.blocks:
        found = evidence.images[group[0].sample, group[0].image]
        filled = found.record.filled
        whole = list(range(group[0].length))
        own.append(whole if filled is None else filled[found.record.picture_at(found.start)])
    counts = {
        (group[0].sample, group[0].image): len(places)
        for group, places in zip(groups.blocks, own, strict=True)
    }
    if list(counts.values()) == groups.sizes:
        return None
    flags = torch.zeros(groups.valid.shape, dtype=torch.bool)
    for row, places in enumerate(own):
        flags[row, places] = True
    stay = flags.to(groups.rows.device)
    empty = torch.zeros(len(layout.samples), layout.length, dtype=torch.bool, device=stay.device)
    return reduce_rows(layout, groups.put(empty, ~stay), counts, None)
