"""The gate for declarations: the signals, layers and depths that components say they read."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from tokensieve.core.blame import blamed, titled
from tokensieve.core.contract.components import Component, Merger, Scorer, Selector
from tokensieve.core.errors import PluginError
from tokensieve.core.foreign import shown

AnyComponent = TypeVar("AnyComponent", Scorer, Selector)
KINDS = (Scorer, Selector, Merger)


def asked_rescaled(component: AnyComponent, boundary: Callable[[int], int]) -> AnyComponent:
    """The component for a model of another depth: one of its own kind."""
    with blamed(component, "rescaled()"):
        answer = component.rescaled(boundary)
        if not any(isinstance(answer, kind) for kind in KINDS if isinstance(component, kind)):
            raise PluginError(f"{titled(component)}: rescaled() gives {shown(answer)}")
    return cast("AnyComponent", answer)


def check_declared(component: Component, boundary: int, where: str) -> None:
    """Refuse what could not be looked up or captured, before a model runs.

    Raises:
        PluginError: it names the component and its answer.
    """

    def refuse_unless(good: bool, what: str, answer: object) -> None:
        if not good:
            text = f"{titled(component)}: {what} is {shown(answer)}, which means nothing"
            raise PluginError(text)

    answer: object
    with blamed(component, where):
        for name in ("required", "readable"):
            answer = getattr(component, name)()
            names = isinstance(answer, frozenset | set) and all(isinstance(n, str) for n in answer)
            refuse_unless(names, f"{name}()", answer)
        answer = component.history(boundary)
        span = isinstance(answer, tuple) and len(answer) == 2 and all(map(_is_whole, answer))  # noqa: PLR2004 - first, last
        refuse_unless(answer is None or span, f"history({boundary})", answer)
        answer = component.vision_depths()
        depths = isinstance(answer, frozenset | set) and all(
            isinstance(depth, float | int) and 0 < depth <= 1 for depth in answer
        )
        refuse_unless(depths, "vision_depths()", answer)
        if isinstance(component, Selector):
            adaptive, least = component.adaptive_count, component.least
            refuse_unless(isinstance(adaptive, bool), "adaptive_count", adaptive)
            refuse_unless(_is_whole(least), "least", least)
        if isinstance(component, Merger):
            refuse_unless(component.space in ("vision", "decoder"), "space", component.space)
            answer = component.proportional()
            refuse_unless(isinstance(answer, bool), "proportional()", answer)


def _is_whole(answer: object) -> bool:
    return isinstance(answer, int) and not isinstance(answer, bool)
