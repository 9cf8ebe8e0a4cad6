"""Budgets: the one place where tokens, shares, averages and FLOPs are converted and rounded.

A budget says how many tokens of *one image* are alive after a boundary. Counts are integers,
rounded down (``int(N0 * ratio)`` as TransPrune, FastV and PyramidDrop do), never below 1 and never
above what is alive.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from pydantic import Field, model_serializer, model_validator

from tokensieve.core.contract.dims import DecoderDims
from tokensieve.core.errors import BudgetError
from tokensieve.core.foreign import shown
from tokensieve.core.pipeline.flops import decoder_flops
from tokensieve.core.strict import MOST_TOKENS, WIDEST, StrictModel

Kind = Literal["tokens", "share", "average", "flops"]
Reference = Literal["original", "input", "current"]
_SLACK = 1e-9  # 0.29 * 100 is 28.999999999999996: the person meant 29
MAX_SCALE = 2.0**20


class Budget(StrictModel):
    """How many visual tokens of an image stay.

    YAML: ``192`` (tokens), ``0.33`` (share of the image's original tokens),
    ``{share: 0.5, of: input}`` (share of what entered the decoder; or ``of: current``),
    ``{average: 192}`` (mean over decoder layers), ``{flops: 0.4}`` (share of the unpruned decoder
    prefill, visual tokens only).
    """

    kind: Kind
    value: float = Field(gt=0, le=MOST_TOKENS)
    of: Reference = "original"

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        if isinstance(value, bool) or value is None:
            raise ValueError(f"{value!r} is not a budget, {_ALLOWED}")
        if isinstance(value, int):
            return _possible({"kind": "tokens", "value": value})
        if isinstance(value, float):
            return _possible({"kind": "share", "value": value})
        if isinstance(value, dict) and "kind" not in value:
            return _possible(_parse_mapping(value))
        if not isinstance(value, dict):
            raise ValueError(f"{shown(value)} is not a budget, {_ALLOWED}")
        return value

    @model_validator(mode="after")
    def _fits_kind(self) -> Budget:
        _possible({"kind": self.kind, "value": self.value})
        return self

    @model_serializer
    def _plain(self) -> int | float | dict[str, Any]:
        if self.kind == "tokens":
            return int(self.value)
        if self.kind == "share":
            return float(self.value) if self.of == "original" else self._mapping()
        return {self.kind: self.value}

    def _mapping(self) -> dict[str, Any]:
        return {"share": self.value, "of": self.of}

    def __str__(self) -> str:
        plain = self._plain()
        return str(plain) if not isinstance(plain, dict) else str(plain).replace("'", "")


_ALLOWED = (
    "allowed: 192 (tokens), 0.33 (share), {share: 0.5, of: original|input|current}, "
    "{average: 192}, {flops: 0.4}"
)


def _possible(budget: dict[str, Any]) -> dict[str, Any]:
    """The same, if an image can be left so many tokens, or that share of them."""
    kind, value = budget["kind"], budget["value"]
    counts = kind in ("tokens", "average")
    low, high = (1, MOST_TOKENS) if counts else (0, 1)
    if not low <= value <= high or value == 0:
        text = f"{value:g}" if isinstance(value, float) or abs(value) <= WIDEST else shown(value)
        limit = f"at most {high:,}" if value > high else "at least 1"
        limit = limit if counts else "above 0 and at most 1"
        raise ValueError(f"impossible budget {kind} = {text}, allowed: {limit}")
    if kind == "tokens" and value != int(value):
        raise ValueError(f"{value:g} tokens is not a whole number")
    return budget


def _parse_mapping(value: dict[Any, Any]) -> dict[str, Any]:
    kinds = [kind for kind in ("tokens", "share", "average", "flops") if kind in value]
    if len(kinds) != 1:
        raise ValueError(f"a budget has exactly one kind, {_ALLOWED}")
    (kind,) = kinds
    rest = {key: entry for key, entry in value.items() if key != kind}
    if set(rest) - ({"of"} if kind == "share" else set()):
        raise ValueError(f"unknown key {sorted(map(str, rest))[0]!r} in a budget, {_ALLOWED}")
    if isinstance(value[kind], bool) or not isinstance(value[kind], int | float):
        raise ValueError(f"{kind}: {shown(value[kind])} is not a number")
    return {"kind": kind, "value": value[kind], **rest}


def whole(value: float) -> int:
    """Round down, forgiving binary fractions."""
    return math.floor(value + _SLACK)


@dataclass(frozen=True)
class Boundary:
    """One cut: after ``at`` decoder layers, to ``budget``."""

    at: int
    budget: Budget


@dataclass(frozen=True)
class Schedule:
    """The cuts of a pipeline on a decoder, and an overall target that scales them, if any."""

    boundaries: tuple[Boundary, ...]
    depth: int
    dims: DecoderDims
    overall: Budget | None = None

    def counts(self, original: int) -> list[int]:
        """Tokens alive after each cut for an image of ``original`` tokens."""
        return list(_counts(self, original))

    def per_layer(self, original: int, counts: Sequence[int]) -> list[int]:
        """Visual tokens in each decoder layer."""
        alive, layers = original, []
        boundaries = list(zip(self.boundaries, counts, strict=True))
        for layer in range(self.depth):
            while boundaries and boundaries[0][0].at <= layer:  # -1: in front of the vision encoder
                alive = boundaries.pop(0)[1]
            layers.append(alive)
        return layers

    def _resolve(self, original: int) -> list[int]:
        counts: list[int] = []
        for cut in self.boundaries:
            current = counts[-1] if counts else original
            if cut.budget.kind in ("average", "flops"):
                count = self._largest_within(cut.budget, original, counts, current)
            else:
                count = self._stated(cut, original, counts)
            counts.append(max(1, min(current, count)) if current else 0)
        return counts

    def _stated(self, cut: Boundary, original: int, before: list[int]) -> int:
        """What a budget in tokens or shares asks for, given the counts ``before``."""
        budget = cut.budget
        if budget.kind == "tokens":
            return int(budget.value)
        inputs = [count for count, cut in zip(before, self.boundaries, strict=False) if cut.at <= 0]
        entered = inputs[-1] if inputs else original
        current = before[-1] if before else original
        whole_of = {"original": original, "input": entered, "current": current}[budget.of]
        return whole(budget.value * whole_of)

    def _with_rest(self, original: int, counts: list[int]) -> list[int]:
        """``counts`` and what the later cuts make of them; open budgets keep what is left."""
        for cut in self.boundaries[len(counts) :]:
            open_ = cut.budget.kind in ("average", "flops")
            count = counts[-1] if open_ else self._stated(cut, original, counts)
            counts = [*counts, max(1, min(counts[-1], count))]
        return counts

    def _largest_within(
        self, budget: Budget, original: int, before: list[int], current: int
    ) -> int:
        """The most tokens that the cut may leave so that the whole decoder meets ``budget``."""

        def met(count: int) -> bool:
            return self._meets(budget, original, self._with_rest(original, [*before, count]))

        if current and not met(1):
            least = self._with_rest(original, [*before, 1])
            raise BudgetError(self._impossible(budget, original, least))
        low, high = 1, max(current, 1)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if met(middle) else (low, middle - 1)
        return low

    def _scaled(self, base: list[int], original: int, overall: Budget) -> list[int]:
        """Scale all cuts by one factor so that the decoder as a whole meets ``overall``."""

        def scaled(factor: float) -> list[int]:
            counts, current = [], original
            for count in base:
                current = max(1, min(current, whole(count * factor)))
                counts.append(current)
            return counts

        if not self._meets(overall, original, scaled(0.0)):
            raise BudgetError(self._impossible(overall, original, scaled(0.0)))
        if self._meets(overall, original, scaled(MAX_SCALE)):
            return scaled(MAX_SCALE)
        low, high = 0.0, MAX_SCALE
        for _ in range(64):
            middle = (low + high) / 2
            if self._meets(overall, original, scaled(middle)):
                low = middle
            else:
                high = middle
        return scaled(low)

    def _meets(self, budget: Budget, original: int, counts: list[int]) -> bool:
        return self._cost(budget.kind, original, counts) <= budget.value + _SLACK

    def _cost(self, kind: Kind, original: int, counts: list[int]) -> float:
        layers = self.per_layer(original, counts)
        if kind == "flops":
            full = decoder_flops([original] * self.depth, self.dims)
            return decoder_flops(layers, self.dims) / full if full else 0.0
        average = sum(layers) / self.depth
        return average / original if kind == "share" and original else average

    def _impossible(self, budget: Budget, original: int, least: list[int]) -> str:
        reached = self._cost(budget.kind, original, least)
        first = self.boundaries[0].at if self.boundaries else self.depth
        return (
            f"budget {budget} is impossible for an image of {original} tokens: the layers before "
            f"boundary {first} alone cost {reached:.4g}; ask for more or cut earlier"
        )


@lru_cache(maxsize=1024)
def _counts(schedule: Schedule, original: int) -> tuple[int, ...]:
    """Remembered: scaling searches, and a model is asked about images of a few sizes only."""
    base = schedule._resolve(original)
    if schedule.overall is None:
        return tuple(base)
    return tuple(schedule._scaled(base, original, schedule.overall))
