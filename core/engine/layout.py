"""Which rows of a batch are visual tokens of which image: plain integers on the host.

Known once per prefill from ``input_ids``; every later reduction only changes the lengths, so the
decoder loop needs no transfer from the device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["pad", "text", "image"]


@dataclass(frozen=True)
class Segment:
    """A run of alike rows. ``image`` numbers the images of a sample, -1 for text and padding."""

    kind: Kind
    length: int
    image: int = -1


@dataclass(frozen=True)
class Block:
    """The rows ``start .. start + length`` of ``sample`` that hold image ``image``."""

    sample: int
    image: int
    start: int
    length: int


@dataclass(frozen=True)
class Layout:
    """Segments of each sample, aligned to the right of ``length`` rows.

    Rows in front of a sample's first segment are filler: left-over rows of samples that kept
    fewer tokens than the longest one.
    """

    samples: tuple[tuple[Segment, ...], ...]
    length: int

    def used(self, sample: int) -> int:
        """Rows of a sample that are not filler."""
        return sum(segment.length for segment in self.samples[sample])

    def blocks(self) -> list[Block]:
        """All images, sample by sample."""
        blocks = []
        for sample, segments in enumerate(self.samples):
            row = self.length - self.used(sample)
            for segment in segments:
                if segment.kind == "image":
                    blocks.append(Block(sample, segment.image, row, segment.length))
                row += segment.length
        return blocks

    def rows(self, sample: int, kind: Kind) -> list[int]:
        """Rows of one kind in a sample."""
        rows: list[int] = []
        row = self.length - self.used(sample)
        for segment in self.samples[sample]:
            if segment.kind == kind:
                rows.extend(range(row, row + segment.length))
            row += segment.length
        return rows

    def visual(self, sample: int) -> int:
        """Visual tokens of a sample."""
        return sum(s.length for s in self.samples[sample] if s.kind == "image")

    def text(self, sample: int) -> int:
        """Text tokens of a sample."""
        return sum(s.length for s in self.samples[sample] if s.kind == "text")

    def ragged(self) -> bool:
        """Whether some sample has filler rows."""
        return any(self.used(sample) != self.length for sample in range(len(self.samples)))

    def with_images(self, lengths: dict[tuple[int, int], int]) -> Layout:
        """The layout after each image ``(sample, image)`` has shrunk to the given length."""
        samples = tuple(
            tuple(
                replace(segment, length=lengths.get((sample, segment.image), segment.length))
                if segment.kind == "image"
                else segment
                for segment in segments
            )
            for sample, segments in enumerate(self.samples)
        )
        longest = max(sum(s.length for s in segments) for segments in samples)
        return Layout(samples, longest)


def read_layout(
    visual: list[list[bool]], real: list[list[bool]] | None, split: Callable[[int], list[int]]
) -> Layout:
    """Layout of the rows of one forward.

    Args:
        visual: per sample and row, whether it is a visual token.
        real: per sample and row, whether it is not padding; None if there is none.
        split: divides a run of visual tokens into images.
    """
    samples = []
    for sample, flags in enumerate(visual):
        kinds: list[Kind] = [
            "pad" if real is not None and not real[sample][row] else "image" if flag else "text"
            for row, flag in enumerate(flags)
        ]
        samples.append(tuple(_segments(kinds, split)))
    return Layout(tuple(samples), len(visual[0]))


def _segments(kinds: list[Kind], split: Callable[[int], list[int]]) -> list[Segment]:
    segments: list[Segment] = []
    start, image = 0, 0
    for row in range(1, len(kinds) + 1):
        if row < len(kinds) and kinds[row] == kinds[start]:
            continue
        kind, length = kinds[start], row - start
        if kind == "image":
            for size in split(length):
                segments.append(Segment(kind, size, image))
                image += 1
        else:
            segments.append(Segment(kind, length))
        start = row
    return segments
