"""Everything that lives for one forward pass and is forgotten afterwards."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from tokensieve.core.contract.signals import Module
from tokensieve.core.contract.tensors import on_device
from tokensieve.core.engine.decided import Decided
from tokensieve.core.engine.evidence import Evidence
from tokensieve.core.engine.guard import ForwardGuard
from tokensieve.core.engine.layout import Layout
from tokensieve.core.engine.trace import Trace

if TYPE_CHECKING:
    from torch import Tensor


INPUT_ROWS = "rows of `inputs`"
SIZES = "sizes"
SEPARATORS = "separators"
"""Names of what the engine carries along with the rows, beside what components remember."""


@dataclass
class RecordedTransition:
    """A transition as it was captured, and where today's rows stood then."""

    layer: int
    module: Module
    magnitude: Tensor
    cosine: Tensor
    valid: Tensor
    rows: Tensor


@dataclass
class LayerInput:
    """What entered the previous layer; ``angles`` are the rotary embeddings of its rows."""

    layer: int
    hidden: Tensor
    angles: tuple[Tensor, Tensor] | None = None


@dataclass
class ForwardState:
    """One forward of the model.

    Attributes:
        layout: rows of this forward; None if it holds no visual token.
        padding: ``[batch, past + rows]`` bool of the caller's attention mask, None if all real.
        past: tokens in the cache before this forward; ``length`` tokens in it.
        tail: rows at the end of every sample that hold no visual token.
        keys: per sample, an integer that depends on its prompt only.
        guard: what was seen to run.
        odd_mask: whether the model's own mask hides other tokens than pruning takes for hidden;
            None if it was not looked at.
        decided: what the prompt's forward decided, in a call without a cache.
        evidence: which record of the vision encoder belongs to which image, if one is read.
        origin: ``[batch, rows]`` index among the sample's original visual tokens, -1 otherwise.
        positions: ``[axes, batch, rows]`` ids that the model computed, for all input tokens.
        columns: ``[batch, rows]`` where today's rows stood in the input; None: nothing moved.
        valid: ``[batch, rows]`` bool of today's rows; None if all are real.
        removed: ``[batch]`` bool, samples that lost rows; None if none did.
        inputs: ``[batch, rows, dim]`` what entered layer 0, if some component reads it.
        carried: by name, ``[batch, rows, ...]`` tensors that go along with today's rows.
        texts: by name, what a component remembered per text token, and of which images.
    """

    batch: int
    length: int
    past: int
    cache: Any
    padding: Tensor | None
    layout: Layout | None
    trace: Trace
    keys: list[int]
    guard: ForwardGuard
    tail: int = 0
    odd_mask: Tensor | None = None
    decided: Decided | None = None
    evidence: Evidence | None = None
    entered: dict[tuple[int, Module], Tensor] = field(default_factory=dict)
    origin: Tensor | None = None
    positions: Tensor | None = None
    columns: Tensor | None = None
    valid: Tensor | None = None
    removed: Tensor | None = None
    lineage: tuple[tuple[int, int], ...] = ()
    original: dict[tuple[int, int], int] = field(default_factory=dict)
    targets: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    transitions: list[RecordedTransition] = field(default_factory=list)
    previous: LayerInput | None = None
    inputs: Tensor | None = None
    carried: dict[str, Tensor] = field(default_factory=dict)
    texts: dict[str, tuple[list[tuple[int, int]], Tensor]] = field(default_factory=dict)
    substitutes: dict[Any, Any] = field(default_factory=dict)
    checks: list[tuple[str, Tensor]] = field(default_factory=list)

    def stored_columns(self) -> tuple[Tensor | None, bool]:
        """Today's ``columns``, -1 at filler rows, and whether there are some."""
        if self.columns is None or self.layout is None or not self.layout.ragged():
            return self.columns, False
        layout, device = self.layout, self.columns.device
        filler = [layout.length - layout.used(sample) for sample in range(self.batch)]
        rows = torch.arange(layout.length, device=device)
        return self.columns.masked_fill(rows < on_device(filler, device)[:, None], -1), True

    @property
    def separators(self) -> Tensor | None:
        """``[batch, rows]`` bool of today's rows that are no visual token, where images have some
        among theirs; None: no image does."""
        return self.carried.get(SEPARATORS)

    @property
    def new_padding(self) -> Tensor | None:
        """``[batch, length]`` bool of this forward's own tokens."""
        return None if self.padding is None else self.padding[:, -self.length :]

    @property
    def past_padding(self) -> Tensor | None:
        """``[batch, past]`` bool of the tokens seen before."""
        return None if self.padding is None else self.padding[:, : self.past]
