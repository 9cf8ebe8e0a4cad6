"""The gate for what components say of themselves: the signals, layers and depths that they read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from tokensieve.core.blame import blamed, titled
from tokensieve.core.contract.components import Component, Merger, Scorer, Selector
from tokensieve.core.errors import PluginError
from tokensieve.core.foreign import shown

AnyComponent = TypeVar("AnyComponent", Scorer, Selector)
KINDS = (Scorer, Selector, Merger)


def asked_rescaled(component: AnyComponent, boundary: Callable[[int], int]) -> AnyComponent:
    """The component for a model of another depth: one of its own kind."""
    with blamed(component, "rescaled()"):
        answer: Any = component.rescaled(boundary)
        if not any(isinstance(answer, kind) for kind in KINDS if isinstance(component, kind)):
            raise PluginError(f"{titled(component)}: rescaled() gives {shown(answer)}")
    rescaled: AnyComponent = answer
    return rescaled


def check_declared(component: Component, boundary: int, where: str) -> None:
    """Refuse what could not be looked up or captured, before a model runs.

    Raises:
        PluginError: it names the component and what it says.
    """
    with blamed(component, where):
        for name in ("required", "readable"):
            _expect(component, f"{name}()", getattr(component, name)(), _signals)
        _expect(component, f"history({boundary})", component.history(boundary), _span)
        _expect(component, "vision_depths()", component.vision_depths(), _depths)
        if isinstance(component, Selector):
            _expect(component, "adaptive_count", component.adaptive_count, _truth)
            _expect(component, "least", component.least, _whole)
        if isinstance(component, Merger):
            _expect(component, "space", component.space, ("vision", "decoder").__contains__)
            _expect(component, "proportional()", component.proportional(), _truth)


def _expect(component: Component, what: str, answer: Any, good: Callable[[Any], bool]) -> None:
    if not good(answer):
        raise PluginError(f"{titled(component)}: {what} is {shown(answer)}, which means nothing")


def _signals(answer: Any) -> bool:
    return isinstance(answer, frozenset | set) and all(isinstance(name, str) for name in answer)


def _whole(answer: Any) -> bool:
    return isinstance(answer, int) and not isinstance(answer, bool)


def _span(answer: Any) -> bool:
    if answer is None:
        return True
    return isinstance(answer, tuple) and len(answer) == 2 and all(map(_whole, answer))  # noqa: PLR2004 - first, last


def _depths(answer: Any) -> bool:
    return isinstance(answer, frozenset | set) and all(
        isinstance(depth, float | int) and 0 < depth <= 1 for depth in answer
    )


def _truth(answer: Any) -> bool:
    return isinstance(answer, bool)
