"""Selectors that take one token after the other: which, and in which order, decided at once."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, final

from tokensieve.plugin import Selector, View, on_device, selection_order, torch

if TYPE_CHECKING:
    from torch import Tensor


class OrderedSelector(Selector):
    """A selector whose order does not follow from the scores and the kept set.

    It implements ``take_in_order`` instead of ``select``.
    """

    @abstractmethod
    def take_in_order(
        self, scores: Tensor, available: Tensor, counts: list[int], view: View
    ) -> Tensor:
        """``[batch, tokens]`` turns, see :meth:`tokensieve.Selector.take_in_order`."""

    @final
    def select(self, scores: Tensor, available: Tensor, counts: list[int], view: View) -> Tensor:
        """``[batch, tokens]`` bool."""
        return self.take_in_order(scores, available, counts, view) > 0

    def order(self, scores: Tensor, kept: Tensor, view: View) -> Tensor:
        """Nobody can tell afterwards: the order comes with the choice.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(f"{self.name!r} gives its order with `take_in_order`")


def top_in_order(scores: Tensor, available: Tensor, counts: list[int] | Tensor) -> Tensor:
    """Turns 1, 2, ... of the ``counts[i]`` highest available tokens of each row, best first."""
    place = selection_order(scores, available)
    limit = on_device(counts, scores.device) if isinstance(counts, list) else counts
    return (place + 1).masked_fill((place >= limit[:, None]) | ~available, 0)


def then(turns: Tensor, chosen: Tensor) -> Tensor:
    """The turns of ``chosen`` after all ``turns``."""
    last = turns.amax(dim=1, keepdim=True)
    return torch.where(chosen > 0, last + chosen, turns)


def with_turn(turns: Tensor, pick: Tensor, step: int, open_: Tensor) -> Tensor:
    """Turn ``step + 1`` for the places ``pick`` ``[batch, 1]``, where they are ``open_``.

    ``open_`` ``[batch, tokens]`` says what may still be taken. A token that has its turn already
    was picked because nothing was left, and keeps it.
    """
    place = torch.arange(turns.shape[1], device=turns.device)
    return turns.masked_fill((place == pick) & (turns == 0) & open_, step + 1)
