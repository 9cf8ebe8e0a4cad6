"""Which picture's evidence belongs to which tokens: by identity, never by counting.

A record of the vision encoder holds the features that came out of the projector. The decoder's
input holds them too, at the rows of the pictures. Rows and features that are equal bit by bit are
the same tokens, whoever encoded them, when, and in whichever order: for another caller, ahead of
the question, beside a video, once for several beams.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from tokensieve.core.adapter import VisionRecord
from tokensieve.core.engine.layout import Block, Layout
from tokensieve.core.errors import SignalError
from tokensieve.core.signals import EncoderAttention, EncoderLayer

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


@dataclass(frozen=True)
class Evidence:
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
        """See :class:`~tokensieve.core.signals.EncoderLayer`."""
        return _joined([layer.attention(kind, joined=joined) for layer in self.layers])

    def keys(self, *, joined: bool = False) -> Tensor:
        """See :class:`~tokensieve.core.signals.EncoderLayer`."""
        return _joined([layer.keys(joined=joined) for layer in self.layers])


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat([part.to(parts[0].device) for part in parts])


def find_evidence(
    layout: Layout,
    embeds: Tensor,
    records: Sequence[VisionRecord],
    separators: Tensor | None = None,
) -> Evidence:
    """Find every image of a prompt in ``records``, the newest first.

    Args:
        layout: rows of the prompt.
        embeds: ``[samples, rows, dim]`` what enters the decoder.
        records: of passes of the encoder, oldest first.
        separators: ``[samples, rows]`` the rows of images that are none of their tokens.

    Raises:
        SignalError: the features of an image are in no record.
    """
    newest = [record for record in reversed(records) if record.outputs is not None]
    images: dict[tuple[int, int], Found] = {}
    hint: Found | None = None
    for block in layout.blocks():
        rows = embeds[block.sample, block.rows.start : block.rows.stop]
        if block.separators:
            assert separators is not None  # an image has some
            apart = separators[block.sample, block.rows.start : block.rows.stop]
            rows = rows[~apart.to(rows.device)]
        found = _find(rows, newest, hint)
        if found is None:
            seen = sum(sum(record.images) for record in newest)
            raise SignalError(
                f"sample {block.sample + 1}: the {block.length} tokens of image {block.image + 1} "
                f"are not among the {seen} that the vision encoder made: {UNKNOWN}"
            )
        images[block.sample, block.image] = found
        hint = Found(found.record, found.start + block.length)
    return Evidence(images, _places(layout.blocks(), len(layout.samples), images, embeds.device))


def _find(rows: Tensor, records: list[VisionRecord], hint: Found | None) -> Found | None:
    """Behind the image before, most likely; else wherever the first row is found."""
    if hint is not None and _same(rows, hint):
        return hint
    for record in records:
        assert record.outputs is not None
        outputs = record.outputs.to(rows.device, rows.dtype)
        starts = (outputs == rows[0]).all(dim=1).nonzero()[:, 0].tolist()
        for start in starts:
            if _same(rows, Found(record, start)):
                return Found(record, start)
    return None


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
