"""The trace of the last prefill."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from tokensieve.core.lazy import torch

if TYPE_CHECKING:
    from torch import LongTensor, Tensor


class StageTrace:
    """One boundary of the last prefill.

    Attributes:
        boundary: decoder layers that had run; -1 for a smaller image before the encoder.
        written_boundary: the boundary as the pipeline states it (differs on shallow models).
        before: visual tokens per sample that reached the boundary.
        after: visual tokens per sample that left it, merged and extra tokens included.
    """

    def __init__(
        self,
        boundary: int,
        written_boundary: int,
        before: list[int],
        after: list[int],
        origin: Tensor,
        sizes: Tensor | None = None,
    ) -> None:
        self.boundary = boundary
        self.written_boundary = written_boundary
        self.before = before
        self.after = after
        self._origin = origin
        self._sizes = sizes

    @cached_property
    def kept(self) -> list[LongTensor]:
        """Per sample, ascending indices into its original visual tokens.

        A merged token is listed by its anchor; an extra token ([CLS]) is at no visual token's
        place and is not listed.
        """
        rows = self._origin.cpu()
        return [row[row >= 0].sort().values for row in rows]

    @cached_property
    def order(self) -> list[LongTensor]:
        """``kept`` in the order in which the tokens are now."""
        return [row[row >= 0] for row in self._origin.cpu()]

    @cached_property
    def sizes(self) -> list[Tensor]:
        """How many original tokens each token of ``kept`` stands for; 1 where none was merged."""
        if self._sizes is None:
            return [torch.ones(len(kept)) for kept in self.kept]
        picked = []
        for row, sizes in zip(self._origin.cpu(), self._sizes.cpu(), strict=True):
            picked.append(sizes[row >= 0][row[row >= 0].argsort()])
        return picked

    def __repr__(self) -> str:
        return f"StageTrace(boundary={self.boundary}, before={self.before}, after={self.after})"


@dataclass
class Trace:
    """What happened to the visual tokens in the last forward that contained some.

    Attributes:
        visual_tokens: original count per sample.
        stages: one entry per boundary, in order.
        per_layer: for each sample, visual tokens in each decoder layer.
        text_tokens: other tokens per sample.
        notes: things a reader should know (scaled boundaries, images smaller than a budget).
    """

    visual_tokens: list[int] = field(default_factory=list)
    stages: list[StageTrace] = field(default_factory=list)
    per_layer: list[list[int]] = field(default_factory=list)
    text_tokens: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
