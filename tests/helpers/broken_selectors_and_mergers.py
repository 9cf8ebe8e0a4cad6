"""Selectors and mergers that break the contract; see ``broken_scorers``."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

import tokensieve
from tokensieve.plugin import Merged, Split, View, top_counts


class Top(tokensieve.Selector):
    """Keep the best: nothing is wrong with this one."""

    def select(self, scores: Tensor, available: Tensor, counts: list[int], view: View) -> Tensor:
        return top_counts(scores, available, counts)


class First(tokensieve.Merger):
    """Replace the first dropped tokens by themselves: nothing is wrong with this one."""

    needs = frozenset({"vision_features"})
    space: ClassVar[Any] = "vision"

    keep: int | float = Field(default=1, gt=0)

    def split(self, total: int, available: int, has_cls: bool) -> Split:
        merged = min(int(self.keep), total - 1)
        return Split(total - merged, merged, 0)

    def targets(self, kept: Tensor, counts: list[int], view: View) -> Tensor:
        return top_counts(torch.zeros_like(kept, dtype=torch.float32), view.valid & ~kept, counts)

    def apply(self, kept: Tensor, counts: list[int], view: View) -> Merged:
        targets = self.targets(kept, counts, view)
        return Merged(targets, view.vision_features, targets.float())


# ------------------------------------------------------------------ selectors


class EatsCounts(Top):
    """Writes to the list of counts."""

    name = "eats-counts"
    breaks: ClassVar[str] = "unchanged-inputs"

    def select(self, scores: Tensor, available: Tensor, counts: list[int], view: View) -> Tensor:
        kept = top_counts(scores, available, counts)
        counts.clear()
        return kept


class Ranks(Top):
    """Returns numbers."""

    name = "ranks"
    breaks: ClassVar[str] = "mask-shape"

    def select(self, scores: Tensor, available: Tensor, counts: list[int], view: View) -> Tensor:
        return top_counts(scores, available, counts).float()


class OneMore(Top):
    """Takes one token too many."""

    name = "one-more"
    breaks: ClassVar[str] = "count"

    def select(self, scores: Tensor, available: Tensor, counts: list[int], view: View) -> Tensor:
        return top_counts(scores, available, [count + 1 for count in counts])


class AdaptiveNone(Top):
    """Adaptive, down to no token at all."""

    name = "adaptive-none"
    adaptive_count: ClassVar[bool] = True
    breaks: ClassVar[str] = "count"

    def select(self, scores: Tensor, available: Tensor, counts: list[int], view: View) -> Tensor:
        return available & False


class TakesTaken(Top):
    """Takes tokens that are not available."""

    name = "takes-taken"
    breaks: ClassVar[str] = "available-only"

    def select(self, scores: Tensor, available: Tensor, counts: list[int], view: View) -> Tensor:
        return top_counts(scores, view.valid, counts)


class LastOfTies(Top):
    """Takes the last one of equally important tokens."""

    name = "last-of-ties"
    breaks: ClassVar[str] = "ties-by-lowest-index"

    def select(self, scores: Tensor, available: Tensor, counts: list[int], view: View) -> Tensor:
        return top_counts(scores.flip(1), available.flip(1), counts).flip(1)


class RealOrder(Top):
    """Tells the order in numbers that are no integers."""

    name = "real-order"
    breaks: ClassVar[str] = "order-of-selection"

    def order(self, scores: Tensor, kept: Tensor, view: View) -> Tensor:
        return scores


class OtherWhenOrdered(Top):
    """Takes the worst tokens where it is asked for the order."""

    name = "other-when-ordered"
    breaks: ClassVar[str] = "order-of-selection"

    def take_in_order(
        self, scores: Tensor, available: Tensor, counts: list[int], view: View
    ) -> Tensor:
        return top_counts(-scores, available, counts).long()


class OrderOfTheBatch(Top):
    """Turns the order around in every other image of a batch."""

    name = "order-of-the-batch"
    breaks: ClassVar[str] = "order-of-selection"

    def order(self, scores: Tensor, kept: Tensor, view: View) -> Tensor:
        place = torch.arange(kept.shape[1]).expand(kept.shape).clone()
        place[1::2] *= -1
        return place


# ------------------------------------------------------------------ mergers


class OverBudget(First):
    """Merged tokens come on top of the budget."""

    name = "over-budget"
    breaks: ClassVar[str] = "split"

    def split(self, total: int, available: int, has_cls: bool) -> Split:
        return Split(total, 1, 0)


class WideVectors(First):
    """Returns float32 vectors whatever the model's type."""

    name = "wide-vectors"
    breaks: ClassVar[str] = "merged-shape"

    def apply(self, kept: Tensor, counts: list[int], view: View) -> Merged:
        targets = self.targets(kept, counts, view)
        return Merged(targets, view.vision_features.float(), targets.float())


class PromisesCls(First):
    """Counts a [CLS] in its budget that it does not deliver."""

    name = "promises-cls"
    breaks: ClassVar[str] = "merged-shape"

    def split(self, total: int, available: int, has_cls: bool) -> Split:
        return Split(total - int(has_cls and total > 1), 0, int(has_cls and total > 1))


class AllTargets(First):
    """Lets every token live on."""

    name = "all-targets"
    breaks: ClassVar[str] = "target-count"

    def apply(self, kept: Tensor, counts: list[int], view: View) -> Merged:
        others = view.valid & ~kept
        return Merged(others, view.vision_features, others.float())


class MergesNothing(First):
    """Says that its targets stand for no token."""

    name = "merges-nothing"
    breaks: ClassVar[str] = "real-targets"

    def apply(self, kept: Tensor, counts: list[int], view: View) -> Merged:
        targets = self.targets(kept, counts, view)
        return Merged(targets, view.vision_features, 0 * targets.float())


class Standardized(First):
    """Divides by a spread that is zero where all tokens are alike."""

    name = "standardized"
    breaks: ClassVar[str] = "finite-vectors"

    def apply(self, kept: Tensor, counts: list[int], view: View) -> Merged:
        features = view.vision_features.float()
        weight = view.valid[..., None] / view.valid.sum(dim=1)[:, None, None]
        mean = (features * weight).sum(dim=1, keepdim=True)
        spread = ((features - mean).abs() * weight).sum(dim=1, keepdim=True)
        spread = spread.where(spread > 1e-6, 0)
        vectors = ((features - mean) / spread).to(view.vision_features.dtype)
        targets = self.targets(kept, counts, view)
        return Merged(targets, vectors, targets.float())


BROKEN: list[Any] = [
    found
    for found in list(globals().values())
    if isinstance(found, type) and "breaks" in vars(found)
]


@tokensieve.hookimpl
def tokensieve_register(registry: Any) -> None:
    for component in BROKEN:
        registry.add(component)
