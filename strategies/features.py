"""Vectors by which a selector compares tokens: a parameter that several selectors share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tokensieve.plugin import View, unit
from tokensieve.strategies.ordered import OrderedSelector

if TYPE_CHECKING:
    from torch import Tensor

Features = Literal["hidden", "vision_features", "vision_keys", "normed_states"]


class FeatureSelector(OrderedSelector):
    """A selector that compares tokens by the cosine of some features."""

    needs = frozenset({"hidden", "vision_features", "vision_keys", "normed_states"})

    features: Features = Field(
        default="hidden", description="the signal whose vectors are compared, by cosine"
    )

    def required(self) -> frozenset[str]:
        """The chosen features."""
        return frozenset({self.features})

    def directions(self, view: View) -> Tensor:
        """``[batch, tokens, n]`` unit vectors."""
        if self.features == "normed_states":
            return unit(view.normed_states.visual)
        values: Tensor = view.read(self.features)
        return unit(values)

    def similarity(self, view: View) -> Tensor:
        """``[batch, tokens, tokens]`` cosines."""
        directions = self.directions(view)
        return directions @ directions.transpose(1, 2)
