"""The rows of a batch, and the images that they belong to: plain integers on the host.

Known once per prefill from ``input_ids``; every later reduction only changes the lengths, so the
decoder loop needs no transfer from the device.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

from tokensieve.core.errors import UnsupportedError

Kind = Literal["pad", "text", "image"]
TEXT = -1
"""Mark of a row that is no placeholder."""


@dataclass(frozen=True)
class Segment:
    """A run of alike rows. ``image`` numbers the images of a sample, -1 for text and padding.

    Of the rows of an image, ``separators`` are none of its tokens: the ends of its rows, the
    words between its frames. Where they are among the others is known on the device only.
    """

    kind: Kind
    length: int
    image: int = -1
    separators: int = 0

    @property
    def tokens(self) -> int:
        """Rows without separators."""
        return self.length - self.separators


@dataclass(frozen=True)
class Block:
    """An image: ``length`` visual tokens and ``separators`` from row ``start`` of ``sample`` on."""

    sample: int
    image: int
    start: int
    length: int
    separators: int = 0

    @property
    def rows(self) -> range:
        """Rows from the image's first token to its last, separators included."""
        return range(self.start, self.start + self.length + self.separators)


@dataclass(frozen=True)
class Layout:
    """Segments of each sample, aligned to the right of ``length`` rows.

    Rows before a sample's first segment are filler: left-over rows of samples that kept
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
                    image, tokens = segment.image, segment.tokens
                    blocks.append(Block(sample, image, row, tokens, segment.separators))
                row += segment.length
        return blocks

    def rows(self, sample: int, kind: Kind) -> list[int]:
        """Rows of one kind in a sample; those of an image with its separators."""
        rows: list[int] = []
        row = self.length - self.used(sample)
        for segment in self.samples[sample]:
            if segment.kind == kind:
                rows.extend(range(row, row + segment.length))
            row += segment.length
        return rows

    def visual(self, sample: int) -> int:
        """Visual tokens of a sample."""
        return sum(s.tokens for s in self.samples[sample] if s.kind == "image")

    def visual_tokens(self) -> list[int]:
        """Visual tokens of each sample."""
        return [self.visual(sample) for sample in range(len(self.samples))]

    def text(self, sample: int) -> int:
        """Text tokens of a sample, separators included."""
        segments = self.samples[sample]
        return sum(s.length if s.kind == "text" else s.separators for s in segments)

    def ragged(self) -> bool:
        """Whether some sample has filler rows."""
        return any(self.used(sample) != self.length for sample in range(len(self.samples)))

    def with_images(self, tokens: dict[tuple[int, int], int]) -> Layout:
        """The layout after each image ``(sample, image)`` has shrunk to the given tokens."""
        samples = tuple(
            tuple(
                replace(
                    segment,
                    length=tokens.get((sample, segment.image), segment.tokens) + segment.separators,
                )
                if segment.kind == "image"
                else segment
                for segment in segments
            )
            for sample, segments in enumerate(self.samples)
        )
        longest = max(sum(s.length for s in segments) for segments in samples)
        return Layout(samples, longest)


@dataclass(frozen=True)
class Images:
    """How the placeholders of a prompt are divided into images.

    Attributes:
        counts: by placeholder, the tokens of the images in the order of the prompt, as the
            caller's pictures say; None if they say nothing.
        split: divides a run of placeholders into images, where nothing else is known.
    """

    counts: Mapping[int, Sequence[int]] | None
    split: Callable[[int], list[int]]

    def read(self, marks: list[list[int]], real: list[list[bool]]) -> Layout:
        """Layout of the rows of one forward.

        Args:
            marks: per sample and row, the placeholder that is there, or ``TEXT``.
            real: per sample and row, whether it is not padding.

        Raises:
            UnsupportedError: the placeholders are not those of the pictures.
        """
        queues = {mark: deque(counts) for mark, counts in (self.counts or {}).items()}
        samples = []
        for row, flags in zip(marks, real, strict=True):
            seen = [mark if flag else TEXT for mark, flag in zip(row, flags, strict=True)]
            found = self._runs(seen) if self.counts is None else _told(row, queues)
            images = [[row for row in image if seen[row] != TEXT] for image in found]
            samples.append(_segments([rows for rows in images if rows], flags))
        if any(map(any, queues.values())):
            raise UnsupportedError(MISMATCH)
        return Layout(tuple(samples), len(marks[0]))

    def _runs(self, marks: list[int]) -> list[range]:
        """Rows of the images, if every run of placeholders holds whole ones."""
        found, start = [], 0
        for visual, run in groupby(marks, lambda mark: mark != TEXT):
            length = len(list(run))
            for size in self.split(length) if visual else []:
                found.append(range(start, start + size))
                start += size
            start += 0 if visual else length
        return found


MISMATCH = (
    "the placeholders of the prompt are not those of the pictures given beside it: give every "
    "picture of these tokens, and no other"
)


def _told(marks: list[int], queues: dict[int, deque[int]]) -> list[range]:
    """Rows from the first to the last token of each image, whose tokens the queues tell."""
    found, row = [], 0
    while row < len(marks):
        mark, start, tokens = marks[row], row, 0
        if mark == TEXT:
            row += 1
            continue
        while not tokens:  # a picture without a token has no row
            if not queues.get(mark):
                raise UnsupportedError(MISMATCH)
            tokens = queues[mark].popleft()
        while tokens:
            if row == len(marks) or marks[row] not in (mark, TEXT):
                raise UnsupportedError(MISMATCH)
            tokens -= marks[row] == mark
            row += 1
        found.append(range(start, row))
    return found


def _segments(images: list[list[int]], real: list[bool]) -> tuple[Segment, ...]:
    """The images of a sample, by the rows of their tokens, and what is around them."""
    segments: list[Segment] = []
    row = 0
    for number, rows in enumerate(images):
        segments += _between(real[row : rows[0]])
        row = rows[-1] + 1
        length = row - rows[0]
        segments.append(Segment("image", length, number, length - len(rows)))
    return (*segments, *_between(real[row:]))


def _between(real: list[bool]) -> list[Segment]:
    return [Segment("text" if flag else "pad", len(list(run))) for flag, run in groupby(real)]
