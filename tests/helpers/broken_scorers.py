"""Scorers that break the contract, each in one way: the check that `breaks` names catches it.

Also a plugin file: ``tokensieve check tests/helpers/broken_scorers.py``.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from pydantic import ConfigDict, GetPydanticSchema, field_validator
from pydantic_core import core_schema
from torch import Tensor

import tokensieve
from tokensieve.plugin import Component, View


class Norm(tokensieve.Scorer):
    """Rank tokens by the length of their hidden state: nothing is wrong with this one."""

    needs = frozenset({"hidden"})

    def score(self, view: View) -> Tensor:
        lengths: Tensor = view.hidden.float().norm(dim=-1)
        return lengths


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

    name = "batch-normalized"
    breaks: ClassVar[str] = "batch-invariant"

    def score(self, view: View) -> Tensor:
        norm = super().score(view)
        return norm - norm[view.valid].mean()


class PaddingNormalised(Norm):
    """Subtracts the mean of the image, padding included."""

    name = "padding-normalized"
    breaks: ClassVar[str] = "padding-invariant"

    def score(self, view: View) -> Tensor:
        norm = super().score(view)
        return norm - norm.mean(dim=1, keepdim=True)


class InPlace(Norm):
    """Writes to the hidden states."""

    name = "in-place"
    breaks: ClassVar[str] = "unchanged-inputs"

    def score(self, view: View) -> Tensor:
        lengths: Tensor = view.hidden.mul_(2).float().norm(dim=-1)
        return lengths


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
    needs = frozenset({"vision_features"})
    breaks: ClassVar[str] = "half-precision"

    def score(self, view: View) -> Tensor:
        return (view.vision_features * view.vision_features).sum(dim=-1)


# ------------------------------------------------------------------ scorers


class KeepsDim(Norm):
    """Leaves a dimension over."""

    name = "keeps-dim"
    breaks: ClassVar[str] = "score-shape"

    def score(self, view: View) -> Tensor:
        lengths: Tensor = view.hidden.float().norm(dim=-1, keepdim=True)
        return lengths


class DividesByZero(Norm):
    """Scales to [0, 1] where all tokens may be alike."""

    name = "divides-by-zero"
    breaks: ClassVar[str] = "finite"

    def score(self, view: View) -> Tensor:
        norm = super().score(view)
        low = norm.masked_fill(~view.valid, torch.inf).amin(dim=1, keepdim=True)
        high = norm.masked_fill(~view.valid, -torch.inf).amax(dim=1, keepdim=True)
        return (norm - low) / (high - low)


BROKEN: list[Any] = [
    found
    for found in list(globals().values())
    if isinstance(found, type) and "breaks" in vars(found)
]


@tokensieve.hookimpl
def tokensieve_register(registry: Any) -> None:
    for component in BROKEN:
        registry.add(component)
