"""A pipeline's budgets read in all four ways, and what the decoder costs under them."""

from __future__ import annotations

from dataclasses import dataclass

from tokensieve.core.contract.dims import DecoderDims
from tokensieve.core.pipeline.fit import check_depth
from tokensieve.core.pipeline.flops import PAPER, Convention, decoder_flops, kv_bytes
from tokensieve.core.pipeline.pipeline import Pipeline


@dataclass(frozen=True)
class Segment:
    """The decoder layers between two boundaries.

    Attributes:
        first: first layer (0-based), ``last`` the last one.
        boundary: the boundary that the layers follow, None for the layers before the first.
        written_boundary: that boundary as the pipeline states it.
        tokens: visual tokens of the image in each of the layers.
        share: of the image's original tokens.
        average: visual tokens per layer of the whole decoder, if no later boundary removed any.
        flops_share: of the unpruned prefill, if no later boundary removed any.
        flops: cost of all layers up to ``last``.
        kv_bytes: cache of all layers up to ``last``.
    """

    first: int
    last: int
    boundary: int | None
    written_boundary: int | None
    tokens: int
    share: float
    average: float
    flops_share: float
    flops: float
    kv_bytes: float


@dataclass(frozen=True)
class Readings:
    """A pipeline on a decoder, for one image; ``full_*`` is the untouched decoder."""

    segments: tuple[Segment, ...]
    per_layer: tuple[int, ...]
    flops: float
    full_flops: float
    kv_bytes: float
    full_kv_bytes: float
    convention: Convention

    @property
    def average(self) -> float:
        """Visual tokens per decoder layer."""
        return sum(self.per_layer) / len(self.per_layer)


def read_budgets(
    pipeline: Pipeline,
    dims: DecoderDims,
    tokens: int,
    *,
    convention: Convention = PAPER,
    element_bytes: int = 2,
) -> Readings:
    """Read the budgets of ``pipeline`` for an image of ``tokens`` tokens, boundary by boundary.

    Raises:
        AttachError: the decoder has too few layers, or a budget cannot be met.
    """
    check_depth(pipeline, dims.layers)
    schedule, placed = pipeline.schedule(dims), pipeline.placed_stages(dims.layers)
    counts = schedule.counts(tokens)
    layers = schedule.per_layer(tokens, counts)
    full = [tokens] * dims.layers
    full_flops = decoder_flops(full, dims, convention)

    def segment(first: int, end: int, number: int | None) -> Segment:
        alive = layers[first]
        frozen = [*layers[:end], *[alive] * (dims.layers - end)]
        return Segment(
            first=first,
            last=end - 1,
            boundary=None if number is None else placed[number].at,
            written_boundary=None if number is None else placed[number].written_at,
            tokens=alive,
            share=alive / tokens,
            average=sum(frozen) / dims.layers,
            flops_share=decoder_flops(frozen, dims, convention) / full_flops,
            flops=decoder_flops(layers[:end], dims, convention),
            kv_bytes=kv_bytes(layers[:end], dims, element_bytes=element_bytes),
        )

    boundaries = [
        max(stage.at, 0) for stage in placed
    ]  # a smaller image shortens the decoder's input
    segments: list[Segment] = []
    if not boundaries or boundaries[0] > 0:
        segments.append(segment(0, boundaries[0] if boundaries else dims.layers, None))
    ends = [*boundaries, dims.layers][1:]
    for number, (first, end) in enumerate(zip(boundaries, ends, strict=True)):
        if end > first:  # else a later boundary at the same layer replaces this one
            segments.append(segment(first, end, number))
    return Readings(
        segments=tuple(segments),
        per_layer=tuple(layers),
        flops=decoder_flops(layers, dims, convention),
        full_flops=full_flops,
        kv_bytes=kv_bytes(layers, dims, element_bytes=element_bytes),
        full_kv_bytes=kv_bytes(full, dims, element_bytes=element_bytes),
        convention=convention,
    )
