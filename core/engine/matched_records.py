"""The record of the vision encoder that belongs to each picture: by identity, never by counting.

A record of the vision encoder holds the features that came out of the projector. The decoder's
input holds them too, at the rows of the pictures. Rows and features that are equal bit by bit are
the same tokens, whoever encoded them, when, and in whichever order: for another caller, ahead of
the question, beside a video, once for several beams.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import torch

from tokensieve.core.contract.signals import EncoderAttention, EncoderLayer
from tokensieve.core.contract.vision_record import VisionRecord
from tokensieve.core.engine.layout import Block, Layout
from tokensieve.core.errors import SignalError

if TYPE_CHECKING:
    from torch import Tensor

UNKNOWN = (
    "vision signals need the images to pass through the model's own vision encoder while the "
    "pipeline is attached, and their features to reach the decoder unchanged"
)


@dataclass(frozen=True)
class Found:
    """Where the tokens of one image are: from ``start`` on in ``record``."""

    record: VisionRecord
    start: int

    def is_whole(self, tokens: int) -> bool:
        """Whether ``tokens`` from here on are whole pictures."""
        edges = {0, *accumulate(self.record.images)}
        return {self.start, self.start + tokens} <= edges

    def looks_like(self, other: Found, tokens: int) -> bool:
        """Whether the tokens here are in the same rows and columns as those there."""
        here, there = (
            None if at.record.grid is None else at.record.grid[at.start : at.start + tokens]
            for at in (self, other)
        )
        return here is there or (here is not None and there is not None and here.equal(there))


@dataclass(frozen=True)
class MatchedRecords:
    """The records of the images of a prompt.

    Attributes:
        images: by ``(sample, image)``.
        places: ``[samples, tokens]`` for each of a sample's original visual tokens, its place in
            the records that are used, one after the other.
    """

    images: dict[tuple[int, int], Found]
    places: Tensor

    @property
    def records(self) -> list[VisionRecord]:
        """The records that are used, each once."""
        return list({id(found.record): found.record for found in self.images.values()}.values())

    def field(self, name: str) -> Tensor:
        """A field of all used records, ``[T, ...]``."""
        values = [getattr(record, name) for record in self.records]
        assert all(part is not None for part in values)  # `provides` says that it is filled in
        return _joined(values)

    def layer(self, depth: float | None) -> Layers:
        """The encoder layer at ``depth`` in all used records."""
        return Layers([record.layers[depth] for record in self.records])

    def cls_features(self, images: Sequence[tuple[int, int]]) -> Tensor:
        """``[images, dim]`` [CLS] of the encoder's pictures that these images are."""
        rows = []
        for key in images:
            found = self.images[key]
            assert found.record.cls_features is not None
            rows.append(found.record.cls_features[found.record.picture_at(found.start)])
        return torch.stack(rows)


@dataclass(frozen=True)
class Layers:
    """The same encoder layer in several passes, its answers one after the other."""

    layers: list[EncoderLayer]

    def attention(self, kind: EncoderAttention = "auto", *, joined: bool = False) -> Tensor:
        """See :class:`~tokensieve.core.contract.signals.EncoderLayer`."""
        return _joined([layer.attention(kind, joined=joined) for layer in self.layers])

    def keys(self, *, joined: bool = False) -> Tensor:
        """See :class:`~tokensieve.core.contract.signals.EncoderLayer`."""
        return _joined([layer.keys(joined=joined) for layer in self.layers])


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat([part.to(parts[0].device) for part in parts])


def find_evidence(
    layout: Layout,
    embeds: Tensor,
    own: Sequence[VisionRecord],
    ahead: Sequence[VisionRecord],
    separators: Tensor | None = None,
) -> MatchedRecords:
    """Find every image of a prompt in the records of the encoder's passes.

    Args:
        layout: rows of the prompt.
        embeds: ``[samples, rows, dim]`` what enters the decoder.
        own: records of passes in the prompt's own call, oldest first.
        ahead: of passes that nobody's call made.
        separators: ``[samples, rows]`` the rows of images that are none of their tokens.

    Raises:
        SignalError: the features of an image are in no record, or in several of other shapes.
    """
    blocks = layout.blocks()
    rows: list[Tensor] = []
    for block in blocks:
        span = slice(block.rows.start, block.rows.stop)
        part = embeds[block.sample, span]
        if block.separators and separators is not None:
            part = part[~separators[block.sample, span].to(part.device)]
        rows.append(part)
    records = [
        record for record in (*reversed(own), *reversed(ahead)) if record.outputs is not None
    ]
    found: list[Found] = []
    if len(own) == 1 and own[0].outputs is not None and sum(map(len, rows)) == sum(own[0].images):
        # the plain case: they are all that a pass encoded, in its order
        ends = accumulate(map(len, rows))
        found = [Found(own[0], end - len(part)) for end, part in zip(ends, rows, strict=True)]
    if not found or not all(map(_same, rows, found)):
        found = [_found(block, part, records) for block, part in zip(blocks, rows, strict=True)]
    images = {(b.sample, b.image): place for b, place in zip(blocks, found, strict=True)}
    return MatchedRecords(images, _places(blocks, len(layout.samples), images, embeds.device))


def _found(block: Block, rows: Tensor, records: list[VisionRecord]) -> Found:
    """Where an image is, the newest place first; pictures of one color look alike in any shape."""
    places: list[Found] = []
    for record in records:
        assert record.outputs is not None
        outputs = record.outputs.to(rows.device, rows.dtype)
        starts = (outputs == rows[0]).all(dim=1).nonzero()[:, 0].tolist()
        places += [place for start in starts if _same(rows, place := Found(record, start))]
    whole = [place for place in places if place.is_whole(len(rows))] or places
    what = f"sample {block.sample + 1}: the {block.length} tokens of image {block.image + 1}"
    if not whole:
        seen = sum(sum(record.images) for record in records)
        raise SignalError(
            f"{what} are not among the {seen} that the vision encoder made: {UNKNOWN}"
        )
    if any(not whole[0].looks_like(other, len(rows)) for other in whole[1:]):
        raise SignalError(
            f"{what} are those of several pictures of other shapes (of one color?), which of them "
            "is not known: ask about one of them at a time, without beams"
        )
    return whole[0]


def _same(rows: Tensor, found: Found) -> bool:
    assert found.record.outputs is not None
    part = found.record.outputs[found.start : found.start + len(rows)]
    return part.shape == rows.shape and torch.equal(part.to(rows.device, rows.dtype), rows)


def _places(
    blocks: list[Block],
    samples: int,
    images: dict[tuple[int, int], Found],
    device: torch.device,
) -> Tensor:
    """``[samples, tokens]`` places in the used records; 0 beyond a sample's tokens."""
    offsets, total = {}, 0
    for found in images.values():
        if id(found.record) not in offsets:
            offsets[id(found.record)] = total
            total += sum(found.record.images)
    rows: list[list[int]] = [[] for _ in range(samples)]
    for block in blocks:
        found = images[block.sample, block.image]
        start = offsets[id(found.record)] + found.start
        rows[block.sample] += range(start, start + block.length)
    widest = max(map(len, rows))
    return torch.tensor([row + [0] * (widest - len(row)) for row in rows], device=device)
