"""Components that break the contract, each in one way: the check that `breaks` names catches it.

Also a plugin file: ``tokensieve check tests/broken_components.py``.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from pydantic import ConfigDict, Field, GetPydanticSchema, field_validator
from pydantic_core import core_schema
from torch import Tensor

import tokensieve
from tokensieve.core.components import Component, Merged, Split
from tokensieve.core.scoring import top_counts
from tokensieve.core.view import View


class Norm(tokensieve.Scorer):
    """Rank tokens by the length of their hidden state: nothing is wrong with this one."""

    needs = frozenset({"hidden"})

    def score(self, view: View) -> Tensor:
        return view.hidden.float().norm(dim=-1)


class Top(tokensieve.Selector):
    """Keep the best: nothing is wrong with this one."""

    def select(self, scores: Tensor, available: Tensor, counts: list[int], view: View) -> Tensor:
        return top_counts(scores, available, counts)


class First(tokensieve.Merger):
    """Replace the first dropped tokens by themselves: nothing is wrong with this one."""

    needs = frozenset({"vision_features"})

    keep: int | float = Field(default=1, gt=0)

    def split(self, total: int, available: int, has_cls: bool) -> Split:
        merged = min(self.merged_tokens(total), total - 1)
        return Split(total - merged, merged, 0)

    def targets(self, kept: Tensor, counts: list[int], view: View) -> Tensor:
        return top_counts(torch.zeros_like(kept, dtype=torch.float32), view.valid & ~kept, counts)

    def apply(self, kept: Tensor, counts: list[int], view: View) -> Merged:
        return Merged(self.targets(kept, counts, view), view.vision_features, None, False)


# ------------------------------------------------------------------ what a class declares


class BadName(Norm):
    """Its name is no kebab-case."""

    name = "Bad_Name"
    breaks: ClassVar[str] = "name"


class Undocumented(Norm):
    name = "undocumented"
    breaks: ClassVar[str] = "documented"


class UnexplainedParameter(Norm):
    """Rank tokens somehow."""

    name = "unexplained-parameter"
    breaks: ClassVar[str] = "documented"

    strength: float

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"strength": 1.0}]


class NoSchema(Norm):
    """A parameter whose type JSON Schema does not know."""

    name = "no-schema"
    breaks: ClassVar[str] = "schema"

    power: Annotated[
        int, GetPydanticSchema(lambda source, handler: core_schema.is_instance_schema(int))
    ] = 1


class NoExamples(Norm):
    """A parameter ``strength`` without default, and no example of it."""

    name = "no-examples"
    breaks: ClassVar[str] = "parameters"

    strength: float


class TakesAnything(Norm):
    """Misspelt parameters go unnoticed."""

    model_config = ConfigDict(extra="ignore")
    name = "takes-anything"
    breaks: ClassVar[str] = "strict-parameters"


class Assignable(Norm):
    """Parameters can be assigned."""

    model_config = ConfigDict(frozen=False)
    name = "assignable"
    breaks: ClassVar[str] = "strict-parameters"

    power: float = 1.0


class Doubling(Norm):
    """Every reading of the YAML doubles the power."""

    name = "doubling"
    breaks: ClassVar[str] = "yaml-round-trip"

    power: float = 1.0

    @field_validator("power")
    @classmethod
    def _double(cls, value: float) -> float:
        return value * 2


class Drifting(Norm):
    """Changes when it is moved to a model of the same depth."""

    name = "drifting"
    breaks: ClassVar[str] = "rescales"

    layer: int = 1

    def rescaled(self, boundary: Any) -> Component:
        return self.model_copy(update={"layer": self.layer + 1})


class Unique(Norm):
    """Cannot be copied."""

    name = "unique"
    breaks: ClassVar[str] = "copies"

    def __deepcopy__(self, memo: Any = None) -> Unique:
        raise TypeError("there is only one")


# ------------------------------------------------------------------ what any component does


class NeedsTwo(Norm):
    """Raises where an image has one token."""

    name = "needs-two"
    breaks: ClassVar[str] = "runs"

    def score(self, view: View) -> Tensor:
        norm = super().score(view)
        return norm - norm.kthvalue(2, dim=1, keepdim=True).values.sign() * 0


class Dice(Norm):
    """Draws without a seed."""

    name = "dice"
    breaks: ClassVar[str] = "deterministic"

    def score(self, view: View) -> Tensor:
        return torch.rand(view.valid.shape)


class Reseeding(Norm):
    """Sets the seed of the whole program."""

    name = "reseeding"
    breaks: ClassVar[str] = "deterministic"

    def score(self, view: View) -> Tensor:
        torch.manual_seed(0)
        return torch.rand(view.valid.shape[1]).expand(view.valid.shape)


class Remembering(Norm):
    """Keeps the scores of the first call, and gives them out for other images as well."""

    name = "remembering"
    breaks: ClassVar[str] = "deterministic"
    seen: ClassVar[dict[Any, Tensor]] = {}

    def score(self, view: View) -> Tensor:
        last = self.seen.get("last")
        self.seen["last"] = super().score(view)
        return self.seen["last"] if last is None or last.shape != view.valid.shape else last


class BatchNormalised(Norm):
    """Subtracts the mean over all images."""

    name = "batch-normalised"
    breaks: ClassVar[str] = "batch-invariant"

    def score(self, view: View) -> Tensor:
        norm = super().score(view)
        return norm - norm[view.valid].mean()


class PaddingNormalised(Norm):
    """Subtracts the mean of the image, padding included."""

    name = "padding-normalised"
    breaks: ClassVar[str] = "padding-invariant"

    def score(self, view: View) -> Tensor:
        norm = super().score(view)
        return norm - norm.mean(dim=1, keepdim=True)


class InPlace(Norm):
    """Writes to the hidden states."""

    name = "in-place"
    breaks: ClassVar[str] = "unchanged-inputs"

    def score(self, view: View) -> Tensor:
        return view.hidden.mul_(2).float().norm(dim=-1)


class EatsCounts(Top):
    """Writes to the list of counts."""

    name = "eats-counts"
    breaks: ClassVar[str] = "unchanged-inputs"

    def select(self, scores: Tensor, available: Tensor, counts: list[int], view: View) -> Tensor:
        kept = top_counts(scores, available, counts)
        counts.clear()
        return kept


class Curious(Norm):
    """Reads a signal that it does not declare."""

    name = "curious"
    breaks: ClassVar[str] = "declared-signals"

    def score(self, view: View) -> Tensor:
        return super().score(view) + view.vision_attention.sum(dim=-1)


class Greedy(Norm):
    """Has a signal captured that it never reads."""

    name = "greedy"
    needs = frozenset({"hidden", "vision_keys"})
    breaks: ClassVar[str] = "needed-signals"


class Relying(Norm):
    """Reads an optional signal without asking whether it is there."""

    name = "relying"
    uses = frozenset({"grid"})
    breaks: ClassVar[str] = "optional-signals"

    def score(self, view: View) -> Tensor:
        return super().score(view) + view.grid.sum(dim=-1)


class AllLayers(tokensieve.Scorer):
    """Adds up every transition that was captured, whoever asked for it."""

    name = "all-layers"
    needs = frozenset({"transitions"})
    breaks: ClassVar[str] = "declared-layers"

    def score(self, view: View) -> Tensor:
        return torch.stack([t.at_tokens(t.magnitude) for t in view.transitions]).sum(dim=0)


class Overflowing(Norm):
    """Squares in the type of the model: beyond 65504 in float16."""

    name = "overflowing"
    breaks: ClassVar[str] = "half-precision"

    def score(self, view: View) -> Tensor:
        return (view.hidden * view.hidden).sum(dim=-1)


# ------------------------------------------------------------------ scorers


class KeepsDim(Norm):
    """Leaves a dimension over."""

    name = "keeps-dim"
    breaks: ClassVar[str] = "score-shape"

    def score(self, view: View) -> Tensor:
        return view.hidden.float().norm(dim=-1, keepdim=True)


class DividesByZero(Norm):
    """Scales to [0, 1] where all tokens may be alike."""

    name = "divides-by-zero"
    breaks: ClassVar[str] = "finite"

    def score(self, view: View) -> Tensor:
        norm = super().score(view)
        low = norm.masked_fill(~view.valid, torch.inf).amin(dim=1, keepdim=True)
        high = norm.masked_fill(~view.valid, -torch.inf).amax(dim=1, keepdim=True)
        return (norm - low) / (high - low)


# ------------------------------------------------------------------ selectors


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
        return Merged(targets, view.vision_features.float(), None, False)


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
        return Merged(view.valid & ~kept, view.vision_features, None, False)


class MergesKept(First):
    """Writes merged vectors over tokens that were selected."""

    name = "merges-kept"
    breaks: ClassVar[str] = "separate-targets"

    def targets(self, kept: Tensor, counts: list[int], view: View) -> Tensor:
        return top_counts(torch.zeros_like(kept, dtype=torch.float32), kept, counts)


class Standardised(First):
    """Divides by a spread that is zero where all tokens are alike."""

    name = "standardised"
    breaks: ClassVar[str] = "finite-vectors"

    def apply(self, kept: Tensor, counts: list[int], view: View) -> Merged:
        features = view.vision_features.float()
        weight = view.valid[..., None] / view.valid.sum(dim=1)[:, None, None]
        mean = (features * weight).sum(dim=1, keepdim=True)
        spread = ((features - mean).abs() * weight).sum(dim=1, keepdim=True)
        spread = spread.where(spread > 1e-6, 0)  # noqa: PLR2004 - rounding of the mean
        vectors = ((features - mean) / spread).to(view.vision_features.dtype)
        return Merged(self.targets(kept, counts, view), vectors, None, False)


BROKEN: list[Any] = [
    found
    for found in list(globals().values())
    if isinstance(found, type) and "breaks" in vars(found)
]


@tokensieve.hookimpl
def tokensieve_register(registry: Any) -> None:
    for component in BROKEN:
        registry.add(component)
