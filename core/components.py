"""The three plugin classes: :class:`Scorer`, :class:`Selector`, :class:`Merger`.

A component is a frozen pydantic model: its fields are its YAML parameters. It is stateless; all
that it may look at comes in a :class:`~tokensieve.core.view.View`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from tokensieve.core.budgets import whole
from tokensieve.core.view import View

if TYPE_CHECKING:
    from torch import Tensor

LayerRange = tuple[int, int]


class Component(BaseModel, ABC):
    """What all plugin classes share.

    ``name`` is how YAML spells the component; ``needs`` are the signals without which it cannot
    work, ``uses`` those it takes if the model has them (see ``tokensieve.core.view.SIGNALS``).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    name: ClassVar[str] = ""
    needs: ClassVar[frozenset[str]] = frozenset()
    uses: ClassVar[frozenset[str]] = frozenset()

    def required(self) -> frozenset[str]:
        """The signals needed with *these* parameters; by default all of ``needs``."""
        return self.needs

    def readable(self) -> frozenset[str]:
        """Every signal the component may read."""
        return self.required() | self.uses

    def history(self, boundary: int) -> LayerRange | None:
        """First and last decoder layer (0-based) whose transitions are read at ``boundary``."""
        return (boundary - 1, boundary - 1) if boundary else None

    def rescaled(self, boundary: Callable[[int], int]) -> Component:
        """A copy for a model of another depth; ``boundary`` maps the written to the real depth."""
        return self

    @classmethod
    def summary(cls) -> str:
        """First line of the docstring."""
        return next(iter((cls.__doc__ or "").strip().splitlines()), "")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        """Parameter sets that the conformance suite tries.

        To be written where a parameter has no default, or for a parameter that the suite cannot
        vary by itself: it tries every option of ``Literal`` and ``bool`` parameters besides.
        """
        return [{}]


class Scorer(Component):
    """Ranks visual tokens. Subclass it, give it a ``name``, declare ``needs``, write ``score``."""

    @abstractmethod
    def score(self, view: View) -> Tensor:
        """One importance per visual token, ``[batch, tokens]``; higher means keep."""


class Selector(Component):
    """Decides which tokens stay, given importances and a count."""

    adaptive_count: ClassVar[bool] = False
    """True if the number of kept tokens depends on the data; ``counts`` is then an upper bound."""

    @abstractmethod
    def select(self, scores: Tensor, available: Tensor, counts: list[int], view: View) -> Tensor:
        """Which tokens stay.

        Args:
            scores: ``[batch, tokens]`` importances, at least float32.
            available: ``[batch, tokens]`` bool; only these may be taken.
            counts: how many to take, per row of the batch.
            view: the signals the selector declared.

        Returns:
            ``[batch, tokens]`` bool.
        """

    def reads_scores(self) -> bool:
        """Whether the stage has to score: not, if the selector evaluates all scorers itself."""
        return True

    def terms(self) -> list[Any]:
        """Score terms that the selector evaluates itself (see ``composite``)."""
        return []


@dataclass(frozen=True)
class Merged:
    """What a merger made of the tokens that were not selected.

    Attributes:
        targets: ``[batch, tokens]`` bool; the places that the merged vectors take.
        vectors: ``[batch, tokens, vision dim]`` projector inputs; read at ``targets`` only.
        extra: ``[batch, extras, vision dim]`` projector inputs of additional tokens, or None.
        appended: True if the image's tokens are ordered extra, selected, merged;
            False if every token stays in raster order.
    """

    targets: Tensor
    vectors: Tensor
    extra: Tensor | None
    appended: bool


@dataclass(frozen=True)
class Split:
    """How a stage's budget divides: picked by the selector, merged, extra tokens."""

    selected: int
    merged: int
    extra: int


class Merger(Component):
    """Lets the dropped tokens live on in fewer merged ones. Works on the projector's input."""

    space: ClassVar[Literal["vision"]] = "vision"

    keep: int | float = Field(gt=0, description="merged tokens, or share of the stage's budget")

    def merged_tokens(self, total: int) -> int:
        """Merged tokens of a stage that outputs ``total`` tokens of an image."""
        count = self.keep if isinstance(self.keep, int) else whole(self.keep * total)
        return min(count, total)

    @abstractmethod
    def split(self, total: int, available: int, has_cls: bool) -> Split:
        """Divide ``total`` output tokens of an image that has ``available`` tokens."""

    @abstractmethod
    def apply(self, kept: Tensor, counts: list[int], view: View) -> Merged:
        """Merge the tokens outside ``kept`` ``[batch, tokens]`` into ``counts`` tokens a row."""
