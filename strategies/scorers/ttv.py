"""Token Transition Variation (TransPrune)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from tokensieve.plugin import Layer, LayerRange, Scorer, View, torch

if TYPE_CHECKING:
    from torch import Tensor


class TtvScorer(Scorer):
    """Rank visual tokens by how much decoder modules change their length and direction.

    For a module with input ``x`` (after its norm) and output ``y`` (before the residual is added)
    ``TTV = |y| / |x| * softmax(1 - cos(x, y))``; attention and MLP add up, and so do the layers in
    ``layers`` that have run. The softmax runs over all tokens of the sample's sequence. Tokens of
    one layer keep their values when a later boundary drops others.

    Source: TransPrune, arXiv 2507.20630, eq. 1-4, and its released code.

    * ``variant: code`` follows the release. One deviation: the release sums the softmax over the
      whole batch; here every sample has its own sum (equal at batch 1).
    * ``variant: paper`` uses ``1 - |cos|`` as printed in eq. 2.
    * ``variant: block`` (ours) measures whole decoder blocks, residual included:
      ``| |y| / |x| - 1 | + (1 - cos(x, y))``, the change of magnitude plus that of direction.
    """

    name = "ttv"
    needs = frozenset({"transitions", "block_transitions"})

    variant: Literal["code", "paper", "block"] = "code"
    layers: tuple[Layer, Layer] | None = Field(
        default=None,
        description="first and last decoder layer (0-based); default: the one before the boundary",
    )

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        """The layer before the boundary, and a range of layers."""
        return [{}, {"layers": [2, 4]}]

    @model_validator(mode="after")
    def _ordered(self) -> TtvScorer:
        if self.layers is not None and self.layers[0] > self.layers[1]:
            raise ValueError(f"layers {list(self.layers)}: the first is after the last")
        return self

    def required(self) -> frozenset[str]:
        """Blocks or modules, depending on the variant."""
        return frozenset({"block_transitions" if self.variant == "block" else "transitions"})

    def history(self, boundary: int) -> LayerRange | None:
        """The layers to add up, as far as they have run."""
        if self.layers is None:
            return super().history(boundary)
        return self.layers[0], min(self.layers[1], boundary - 1)

    def rescaled(self, boundary: Callable[[int], int]) -> TtvScorer:
        """Scale the layer range like boundaries: layer ``l`` ends at boundary ``l + 1``."""
        if self.layers is None:
            return self
        first, last = (boundary(layer + 1) - 1 for layer in self.layers)
        return self.model_copy(update={"layers": (first, max(first, last))})

    def score(self, view: View) -> Tensor:
        """``[batch, tokens]`` sum of TTV over modules and layers."""
        block, span = self.variant == "block", self.history(view.boundary)
        total = torch.zeros(view.valid.shape, device=view.valid.device)
        for transition in view.block_transitions if block else view.transitions:
            if span is None or not span[0] <= transition.layer <= span[1]:
                continue
            cosine = transition.cosine.abs() if self.variant == "paper" else transition.cosine
            if block:
                change = (transition.magnitude - 1).abs() + (1 - cosine)
            else:
                turned = (1 - cosine).masked_fill(~transition.valid, float("-inf"))
                change = transition.magnitude * turned.softmax(dim=1)
            total = total + transition.at_tokens(change)
        return total
