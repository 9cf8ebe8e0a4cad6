"""All tokens above a threshold: the number that stays depends on the image."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from tokensieve.core.components import Selector
from tokensieve.core.lazy import torch
from tokensieve.core.scoring import top_counts
from tokensieve.core.view import View

if TYPE_CHECKING:
    from torch import Tensor


class ThresholdSelector(Selector):
    """Keep the tokens whose importance is above a threshold; at least ``min_tokens``.

    * ``rule: absolute`` keeps ``score > value``;
    * ``rule: quantile`` keeps what is above the image's own ``value`` quantile (0.75 keeps about
      a quarter);
    * ``rule: iqr`` keeps outliers, ``score > Q3 + value * (Q3 - Q1)`` (PruMerge, arXiv 2403.15388,
      with ``value: 1.5``; per image, where the release shares one count over the batch).

    Quantiles interpolate linearly. The stage's ``keep`` is an upper bound.
    """

    name = "threshold"
    adaptive_count: ClassVar[bool] = True

    rule: Literal["absolute", "quantile", "iqr"] = "quantile"
    value: float = Field(
        default=0.5,
        allow_inf_nan=False,
        description="the threshold, the quantile, or the factor of the interquartile range",
    )
    min_tokens: int = Field(default=1, ge=1, description="tokens that stay in any case")

    @model_validator(mode="after")
    def _sensible(self) -> ThresholdSelector:
        if self.rule == "quantile" and not 0 <= self.value <= 1:
            raise ValueError(f"a quantile lies between 0 and 1, not {self.value:g}")
        return self

    def select(self, scores: Tensor, available: Tensor, counts: list[int], view: View) -> Tensor:
        """``[batch, tokens]`` bool."""
        above = scores > self._limits(scores, available)
        least = top_counts(scores, available, [self.min_tokens] * len(counts))
        return ((above & available) | least) & top_counts(scores, available, counts)

    def _limits(self, scores: Tensor, available: Tensor) -> Tensor:
        """``[batch, 1]`` threshold of each image."""
        if self.rule == "absolute":
            return scores.new_full((scores.shape[0], 1), self.value)
        real = scores.masked_fill(~available, float("nan"))
        if self.rule == "quantile":
            return torch.nanquantile(real, self.value, dim=1, keepdim=True)
        low, high = (torch.nanquantile(real, q, dim=1, keepdim=True) for q in (0.25, 0.75))
        return high + self.value * (high - low)
