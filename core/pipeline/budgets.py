"""Budgets: the one place where tokens, shares, averages and FLOPs are converted and rounded.

A budget says how many tokens of *one image* are alive after a boundary. :func:`floor_count` rounds
it down (``int(N0 * ratio)`` as TransPrune, FastV and PyramidDrop do), :func:`limited` keeps it
between 1 and what is alive, and :func:`largest` finds the count, or the factor on all counts, with
which the whole decoder meets an average or a share of FLOPs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from pydantic import Field, model_serializer, model_validator

from tokensieve.core.contract.dims import DecoderDims
from tokensieve.core.errors import BudgetError
from tokensieve.core.foreign import shown
from tokensieve.core.pipeline.flops import decoder_flops
from tokensieve.core.strict import MOST_TOKENS, WIDEST, StrictModel

Kind = Literal["tokens", "share", "average", "flops"]
Reference = Literal["original", "input", "current"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_SLACK = 1e-9  # 0.29 * 100 is 28.999999999999996: the person meant 29
_SCALE_STEP = 2.0**-44
_MOST_SCALE_STEPS = 2**64  # a factor of a million: no count is below 1, no image is that large


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
    def _parse(cls, value: object) -> object:
        """Any spelling as ``{kind: ..., value: ..., of: ...}``."""
        if isinstance(value, bool) or value is None:
            raise ValueError(f"{value!r} is not a budget, {_ALLOWED}")
        if isinstance(value, int | float):
            value = {"tokens" if isinstance(value, int) else "share": value}
        if not isinstance(value, dict):
            raise ValueError(f"{shown(value)} is not a budget, {_ALLOWED}")
        if "kind" in value:
            return value
        kinds = [kind for kind in KINDS if kind in value]
        if len(kinds) != 1:
            raise ValueError(f"a budget has exactly one kind, {_ALLOWED}")
        (kind,) = kinds
        number, rest = value[kind], {key: entry for key, entry in value.items() if key != kind}
        if set(rest) - ({"of"} if kind == "share" else set()):
            raise ValueError(f"unknown key {sorted(map(str, rest))[0]!r} in a budget, {_ALLOWED}")
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise ValueError(f"{kind}: {shown(number)} is not a number")
        _check_possible(kind, number)
        return {"kind": kind, "value": number, **rest}

    @model_validator(mode="after")
    def _fits_kind(self) -> Budget:
        _check_possible(self.kind, self.value)
        return self

    @model_serializer
    def to_plain(self) -> int | float | dict[str, object]:
        """The shortest YAML spelling."""
        if self.kind == "tokens":
            return int(self.value)
        if self.kind == "share" and self.of == "original":
            return float(self.value)
        return {self.kind: self.value, **({"of": self.of} if self.kind == "share" else {})}

    def __str__(self) -> str:
        return str(self.to_plain()).replace("'", "")

    @property
    def holds_for_decoder(self) -> bool:
        """Whether it limits the whole decoder, and not the tokens after one boundary."""
        return self.kind in ("average", "flops")


_ALLOWED = (
    "allowed: 192 (tokens), 0.33 (share), {share: 0.5, of: original|input|current}, "
    "{average: 192}, {flops: 0.4}"
)


def _check_possible(kind: Kind, value: float) -> None:
    """Refuse a number of tokens, or a share of them, that no image can be left."""
    counts = kind in ("tokens", "average")
    low, high = (1, MOST_TOKENS) if counts else (0, 1)
    if not low <= value <= high or value == 0:
        text = f"{value:g}" if isinstance(value, float) or abs(value) <= WIDEST else shown(value)
        limit = f"at most {high:,}" if value > high else "at least 1"
        limit = limit if counts else "above 0 and at most 1"
        raise ValueError(f"impossible budget {kind} = {text}, allowed: {limit}")
    if kind == "tokens" and value != int(value):
        raise ValueError(f"{value:g} tokens is not a whole number")


def floor_count(value: float) -> int:
    """Round down, forgiving binary fractions: 28.999999999999996 is 29."""
    return math.floor(value + _SLACK)


def limited(count: int, alive: int) -> int:
    """``count`` tokens, but at least one and no more than are ``alive``."""
    return max(1, min(alive, count))


def largest(meets: Callable[[int], bool], least: int, most: int) -> int:
    """The largest of the numbers from ``least`` to ``most`` that meets something, by bisection.

    ``least`` does, and whatever is below a number that does.
    """
    while least < most:
        middle = (least + most + 1) // 2
        least, most = (middle, most) if meets(middle) else (least, middle - 1)
    return least


@dataclass(frozen=True)
class BoundaryBudget:
    """The ``budget`` of a boundary, at which ``at`` decoder layers have run."""

    at: int
    budget: Budget


@dataclass(frozen=True)
class Schedule:
    """The boundaries of a pipeline on a decoder, and an overall budget that scales them, if any.

    A number of tokens or a share is rounded down. A budget for the whole decoder leaves the most
    tokens with which the decoder meets it, once later boundaries have done what they state. An
    overall budget multiplies all counts by the largest factor with which the decoder meets it.
    """

    boundaries: tuple[BoundaryBudget, ...]
    depth: int
    dims: DecoderDims
    overall: Budget | None = None
    _known: dict[int, list[int]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def counts(self, original: int) -> list[int]:
        """Tokens alive after each boundary for an image of ``original`` tokens.

        Remembered: a model is asked about images of a few sizes only.

        Raises:
            BudgetError: a budget cannot be met.
        """
        if not original:
            return [0] * len(self.boundaries)
        if original not in self._known:
            counts = self._own_counts(original)
            self._known[original] = (
                counts if self.overall is None else self._scaled(counts, original, self.overall)
            )
        return list(self._known[original])

    def per_layer(self, original: int, counts: Sequence[int]) -> list[int]:
        """Visual tokens in each decoder layer."""
        alive, layers = original, []
        boundaries = list(zip(self.boundaries, counts, strict=True))
        for layer in range(self.depth):
            while boundaries and boundaries[0][0].at <= layer:  # -1: before the vision encoder
                alive = boundaries.pop(0)[1]
            layers.append(alive)
        return layers

    def _own_counts(self, original: int) -> list[int]:
        """The counts that the boundaries' own budgets leave, in order."""
        counts: list[int] = []

        def continued(count: int) -> list[int]:
            """The counts so far, ``count``, and what later boundaries make of it.

            Later budgets for the whole decoder keep what is left: their turn comes.
            """
            later = [*counts, count]
            for boundary in self.boundaries[len(later) :]:
                stated = self._stated(boundary.budget, original, later)
                later.append(limited(later[-1] if stated is None else stated, later[-1]))
            return later

        for boundary in self.boundaries:
            alive = counts[-1] if counts else original
            count = self._stated(boundary.budget, original, counts)
            if count is None:
                count = self._largest_within(boundary.budget, original, continued, 1, alive)
            counts.append(limited(count, alive))
        return counts

    def _stated(self, budget: Budget, original: int, before: list[int]) -> int | None:
        """The count that a budget states by itself, given the counts ``before`` it; else None."""
        if budget.holds_for_decoder:
            return None
        if budget.kind == "tokens":
            return int(budget.value)
        at_input = sum(boundary.at <= 0 for boundary in self.boundaries[: len(before)])
        reached = [original, *before]
        whole = {"original": original, "input": reached[at_input], "current": reached[-1]}
        return floor_count(budget.value * whole[budget.of])

    def _scaled(self, counts: list[int], original: int, overall: Budget) -> list[int]:
        """``counts`` times the largest factor with which the decoder meets ``overall``."""

        def scaled(steps: int) -> list[int]:
            alive = [original]
            for count in counts:
                alive.append(limited(floor_count(count * (steps * _SCALE_STEP)), alive[-1]))
            return alive[1:]

        return scaled(self._largest_within(overall, original, scaled, 0, _MOST_SCALE_STEPS))

    def _largest_within(
        self,
        budget: Budget,
        original: int,
        counts: Callable[[int], list[int]],
        least: int,
        most: int,
    ) -> int:
        """The largest number whose ``counts`` meet ``budget``."""

        def cost(number: int) -> float:
            layers = self.per_layer(original, counts(number))
            if budget.kind == "flops":
                full = decoder_flops([original] * self.depth, self.dims)
                return decoder_flops(layers, self.dims) / full
            average = sum(layers) / self.depth
            return average / original if budget.kind == "share" else average

        def meets(number: int) -> bool:
            return cost(number) <= budget.value + _SLACK

        if not meets(least):
            first = self.boundaries[0].at if self.boundaries else self.depth
            raise BudgetError(
                f"budget {budget} is impossible for an image of {original} tokens: the layers "
                f"before boundary {first} alone cost {cost(least):.4g}; ask for more or use an "
                "earlier boundary"
            )
        return largest(meets, least, most)
