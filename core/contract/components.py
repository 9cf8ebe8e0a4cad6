"""The three plugin classes: :class:`Scorer`, :class:`Selector`, :class:`Merger`.

A component is a frozen pydantic model: its fields are its YAML parameters. It is stateless; all
that it may look at comes in a :class:`~tokensieve.core.contract.view.View`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import ConfigDict

from tokensieve.core.contract.answers import check_mask, check_order
from tokensieve.core.contract.ranking import selection_order
from tokensieve.core.contract.view import View
from tokensieve.core.strict import StrictModel

if TYPE_CHECKING:
    from torch import Tensor

LayerRange = tuple[int, int]
"""The first and the last layer of some, counted from 0; both belong to them."""


class Component(StrictModel, ABC):
    """What all plugin classes share.

    ``name`` is how YAML spells the component; ``needs`` are the signals without which it cannot
    work, ``uses`` those it takes if the model has them (see
    ``tokensieve.plugin.SIGNALS``).
    """

    model_config = ConfigDict(validate_default=True)

    kind: ClassVar[str] = "component"
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

    def vision_depths(self) -> frozenset[float]:
        """Vision-encoder layers read by ``view.encoder_layer``, as shares of its depth.

        The layer that feeds the projector is always there.
        """
        return frozenset()

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

    kind: ClassVar[str] = "scorer"

    @abstractmethod
    def score(self, view: View) -> Tensor:
        """One importance per visual token, ``[batch, tokens]``; higher means keep."""


class Selector(Component):
    """Decides which tokens stay, given importances and a count.

    A selector for which a token's value depends on the others (diversity, coverage) finds what
    earlier parts of a ``composite`` have taken in ``view.selected``.
    """

    kind: ClassVar[str] = "selector"
    adaptive_count: ClassVar[bool] = False
    """True if the number of kept tokens depends on the data; ``counts`` is then an upper bound."""
    least: ClassVar[int] = 1
    """How many tokens an adaptive selector keeps in any case, if it is asked for as many."""

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

    def take_in_order(
        self, scores: Tensor, available: Tensor, counts: list[int], view: View
    ) -> Tensor:
        """Which tokens stay, and in which order they were taken; called for ``order: selection``.

        By default ``select`` decides, and ``order`` tells the order afterwards. A selector whose
        order does not follow from the scores and the kept tokens overrides this method, so that
        nothing is searched twice; its ``select`` returns where the turns are above 0.

        Args:
            scores: as for ``select``.
            available: as for ``select``.
            counts: as for ``select``.
            view: as for ``select``.

        Returns:
            ``[batch, tokens]`` integers: 0 for a token that is not taken; of two that are, the
            smaller number was taken first.
        """
        kept = check_mask(self, self.select(scores, available, counts, view), available, view)
        return check_order(self, self.order(scores, kept.clone(), view), kept, view)

    def order(self, scores: Tensor, kept: Tensor, view: View) -> Tensor:
        """``[batch, tokens]`` integers, the order of the ``kept`` tokens (``order: selection``).

        By default the most important token comes first, equal ones by index.
        """
        return selection_order(scores, kept)

    def reads_scores(self) -> bool:
        """Whether the stage has to score: not, if the selector evaluates all scorers itself."""
        return True

    def positional(self) -> bool:
        """Whether it matters where a token stands, besides its score: ties then prove nothing."""
        return False

    def terms(self) -> list[Any]:
        """Score terms that the selector evaluates itself (see ``composite``)."""
        return []


@dataclass(frozen=True)
class Merged:
    """What a merger made of a stage's tokens.

    Attributes:
        targets: ``[batch, tokens]`` bool; places whose vectors are replaced: selected tokens, and
            as many others as ``split`` promised, which stay as well.
        vectors: ``[batch, tokens, n]`` the new vectors, read at ``targets`` only.
        sizes: ``[batch, tokens]`` how many of the stage's tokens flowed into each target.
        appended: ``[batch, tokens]`` integers; a token above 0 moves behind the image's other
            tokens, smallest first. None: every token stays at its place.
        extra: ``[batch, 1, n]`` one additional vector per image, or None.
        extra_last: whether it comes behind the image's tokens, or in front of them.
    """

    targets: Tensor
    vectors: Tensor
    sizes: Tensor
    appended: Tensor | None = None
    extra: Tensor | None = None
    extra_last: bool = False


@dataclass(frozen=True)
class Split:
    """How a stage's budget divides: picked by the selector, merged, extra tokens."""

    selected: int
    merged: int
    extra: int


class Merger(Component):
    """Lets the dropped tokens live on in those that stay, or in a few new ones.

    ``space`` says which vectors it works on: ``vision``, the projector's input (boundary 0 only;
    what it makes goes through the projector), or ``decoder``, the hidden states at the boundary.
    The stage's scores stand in ``view.scores``.
    """

    kind: ClassVar[str] = "merger"
    space: ClassVar[Literal["vision", "decoder"]] = "decoder"

    def split(self, total: int, available: int, has_cls: bool) -> Split:
        """Divide ``total`` output tokens of an image that has ``available`` tokens.

        By default the selector picks them all, and the others are merged into them.
        """
        return Split(total, 0, 0)

    def proportional(self) -> bool:
        """Whether attention behind the boundary should count a merged token by its size."""
        return False

    @abstractmethod
    def apply(self, kept: Tensor, counts: list[int], view: View) -> Merged:
        """Merge the tokens outside ``kept`` ``[batch, tokens]``.

        ``counts`` are the tokens that stay besides the kept ones, per row: ``Split.merged``.
        """
