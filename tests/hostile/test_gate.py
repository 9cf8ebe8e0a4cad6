"""Hostile components: whatever they answer or raise is right, or one line that names them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import hostile_components as parts
import pytest
import torch
from hostile_answers import (
    NO_TENSOR,
    OTHER_SHAPE,
    TENSORS,
)
from hostile_components import PLUGIN, each, first, refused
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import Tensor

import tokensieve
from tokensieve.core.contract.answers import counted, shared
from tokensieve.core.contract.view import View
from tokensieve.core.errors import TokensieveError
from tokensieve.core.pipeline.loading import load_pipeline

# ------------------------------------------------------------------ what is no tensor of ours


def numbers_of(change: Callable[[Tensor], Any]) -> parts.Scores:
    return parts.Scores(answer=lambda view: change(view.hidden.norm(dim=-1)))


@each(**TENSORS)
def test_scores_that_are_no_plain_tensor(case: Any) -> None:
    refused(lambda: parts.direct_scores(numbers_of(case)), PLUGIN, "'hostile-scorer'", "boundary 1")


@pytest.mark.parametrize("engine", parts.ENGINES)
@each(**TENSORS)
def test_scores_in_a_model(case: Any, engine: str) -> None:
    stage = {"at": 2, "score": numbers_of(case), "keep": 5}
    refused(lambda: parts.ENGINES[engine](stage), PLUGIN, "'hostile-scorer'", "stage 1, boundary 2")


@each(**TENSORS)
def test_scores_of_a_part_of_a_composite(case: Any) -> None:
    select = {"selector": "composite", "parts": [{"share": 0.5, "score": numbers_of(case)}, {}]}
    stage = {"at": 2, "score": "hidden-change", "select": select, "keep": 5}
    refused(lambda: parts.in_llava(stage), PLUGIN, "'hostile-scorer'", "stage 1, boundary 2")


@each(**TENSORS)
def test_masks_that_are_none(case: Any) -> None:
    select = parts.Mask(answer=lambda available, counts: case(available))
    refused(lambda: parts.direct_mask(select), PLUGIN, "'hostile-selector'", "a bool tensor")


@pytest.mark.parametrize("engine", parts.ENGINES)
@each(**NO_TENSOR, **OTHER_SHAPE)
def test_masks_in_a_model(case: Any, engine: str) -> None:
    select = parts.Mask(answer=lambda available, counts: case(available))
    stage = {"at": 2, "score": "hidden-change", "select": select, "keep": 5}
    refused(lambda: parts.ENGINES[engine](stage), PLUGIN, "'hostile-selector'", "stage 1")


NUMBERS_FOR_A_MASK = {
    **{str(kind).removeprefix("torch."): kind for kind in (
        torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
        torch.float16, torch.bfloat16, torch.float32, torch.float64,
    )},
}  # fmt: skip


@pytest.mark.parametrize("engine", parts.ENGINES)
@each(**NUMBERS_FOR_A_MASK)
def test_numbers_are_no_mask(case: torch.dtype, engine: str) -> None:
    """An integer mask would be read as indices, its complement as -1 and -2."""
    select = parts.Mask(answer=lambda available, counts: first(available, counts).to(case))
    stage = {"at": 2, "score": "hidden-change", "select": select, "keep": 5}
    refused(lambda: parts.ENGINES[engine](stage), "bool tensor", "got")


@each(**TENSORS, boolean=lambda t: t, floats=lambda t: t.float())
def test_turns_that_are_no_integers(case: Any) -> None:
    select = parts.Turns(answer=lambda kept, counts: case(kept))
    refused(lambda: parts.direct_turns(select), PLUGIN, "'hostile-turns'", "take_in_order")


@each(**TENSORS, boolean=lambda t: t, floats=lambda t: t.float())
def test_orders_that_are_no_integers(case: Any) -> None:
    select = parts.Ordered(answer=lambda kept, counts: case(kept))
    refused(lambda: parts.direct_turns(select), PLUGIN, "'hostile-order'", "order")


# ------------------------------------------------------------------ values of scores


def at_first(value: float) -> Callable[[Tensor], Tensor]:
    def change(scores: Tensor) -> Tensor:
        return scores.index_fill(1, torch.tensor([0]), value)

    return change


VALUES = {
    "nan": at_first(math.nan),
    "inf": at_first(math.inf),
    "minus-inf": at_first(-math.inf),
    "1e16": at_first(1e16),
    "minus-1e30": at_first(-1e30),
    "all-nan": lambda t: t * math.nan,
    "all-inf": lambda t: t + math.inf,
    "half-overflow": lambda t: (t * 0 + 1e5).half(),
    "wide": lambda t: t.double() * 1e300,
    "too-wide-int": lambda t: t.long() + 2**24 + 1,
    "least-int": lambda t: torch.full(t.shape, torch.iinfo(torch.int64).min),
    "large-int32": lambda t: torch.full(t.shape, -(2**31), dtype=torch.int32),
}


@pytest.mark.parametrize("normalize", ["none", "sum", "minmax", "rank", "zscore"])
@each(**VALUES)
def test_scores_by_which_nothing_can_be_ranked(case: Any, normalize: str) -> None:
    scorer = numbers_of(case)
    refused(lambda: parts.direct_scores(scorer, normalize=normalize), PLUGIN, "'hostile-scorer'")


@pytest.mark.parametrize("engine", parts.ENGINES)
@each(**VALUES)
def test_such_scores_in_a_model(case: Any, engine: str) -> None:
    stage = {"at": 2, "score": numbers_of(case), "keep": 5}
    refused(lambda: parts.ENGINES[engine](stage), PLUGIN, "stage 1, boundary 2")


@pytest.mark.parametrize("weight", [1e39, -1e39, 1e7, math.inf, math.nan, 1e-39, -1e-7])
@pytest.mark.parametrize("normalize", ["none", "sum", "minmax", "rank", "zscore"])
def test_weights_that_leave_no_ranking(weight: float, normalize: str) -> None:
    term = {"scorer": "hidden-change", "weight": weight, "normalize": normalize}
    stage = {"at": 2, "score": term, "keep": 5}
    refused(lambda: load_pipeline(stage), "weight", kind=TokensieveError)


def test_sums_that_overflow() -> None:
    """Each of the scores can be used, their weighted sum cannot."""
    large = numbers_of(lambda t: t * 0 + 9e14)
    terms = [{"scorer": large, "weight": 1e6}] * 2
    refused(lambda: parts.in_llava({"at": 2, "score": terms, "keep": 5}), "weighted scores")


PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "uint8": lambda t: t.to(torch.uint8),
    "int16": lambda t: t.to(torch.int16),
    "int64": lambda t: t.long(),
    "half": lambda t: t.half(),
    "bfloat16": lambda t: t.bfloat16(),
    "float64": lambda t: t.double(),
    "parameter": lambda t: torch.nn.Parameter(t.clone()),
    "gradient": lambda t: t.clone().requires_grad_(),
    "not-contiguous": lambda t: t.mT.contiguous().mT,
    "negative": lambda t: t - 1000,
    "bits-of-minus": lambda t: torch.complex(t, -t).conj().imag,
}


@each(**PLAIN)
def test_numbers_of_every_plain_kind_rank(case: Any) -> None:
    """The reference ranks by Python's own sorting."""
    order = [5, 2, 8, 1, 7, 3, 0, 6, 4]
    values = torch.tensor([order, [*order[:5], 0, 0, 0, 0]]).float() * 10

    def answer(view: View) -> Tensor:
        given: Tensor = case(values[:, : view.valid.shape[1]])
        return given

    scores = parts.direct_scores(parts.Scores(answer=answer))
    for row, size in enumerate(parts.TOKENS):
        ranked = sorted(range(size), key=(-values[row].float()).tolist().__getitem__)
        assert sorted(range(size), key=(-scores[row].float()).tolist().__getitem__) == ranked


@each(nan=math.nan, inf=math.inf, minus=-math.inf, huge=1e38)
def test_padding_may_hold_anything(case: float) -> None:
    good, bad = (parts.direct_scores(numbers_of(change)) for change in (
        lambda t: t, lambda t: t.masked_fill(~parts.batch().valid, case)
    ))  # fmt: skip
    valid = parts.batch().valid
    assert torch.equal(good[valid], bad[valid])


# ------------------------------------------------------------------ how many tokens, which order


COUNTS: dict[str, Callable[[Tensor, list[int]], Tensor]] = {
    "one-more": lambda a, c: first(a, c, 1),
    "one-less": lambda a, c: first(a, c, -1),
    "none": lambda a, c: a & False,
    "all": lambda a, c: a,
    "complement": lambda a, c: a & ~first(a, c),
    "padding-instead": lambda a, c: ~a,
    "one-image-only": lambda a, c: first(a, [c[0], *[0] * (len(c) - 1)]),
    "sum-is-right": lambda a, c: first(a, [c[0] + 1, *[n - 1 for n in c[1:]]]),
}


@each(**COUNTS)
def test_another_number_of_tokens(case: Any) -> None:
    refused(lambda: parts.direct_mask(parts.Mask(answer=case)), "'hostile-selector'", "[4, 2]")


@pytest.mark.parametrize("engine", parts.ENGINES)
@each(**{name: case for name, case in COUNTS.items() if name != "padding-instead"})
def test_another_number_of_tokens_in_a_model(case: Any, engine: str) -> None:
    stage = {"at": 2, "score": "hidden-change", "select": parts.Mask(answer=case), "keep": 5}
    refused(lambda: parts.ENGINES[engine](stage), "'hostile-selector'", "another number")


@each(
    none=lambda a, c: a & False,
    above_budget=lambda a, c: a,
    one_image_empty=lambda a, c: first(a, [0, *c[1:]]),
    one_more=lambda a, c: first(a, c, 1),
)
def test_adaptive_selectors_keep_one_token_and_the_budget(case: Any) -> None:
    refused(lambda: parts.direct_mask(parts.Adaptive(answer=case)), "no token", "budget")
    stage = {"at": 2, "score": "hidden-change", "select": parts.Adaptive(answer=case), "keep": 5}
    refused(lambda: parts.in_llava(stage), "no token", "budget")


@each(fewer=-1, exactly=0)
def test_adaptive_selectors_may_keep_fewer(case: int) -> None:
    kept = parts.direct_mask(parts.Adaptive(answer=lambda a, c: first(a, c, case)))
    assert kept.sum(dim=1).tolist() == [count + case for count in parts.KEPT]


def test_true_in_the_padding_is_no_token() -> None:
    kept = parts.direct_mask(parts.Mask(answer=lambda a, c: first(a, c) | ~a))
    assert kept.sum(dim=1).tolist() == parts.KEPT
    assert not (kept & ~parts.batch().valid).any()


TURNS: dict[str, Callable[[Tensor], Tensor]] = {
    "all-the-same": lambda kept: kept.long(),
    "two-alike": lambda kept: kept.long().cumsum(dim=1).clamp(max=2) * kept,
    "two-alike-far-apart": lambda kept: torch.where(kept, 2**62, 0),
    "zero-based": lambda kept: (kept.long().cumsum(dim=1) - 1) * kept,
    "negative": lambda kept: torch.where(kept, kept.long().cumsum(dim=1), -1),
    "wrapped": lambda kept: (kept.long().cumsum(dim=1) * 128).to(torch.uint8) * kept,
}


@each(**TURNS)
def test_turns_that_are_no_order(case: Any) -> None:
    select = parts.Turns(answer=lambda kept, counts: case(kept))
    refused(lambda: parts.direct_turns(select), PLUGIN, "'hostile-turns'")


@pytest.mark.parametrize("engine", parts.ENGINES)
@each(**TURNS)
def test_such_turns_in_a_model(case: Any, engine: str) -> None:
    select = parts.Turns(answer=lambda kept, counts: case(kept))
    stage = {"at": 2, "score": "hidden-change", "select": select, "keep": 5, "order": "selection"}
    refused(lambda: parts.ENGINES[engine](stage), PLUGIN, "'hostile-turns'", "stage 1")


@each(
    same=lambda kept: torch.zeros_like(kept, dtype=torch.long),
    two_alike=lambda kept: kept.long().cumsum(dim=1).clamp(max=3),
    nan=lambda kept: torch.full(kept.shape, math.nan),
    scores=lambda kept: torch.rand(kept.shape),
    largest=lambda kept: torch.full(kept.shape, torch.iinfo(torch.int64).max),
)
def test_orders_that_are_none(case: Any) -> None:
    select = parts.Ordered(answer=lambda kept, counts: case(kept))
    refused(lambda: parts.direct_turns(select), "'hostile-order'", "order")
    stage = {"at": 2, "score": "hidden-change", "select": select, "keep": 5, "order": "selection"}
    refused(lambda: parts.in_llava(stage), "'hostile-order'", "order")


@settings(derandomize=True, deadline=None, max_examples=200)
@given(some.lists(some.integers(-(2**63), 2**63 - 1), min_size=4, max_size=4), some.data())
def test_any_turns_are_an_order_or_none(turns: list[int], data: Any) -> None:
    """Against Python's own sorting, the largest and smallest numbers included."""
    kept = data.draw(some.lists(some.booleans(), min_size=4, max_size=4))
    own = [turn for turn, is_kept in zip(turns, kept, strict=True) if is_kept]
    given_turns, given_kept = torch.tensor([turns]), torch.tensor([kept])
    assert bool(shared(given_turns, given_kept)) == (len(set(own)) < len(own))
    if len(set(own)) == len(own):
        ranks = [sorted(own).index(t) + 1 if k else 0 for t, k in zip(turns, kept, strict=True)]
        assert counted(given_turns, given_kept).tolist() == [ranks]


@each(scores="scores", available="available", counts="counts", valid="valid", index="index")
def test_what_a_selector_writes_to_is_its_own(case: str) -> None:
    """Nobody else reads what it was given: the choice is that of a selector that writes nothing."""

    class Writes(tokensieve.Selector):
        name = "writes"

        def select(
            self, scores: Tensor, available: Tensor, counts: list[int], view: View
        ) -> Tensor:
            kept = first(available, counts)
            given: Any = {"scores": scores, "available": available, "valid": view.valid,
                     "index": view.index, "counts": counts}[case]  # fmt: skip
            if isinstance(given, list):
                given.clear()
            else:
                given.zero_()
            return kept

    stage = {"at": [2, 3], "score": "hidden-change", "keep": [5, 2]}
    plain = parts.in_llava({**stage, "select": parts.Mask(answer=first)})
    wrote = parts.in_llava({**stage, "select": Writes()})
    for one, other in zip(plain.stages, wrote.stages, strict=True):
        assert [k.tolist() for k in one.kept] == [k.tolist() for k in other.kept]
