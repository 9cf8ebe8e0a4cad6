"""Selectors with a parameter by which they may take fewer tokens than their budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from tokensieve.plugin import Selector


class MayFallShort(Protocol):
    """What a selector says about its own parameters."""

    def falls_short(self) -> bool:
        """Whether fewer tokens than asked may come back."""


class FallsShort:
    """``adaptive_count`` of a selector whose parameters decide: ``falls_short`` of the instance.

    Of the class it is False: with its defaults the selector meets its budget.
    """

    def __get__(self, selector: MayFallShort | None, owner: type[Selector]) -> bool:
        return selector is not None and selector.falls_short()
