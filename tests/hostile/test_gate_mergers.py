"""Hostile mergers: whatever they make of tokens is right, or one line that names them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import hostile_components as parts
import numpy as np
import pytest
import torch
from hostile_answers import (
    NO_TENSOR,
    OTHER_KIND,
    OTHER_SHAPE,
)
from hostile_components import PLUGIN, each, refused

import tokensieve
from tokensieve.core.contract.components import Merged, Split


def with_(**changes: Callable[[Any], Any]) -> Callable[[Merged], Merged]:
    def change(good: Merged) -> Merged:
        return replace(good, **{name: new(getattr(good, name)) for name, new in changes.items()})

    return change


def on(name: str, cases: dict[str, Any]) -> dict[str, Any]:
    return {f"{name}-{key}": with_(**{name: case}) for key, case in cases.items()}


def at_targets(value: float) -> Callable[[Merged], Merged]:
    return lambda good: replace(
        good, vectors=good.vectors.masked_fill(good.targets[..., None], value)
    )


RAW = {"bool": lambda t: t > 0, "none": lambda t: None, "list": lambda t: t.tolist()}
MERGED: dict[str, Callable[[Merged], Any]] = {
    "nothing": lambda good: None,
    "tuple": lambda good: (good.targets, good.vectors, good.sizes),
    "dict": vars,
    "vectors-only": lambda good: good.vectors,
    "the-class": lambda good: Merged,
    **on("targets", {
        **NO_TENSOR, **OTHER_SHAPE, **OTHER_KIND,
        "int": lambda t: t.long(), "float": lambda t: t.float(), "padding": lambda t: ~t,
        "everything": lambda t: t | True,
    }),
    **on("vectors", {
        **OTHER_KIND, **RAW, "int": lambda t: t.long(), "half": lambda t: t.half(),
        "bfloat16": lambda t: t.bfloat16(), "narrow": lambda t: t[..., 1:],
        "wide": lambda t: torch.cat([t, t], dim=-1), "one-vector": lambda t: t[:, :1],
        "flat": lambda t: t.flatten(), "no-dim": lambda t: t[..., 0],
        "overflow": lambda t: t.double() * 0 + 1e39,
    }),
    "vectors-nan": at_targets(math.nan),
    "vectors-inf": at_targets(math.inf),
    "vectors-minus-inf": at_targets(-math.inf),
    **on("sizes", {
        **NO_TENSOR, **OTHER_SHAPE, **OTHER_KIND, "bool": lambda t: t > 0,
        "zero": lambda t: t * 0, "negative": lambda t: -t, "nan": lambda t: t * math.nan,
        "inf": lambda t: t / 0, "half": lambda t: t / 2, "more-than-there-were": lambda t: t * 1e6,
        "integer-zero": lambda t: t.long() * 0, "almost-one": lambda t: t * 0.999,
    }),
    **on("appended", {
        "float": lambda _: torch.ones(2, 16), "list": lambda _: [1, 2], "scalar": lambda _: 3,
        "shape": lambda _: torch.ones(1, 1, dtype=torch.long),
        "bool": lambda _: torch.ones(2, 16, dtype=torch.bool),
    }),
    "appended-alike": lambda good: replace(good, appended=good.targets.long()),
    "appended-negative": lambda good: replace(good, appended=-good.targets.long()),
    "appended-nan": lambda good: replace(good, appended=good.sizes * math.nan),
}  # fmt: skip


@each(**MERGED)
def test_merged_tokens(case: Any) -> None:
    refused(lambda: parts.direct_merged(parts.Merges(answer=case)), PLUGIN, "'hostile-merger'")


@pytest.mark.parametrize("engine", parts.ENGINES)
@each(**{name: case for name, case in MERGED.items() if name != "targets-padding"})
def test_merged_tokens_in_a_model(case: Any, engine: str) -> None:
    merge = parts.Merges(answer=case)
    stage = {"at": 2, "score": "hidden-change", "keep": 5, "merge": merge}
    refused(lambda: parts.ENGINES[engine](stage), PLUGIN, "'hostile-merger'", "stage 1, boundary 2")


@each(
    missing=lambda e: None,
    narrow=lambda e: e[..., 1:],
    every_token=lambda e: e.expand(-1, 3, -1),
    flat=lambda e: e[:, 0],
    integer=lambda e: e.long(),
    nan=lambda e: e * math.nan,
    inf=lambda e: e + math.inf,
    half=lambda e: e.half(),
    numpy=lambda e: e.numpy(),
)
def test_extra_tokens_that_were_promised(case: Any) -> None:
    merge = parts.Merges(answer=with_(extra=case), promised=1)
    refused(lambda: parts.direct_merged(merge), PLUGIN, "extra")
    stage = {"at": 2, "score": "hidden-change", "keep": 5, "merge": merge}
    refused(lambda: parts.in_llava(stage), PLUGIN, "extra", "stage 1, boundary 2")


AnySplit: Any = Split


@each(
    none=lambda n: None,
    tuple=lambda n: (n, 0, 0),
    numbers=lambda n: n,
    floats=lambda n: AnySplit(float(n), 0, 0),
    bools=lambda n: Split(n, False, False),
    text=lambda n: AnySplit(str(n), 0, 0),
    nothing_selected=lambda n: Split(0, n, 0),
    too_many=lambda n: Split(n, 1, 0),
    too_few=lambda n: Split(n - 1, 0, 0),
    negative=lambda n: Split(n + 1, -1, 0),
    two_extra=lambda n: Split(n - 2, 0, 2),
    tensors=lambda n: AnySplit(torch.tensor(n), 0, 0),
    numpy=lambda n: AnySplit(np.int64(n), 0, 0),
    huge=lambda n: Split(10**5000, 0, 0),
)
def test_budgets_divided(case: Any) -> None:
    merge = parts.Merges(answer=lambda good: good, divide=case)
    refused(lambda: parts.direct_merged(merge), PLUGIN, "split(")
    stage = {"at": 2, "score": "hidden-change", "keep": 5, "merge": merge}
    refused(lambda: parts.in_llava(stage), PLUGIN, "split(", "stage 1, boundary 2")


@each(
    as_it_is=lambda good: good,
    integer_sizes=with_(sizes=lambda s: s.long()),
    double_vectors=with_(vectors=lambda v: v.double()),
    nan_elsewhere=lambda good: replace(
        good, vectors=good.vectors.masked_fill(~good.targets[..., None], math.nan)
    ),
    places_far_away=lambda good: replace(
        good, appended=good.targets.long().cumsum(dim=1) * good.targets * 10**12
    ),
)
def test_merged_tokens_that_are_right(case: Any) -> None:
    """Kept tokens merged with themselves: the model's own answer with fewer tokens."""
    model, inputs = parts.llava()
    stage = {"at": 2, "score": "hidden-change", "keep": 5}
    with torch.no_grad(), tokensieve.attach(model, stage):
        dropped = model(**inputs).logits
    merge = parts.Merges(answer=case)
    with torch.no_grad(), tokensieve.attach(model, {**stage, "merge": merge}):
        merged = model(**inputs).logits
    torch.testing.assert_close(merged, dropped)
