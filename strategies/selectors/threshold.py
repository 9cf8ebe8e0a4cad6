"""All tokens above a threshold: the number that stays depends on the image."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from tokensieve.plugin import TokenCount, View, above, floor_count, top_counts, torch
from tokensieve.strategies.ordered import OrderedSelector, top_in_order

if TYPE_CHECKING:
    from torch import Tensor


LARGEST = 1e15  # scores beyond it are refused
SLACK = 1e-9  # a share is the decimal number a person wrote


class ThresholdSelector(OrderedSelector):
    """Keep the tokens whose importance is above a threshold; at least ``min_tokens``.

    * ``rule: absolute`` keeps ``score > value``;
    * ``rule: quantile`` keeps what is above the image's own ``value`` quantile (0.75 keeps about
      a quarter);
    * ``rule: iqr`` keeps outliers, ``score > Q3 + value * (Q3 - Q1)`` (PruMerge, arXiv 2403.15388,
      with ``value: 1.5``; per image, where the release shares one count over the batch);
    * ``rule: share`` keeps the best ``value`` of the image's tokens, rounded down: no threshold,
      but a number that ``grid`` builds upon (PruMerge+ with its ratio of 8: 0.125).

    ``grid: true`` adds every ``s``-th token of the raster, ``s = int(int(tokens / above) / 3)``:
    the fewer stand out, the sparser the grid (PruMerge+). With ``rule: share`` it is as large as
    the share, every ``s``-th token from the middle of the first step on, ``s = int(1 / value)``; a
    token that is in both is there once, where the release has it twice. Quantiles interpolate
    linearly. The stage's ``keep`` is an upper bound, by falling score. With ``order: selection``
    the tokens above the threshold come first, most important first, and the grid's after them.
    """

    name = "threshold"
    adaptive_count: ClassVar[bool] = True

    rule: Literal["absolute", "quantile", "iqr", "share"] = "quantile"
    value: float = Field(
        default=0.5,
        ge=-LARGEST,
        le=LARGEST,
        description="the threshold, the quantile, the factor of the interquartile range, or the "
        "share",
    )
    min_tokens: TokenCount = Field(default=1, description="tokens that stay in any case")
    grid: bool = Field(default=False, description="whether an even grid is added")

    @model_validator(mode="after")
    def _sensible(self) -> ThresholdSelector:
        if self.rule == "quantile" and not 0 <= self.value <= 1:
            raise ValueError(f"a quantile lies between 0 and 1, not {self.value:g}")
        if self.rule == "share" and not 0 < self.value <= 1:
            raise ValueError(f"a share lies above 0 and is at most 1, not {self.value:g}")
        return self

    def positional(self) -> bool:
        """A grid is made of places."""
        return self.grid

    def take_in_order(
        self, scores: Tensor, available: Tensor, counts: list[int], view: View
    ) -> Tensor:
        """``[batch, tokens]`` turns."""
        least = top_counts(scores, available, [self.min_tokens] * scores.shape[0])
        if self.rule == "share":
            count = (self.value * available.sum(dim=1).double() + SLACK).floor().long()
            higher = top_counts(scores, available, count) | least
        else:
            higher = (above(scores, self._limits(scores, available)) & available) | least
        wanted = higher | self._grid(higher, available) if self.grid else higher
        lowest = torch.finfo(scores.dtype).min
        return top_in_order(scores.where(higher, lowest), wanted, counts)

    def _grid(self, higher: Tensor, available: Tensor) -> Tensor:
        """Every ``s``-th available token but the last."""
        tokens = available.sum(dim=1, keepdim=True)
        place = available.long().cumsum(dim=1) - 1
        inside = available & (place < tokens - 1)
        if self.rule == "share":
            apart = floor_count(1 / self.value)
            return inside & (place % apart == apart // 2)
        step = (tokens // higher.sum(dim=1, keepdim=True).clamp(min=1) // 3).clamp(min=1)
        return inside & (place % step == 0)

    def _limits(self, scores: Tensor, available: Tensor) -> Tensor:
        """``[batch, 1]`` threshold of each image."""
        if self.rule == "absolute":
            return scores.new_full((scores.shape[0], 1), self.value)
        real = scores.masked_fill(~available, float("nan"))
        if self.rule == "quantile":
            return torch.nanquantile(real, self.value, dim=1, keepdim=True)
        low, high = (torch.nanquantile(real, q, dim=1, keepdim=True) for q in (0.25, 0.75))
        return high + self.value * (high - low)
