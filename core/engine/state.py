"""Everything that lives for one forward pass and is forgotten afterwards.

What was asked (:class:`Prompt`) never changes, what is left (:class:`Rows`) is replaced as a whole
at every reduction, and what was seen on the way (:class:`Captures`) is added to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tokensieve.core.contract.signals import Module
from tokensieve.core.engine.guard import ForwardGuard
from tokensieve.core.engine.rows import Rows
from tokensieve.core.engine.trace import Trace

if TYPE_CHECKING:
    from torch import Tensor

ImageKey = tuple[int, int]
"""An image of a prompt: its sample, and its number there."""


@dataclass(frozen=True)
class Prompt:
    """What a forward was called with.

    Attributes:
        length: tokens in the forward; ``past`` tokens in the cache before it.
        padding: ``[batch, past + length]`` bool of the caller's attention mask, None if all real.
        tail: rows at the end of every sample that hold no visual token.
        keys: per sample, an integer that depends on its prompt only.
        image_sizes: visual tokens of each image at full size.
        targets: of each image, the tokens that each stage leaves.
    """

    batch: int
    length: int
    past: int = 0
    padding: Tensor | None = None
    tail: int = 0
    keys: tuple[int, ...] = ()
    image_sizes: Mapping[ImageKey, int] = field(default_factory=dict)
    targets: Mapping[ImageKey, list[int]] = field(default_factory=dict)

    @property
    def new_padding(self) -> Tensor | None:
        """``[batch, length]`` bool of this forward's own tokens."""
        return None if self.padding is None else self.padding[:, -self.length :]

    @property
    def past_padding(self) -> Tensor | None:
        """``[batch, past]`` bool of the tokens seen before."""
        return None if self.padding is None else self.padding[:, : self.past]

    def targets_of(self, stage: int) -> dict[ImageKey, int]:
        """The tokens that a stage, by its number, leaves of each image."""
        return {image: counts[stage] for image, counts in self.targets.items()}


@dataclass(frozen=True)
class RecordedTransition:
    """A transition as it was captured; ``valid`` are the real rows of that time."""

    layer: int
    module: Module
    magnitude: Tensor
    cosine: Tensor
    valid: Tensor

    @property
    def places(self) -> str:
        """Name of the row tensor that says where the current rows were then."""
        return f"rows of {self.module} {self.layer}"


@dataclass(frozen=True)
class LayerInput:
    """What entered the previous layer; ``angles`` are the rotary embeddings of its rows."""

    layer: int
    hidden: Tensor
    angles: tuple[Tensor, Tensor] | None = None


@dataclass
class Captures:
    """What was seen on the way, for the signals of boundaries to come.

    Attributes:
        entered: what entered a branch that has not been left yet.
        previous: what entered the layer that ran last, if some component reads it.
        inputs: ``[batch, rows, dim]`` what entered layer 0, if some component reads it.
        texts: by name, what a component remembered per text token, and of which images.
    """

    entered: dict[tuple[int, Module], Tensor] = field(default_factory=dict)
    transitions: list[RecordedTransition] = field(default_factory=list)
    previous: LayerInput | None = None
    inputs: Tensor | None = None
    texts: dict[str, tuple[list[ImageKey], Tensor]] = field(default_factory=dict)


@dataclass
class ForwardState:
    """One forward of a model.

    Attributes:
        rows: what is left of its rows; None if it holds no visual token.
        guard: what was seen to run.
        later_checks: what must not be so, looked at once the last layer has run.
    """

    prompt: Prompt
    rows: Rows | None
    guard: ForwardGuard
    trace: Trace
    captures: Captures = field(default_factory=Captures)
    later_checks: list[tuple[str, Tensor]] = field(default_factory=list)

    @property
    def valid(self) -> Tensor | None:
        """``[batch, rows]`` bool of the current rows; None if all are real."""
        return self.prompt.new_padding if self.rows is None else self.rows.valid

    @property
    def input_rows(self) -> Tensor | None:
        """``[batch, rows]`` where each current row was in the input; None: nothing moved."""
        return None if self.rows is None else self.rows.input_rows
