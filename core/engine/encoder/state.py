"""State of one forward of an encoder, besides what every forward holds."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from tokensieve.core.contract.adapted import AdaptedEncoder
from tokensieve.core.contract.shrinking import Grid, small_grid, spread_places
from tokensieve.core.contract.tensors import on_device
from tokensieve.core.engine.guard import ForwardGuard
from tokensieve.core.engine.layout import Layout, Segment
from tokensieve.core.engine.rows import Rows
from tokensieve.core.engine.state import ForwardState, Prompt
from tokensieve.core.engine.trace import Trace
from tokensieve.core.pipeline.budgets import Schedule

if TYPE_CHECKING:
    from torch import Tensor

WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class CapturedBlock:
    """What the attention of a block computed.

    Attributes:
        output: of the module that makes queries and keys.
        mask: the attention mask that the block was given.
        valid: ``[samples, rows]`` bool, rows that were no filler; None if none was.
        cls: the row of each sample's first token.
    """

    output: Tensor
    mask: Tensor | None
    valid: Tensor | None
    cls: list[int]


@dataclass
class EncoderState(ForwardState):
    """One forward of an encoder.

    Attributes:
        grid: rows and columns of patches.
        small: the same after pictures were made smaller; None if they were not.
        proportional: whether attention counts merged tokens by their size.
        mask: what blocks are given for the current rows.
        captured: by block.
        weights: ``[batch, rows]`` how often the head counts each row; None: once.
    """

    grid: Grid = (0, 0)
    small: Grid | None = None
    proportional: bool = False
    mask: Tensor | None = None
    captured: dict[int, CapturedBlock] = field(default_factory=dict)
    weights: Tensor | None = None


def rows_of(layer: int) -> str:
    """Name of the row tensor that says where the current rows were in a block."""
    return f"rows of block {layer}"


def begin_pictures(
    bound: AdaptedEncoder,
    schedule: Schedule,
    pictures: Tensor,
    notes: list[str],
    seed: int,
    guard: ForwardGuard,
    image_stage: int | None = None,
) -> EncoderState:
    """The state of a forward on ``pictures``: prefix rows, then one image of patches a sample.

    ``image_stage`` is the number of the stage that makes pictures smaller; their patches are then
    at some of the places of the full grid.
    """
    batch, grid = int(pictures.shape[0]), bound.grid(pictures)
    patches = grid[0] * grid[1]
    counts = schedule.counts(patches)
    small = grid if image_stage is None else small_grid(grid, counts[image_stage])
    places = [*[-1] * bound.prefix, *spread_places(grid, small)]
    prefix = (Segment("text", bound.prefix),) if bound.prefix else ()
    sample = (*prefix, Segment("image", small[0] * small[1], 0))
    layout = Layout((sample,) * batch, len(places))
    trace = Trace([patches] * batch, text_tokens=[bound.prefix] * batch, notes=list(notes))
    images = [(number, 0) for number in range(batch)]
    prompt = Prompt(
        batch,
        layout.length,
        keys=picture_keys(pictures, seed),
        image_sizes=dict.fromkeys(images, patches),
        targets=dict.fromkeys(images, counts),
    )
    rows = Rows(layout, on_device(places, pictures.device).expand(batch, -1))
    return EncoderState(
        prompt, rows, guard, trace, grid=grid, small=None if small == grid else small
    )


def picture_keys(pictures: Tensor, seed: int) -> tuple[int, ...]:
    """One integer per picture from its pixels and the seed, whatever else is in the batch.

    A weighted sum of the pixels' bits: whole numbers add up to the same in every order.
    """
    flat = pictures.detach().flatten(1).contiguous()
    bits = flat.view(WORDS[flat.element_size()]).long()
    places = torch.arange(1, bits.shape[1] + 1, device=bits.device)
    totals = (bits * places).sum(1).tolist()
    return tuple(zlib.crc32(repr((seed, total)).encode()) for total in totals)
