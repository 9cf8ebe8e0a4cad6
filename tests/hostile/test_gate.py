"""Hostile components: whatever they answer or raise is right, or one line that names them."""

from __future__ import annotations

import itertools
import math
import signal
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import hostile_components as parts
import numpy as np
import pytest
import torch
from command_line import clear
from hostile_answers import (
    NO_TENSOR,
    OTHER_KIND,
    OTHER_SHAPE,
    RAISED,
    TENSORS,
    Own,
    throws,
)
from hypothesis import given, settings
from hypothesis import strategies as some
from PIL import Image
from plugin_sources import install, write
from torch import Tensor

import tokensieve
from tokensieve.core import plugins
from tokensieve.core.components import Merged, Split
from tokensieve.core.errors import PluginError, TaskError, TokensieveError
from tokensieve.core.gate import counted, shared
from tokensieve.core.gate_tasks import asked_examples, asked_score
from tokensieve.core.loading import load_pipeline
from tokensieve.core.plugins import Registry, build_registry
from tokensieve.core.study.cell import failure
from tokensieve.core.tasks import Box, Example
from tokensieve.core.testing import check_component
from tokensieve.core.view import View

PLUGIN = "plugin 'hostile_components'"


def refused(run: Callable[[], Any], *words: str, kind: type[TokensieveError] = PluginError) -> str:
    """One clear line of ours."""
    with pytest.raises(kind) as caught:
        run()
    clear(str(caught.value), *words)
    return str(caught.value)


def each(**cases: Any) -> Any:
    return pytest.mark.parametrize("case", cases.values(), ids=cases)


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
    select = parts.Turns(answer=lambda kept, counts: case(kept.long() if callable(case) else kept))
    if case(torch.ones(2, 3, dtype=torch.long)) is not None and type(case).__name__ == "":
        return
    if case in (NO_TENSOR["none"],):
        pass
    wrong = case
    select = parts.Turns(answer=lambda kept, counts: wrong(kept))
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
    run = lambda: load_pipeline({"at": 2, "score": term, "keep": 5})  # noqa: E731
    refused(run, "weight", kind=TokensieveError)


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
        return case(values[:, : view.valid.shape[1]])

    if case is PLAIN["negative"]:
        values = values.clone()
    scores = parts.direct_scores(parts.Scores(answer=answer))
    for row, size in enumerate(parts.TOKENS):
        ranked = sorted(range(size), key=lambda n, row=row: -float(values[row, n]))
        assert sorted(range(size), key=lambda n, row=row: -float(scores[row, n])) == ranked


@each(nan=math.nan, inf=math.inf, minus=-math.inf, huge=1e38)
def test_padding_may_hold_anything(case: float) -> None:
    good, bad = (parts.direct_scores(numbers_of(change)) for change in (
        lambda t: t, lambda t: t.masked_fill(~parts.batch().valid, case)
    ))  # fmt: skip
    valid = parts.batch().valid
    assert torch.equal(good[valid], bad[valid])


# ------------------------------------------------------------------ how many tokens, which order


def first(available: Tensor, counts: list[int], more: int = 0) -> Tensor:
    wanted = torch.tensor(counts)[:, None] + more
    return available & (available.long().cumsum(dim=1) <= wanted)


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
            given = {"scores": scores, "available": available, "valid": view.valid,
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


# ------------------------------------------------------------------ mergers


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
    "dict": lambda good: vars(good),
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


@each(
    none=lambda n: None,
    tuple=lambda n: (n, 0, 0),
    numbers=lambda n: n,
    floats=lambda n: Split(float(n), 0, 0),
    bools=lambda n: Split(n, False, False),
    text=lambda n: Split(str(n), 0, 0),
    nothing_selected=lambda n: Split(0, n, 0),
    too_many=lambda n: Split(n, 1, 0),
    too_few=lambda n: Split(n - 1, 0, 0),
    negative=lambda n: Split(n + 1, -1, 0),
    two_extra=lambda n: Split(n - 2, 0, 2),
    tensors=lambda n: Split(torch.tensor(n), 0, 0),
    numpy=lambda n: Split(np.int64(n), 0, 0),
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


# ------------------------------------------------------------------ whatever they raise


def raising(place: str, run: Callable[[], Any]) -> dict[str, Any]:
    """A stage whose component raises at ``place``."""
    bad, good = (lambda *_: run()), (lambda merged: merged)
    stage: dict[str, Any] = {"at": 2, "score": "hidden-change", "keep": 5}
    more: dict[str, dict[str, Any]] = {
        "score": {"score": parts.Scores(answer=bad)},
        "select": {"select": parts.Mask(answer=bad)},
        "take-in-order": {"select": parts.Turns(answer=bad), "order": "selection"},
        "order": {"select": parts.Ordered(answer=bad), "order": "selection"},
        "apply": {"merge": parts.Merges(answer=bad)},
        "split": {"merge": parts.Merges(answer=good, divide=bad)},
    }
    return {**stage, **more[place]}


@pytest.mark.parametrize("place", ["score", "select", "take-in-order", "order", "apply", "split"])
@each(**RAISED)
def test_whatever_a_component_raises(case: Any, place: str) -> None:
    said = refused(lambda: parts.in_llava(raising(place, case)), PLUGIN, "'hostile-")
    assert "stage 1, boundary 2" in said
    assert len(said) < 500


@pytest.mark.parametrize("place", ["score", "select", "apply"])
@each(**{name: RAISED[name] for name in ("exit-0", "keyboard", "deadly", "base", "recursion")})
def test_whatever_a_component_raises_in_a_classifier(case: Any, place: str) -> None:
    refused(lambda: parts.in_vit(raising(place, case)), PLUGIN, "stage 1, boundary 2")


@pytest.mark.parametrize("place", ["select", "apply", "take-in-order"])
@each(builtin=signal.default_int_handler, own=lambda *_: throws(KeyboardInterrupt)())
def test_the_users_ctrl_c_stays_one(case: Any, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(
        signal.SIGINT, case if case is signal.default_int_handler else interrupted
    )
    try:
        with pytest.raises(KeyboardInterrupt):
            parts.in_llava(raising(place, lambda: signal.raise_signal(signal.SIGINT)))
    finally:
        signal.signal(signal.SIGINT, before)


DECLARED = ("required", "readable", "history", "vision_depths", "rescaled")


def declaring(method: str, run: Callable[[], Any]) -> Any:
    def answer(self: Any, *_: Any) -> Any:
        return run()

    fields = {"name": "declares", "score": lambda self, view: view.hidden[..., 0], method: answer}
    return type("Declares", (tokensieve.Scorer,), fields)()


@pytest.mark.parametrize("method", DECLARED)
@each(**RAISED)
def test_whatever_a_declaration_raises(case: Any, method: str) -> None:
    scorer = declaring(method, case)
    refused(lambda: parts.in_llava({"at": 2, "score": scorer, "keep": 5}), "scorer 'declares'")


@each(none=None, text="hidden", number=3, listed=["hidden"], mapping={"hidden": 1}, nan=math.nan)
@pytest.mark.parametrize("method", ["required", "readable", "vision_depths", "rescaled"])
def test_declarations_that_mean_nothing(case: Any, method: str) -> None:
    scorer = declaring(method, lambda: case)
    refused(lambda: parts.in_llava({"at": 2, "score": scorer, "keep": 5}), "scorer 'declares'")


@each(
    number=3,
    one=(1,),
    three=(0, 1, 2),
    floats=(0.0, 1.0),
    text="01",
    bools=(False, True),
    nan=math.nan,
)
def test_spans_of_layers_that_mean_nothing(case: Any) -> None:
    scorer = declaring("history", lambda: case)
    refused(lambda: parts.in_llava({"at": 2, "score": scorer, "keep": 5}), "history(2)")


@each(**RAISED)
def test_whatever_a_parameter_raises(case: Any) -> None:
    from pydantic import field_validator

    class Picky(tokensieve.Scorer):
        """Has an opinion on its parameter."""

        name = "picky"
        depth_of_field: float = 1.0

        @field_validator("depth_of_field")
        @classmethod
        def _fits(cls, value: float) -> float:
            case()
            return value

        def score(self, view: View) -> Tensor:
            return view.hidden[..., 0]

    registry = build_registry().copy()
    registry.add(Picky)
    stage = {"at": 2, "score": {"scorer": "picky", "depth_of_field": 2}, "keep": 5}
    refused(lambda: load_pipeline(stage, registry=registry), kind=TokensieveError)


@pytest.mark.parametrize("place", ["examples", "score"])
@each(**RAISED)
def test_whatever_a_component_raises_is_a_result_of_the_conformance_suite(
    case: Any, place: str
) -> None:
    class Bad(tokensieve.Scorer):
        """Rank tokens somehow."""

        name = "bad"
        needs = frozenset({"hidden"})

        @classmethod
        def examples(cls) -> list[dict[str, Any]]:
            return case() if place == "examples" else [{}]

        def score(self, view: View) -> Tensor:
            case()
            return view.hidden[..., 0]

    failed = [result for result in check_component(Bad) if not result.passed]
    assert failed
    assert all(result.detail and "\n" not in result.detail for result in failed)


@each(**RAISED)
def test_whatever_is_raised_can_be_written_down(case: Any) -> None:
    try:
        case()
    except BaseException as error:
        said = failure(error)["error"]
    clear(said)


# ------------------------------------------------------------------ tasks


class Asks(tokensieve.Task):
    """Asks and scores as it is told."""

    name = "hostile-task"
    answer: Any = None
    drawn: Any = None

    def examples(self, count: int, seed: int) -> Any:
        return self.drawn(count)

    def score(self, example: Example, answer: str) -> float:
        return self.answer()


EXAMPLE = Example("one", (), "what?", "this")
SCORES = {
    "nan": math.nan, "inf": math.inf, "minus-inf": -math.inf, "percent": 85, "above": 1.001,
    "below": -0.001, "none": None, "text": "1.0", "word": "right", "list": [1.0], "tuple": (1,),
    "complex": 1 + 0j, "decimal": Decimal("0.5"), "huge": 10**400, "minus-huge": -(10**400),
    "wide-float": 1e308, "numpy-array": np.array([0.5, 0.5]), "numpy-nan": np.float32("nan"),
    "tensor-vector": torch.tensor([0.5]), "tensor-nan": torch.tensor(math.nan),
    "tensor-85": torch.tensor(85), "dict": {"score": 1.0}, "class": float, "ellipsis": ...,
    "bytes": b"1", "numpy-percent": np.int64(85), "numpy-text": np.str_("1"),
    "meta": torch.ones((), device="meta"), "numpy-date": np.datetime64("2020"),
    "long-digits": int("9" * 4000),
}  # fmt: skip


@each(**SCORES)
def test_scores_of_answers(case: Any) -> None:
    task = Asks(answer=lambda: case)
    refused(lambda: asked_score(task, EXAMPLE, "this"), "'hostile-task'", kind=TokensieveError)


@pytest.mark.parametrize(
    ("given_score", "expected"),
    [(0, 0.0), (1, 1.0), (True, 1.0), (False, 0.0), (0.25, 0.25), (Fraction(1, 2), 0.5),
     (np.float32(0.5), 0.5), (np.bool_(True), 1.0), (torch.tensor(0.5), 0.5), (1 + 1e-12, 1.0),
     (-1e-12, 0.0), (np.float64(1), 1.0)],
)  # fmt: skip
def test_scores_of_answers_that_are_shares(given_score: Any, expected: float) -> None:
    score = asked_score(Asks(answer=lambda: given_score), EXAMPLE, "this")
    assert (type(score), score) == (float, expected)


PICTURE = Image.new("RGB", (2, 2))
DRAWN: dict[str, Any] = {
    "none": None, "text": "abc", "bytes": b"abc", "number": 3, "set": {1}, "dict": {"a": EXAMPLE},
    "generator": (n for n in range(2)), "numbers": [1, 2], "texts": ["a"], "mixed": [EXAMPLE, None],
    "too-many": [EXAMPLE] * 3, "the-class": [Example], "dicts": [{"id": "a"}],
    "no-id": [replace(EXAMPLE, id=None)], "number-id": [replace(EXAMPLE, id=3)],
    "no-question": [replace(EXAMPLE, question=None)], "answer-number": [replace(EXAMPLE, answer=3)],
    "answer-list": [replace(EXAMPLE, answer=["a"])], "a-path": [replace(EXAMPLE, images=("a.png",))],
    "image-itself": [replace(EXAMPLE, images=PICTURE)], "arrays": [replace(EXAMPLE, images=(np.ones(3),))],
    "boxes-flat": [replace(EXAMPLE, images=(PICTURE,), boxes=(Box(0, 0, 1, 1),))],
    "boxes-many": [replace(EXAMPLE, images=(PICTURE,), boxes=((), ()))],
    "boxes-pixels": [replace(EXAMPLE, images=(PICTURE,), boxes=((Box(0, 0, 10, 10),),))],
    "boxes-nan": [replace(EXAMPLE, images=(PICTURE,), boxes=((Box(0, 0, math.nan, 1),),))],
    "boxes-lists": [replace(EXAMPLE, images=(PICTURE,), boxes=(([0, 0, 1, 1],),))],
    "boxes-text": [replace(EXAMPLE, images=(PICTURE,), boxes=((Box("0", 0, 1, 1),),))],
}  # fmt: skip


@each(**DRAWN)
def test_examples_of_a_task(case: Any) -> None:
    task = Asks(drawn=lambda count: case)
    refused(lambda: asked_examples(task, 2, 0), "'hostile-task'", kind=TokensieveError)


@pytest.mark.parametrize("place", ["examples", "score"])
@each(**RAISED)
def test_whatever_a_task_raises(case: Any, place: str) -> None:
    task = Asks(answer=lambda: case(), drawn=lambda count: case())
    if place == "score":
        refused(lambda: asked_score(task, EXAMPLE, "a"), "'hostile-task'", kind=TokensieveError)
    else:
        refused(lambda: asked_examples(task, 2, 0), "'hostile-task'", kind=TokensieveError)


# ------------------------------------------------------------------ two packages, one name

HEAD = "import tokensieve\nfrom pathlib import Path\n"
BODIES = {
    "scorer": 'class F(tokensieve.Scorer):\n    """Doc."""\n    name = "same"\n'
    "    def score(self, view):\n        return view.hidden[..., 0]\n",
    "selector": 'class F(tokensieve.Selector):\n    """Doc."""\n    name = "same"\n'
    "    def select(self, scores, available, counts, view):\n        return available\n",
    "merger": 'class F(tokensieve.Merger):\n    """Doc."""\n    name = "same"\n'
    "    def apply(self, kept, counts, view):\n        return None\n",
    "task": 'class F(tokensieve.Task):\n    """Doc."""\n    name = "same"\n'
    "    def examples(self, count, seed):\n        return []\n",
}
HOOK = "@tokensieve.hookimpl\ndef tokensieve_register(registry):\n"


@pytest.mark.parametrize("packages", [2, 3])
@pytest.mark.parametrize("kind", [*BODIES, "model", "pipeline"])
def test_packages_that_share_a_name(
    kind: str, packages: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugins._build.cache_clear()
    owners = [f"gate-{kind}-{packages}-{letter}" for letter in "abc"[:packages]]
    write(tmp_path / "files" / "same.yaml", "at: 1\nscore: ttv\nkeep: 0.5\n")
    adds = {"model": 'registry.add_model("same", "x")', "pipeline":
            f'registry.add_pipelines({str(tmp_path / "files")!r})'}  # fmt: skip
    for owner in owners:
        own = 'class O(tokensieve.Scorer):\n    """Doc."""\n' + f'    name = "{owner}"\n'
        own += "    def score(self, view):\n        return view.hidden[..., 0]\n"
        hook = f"{HOOK}    registry.add(O)\n    {adds.get(kind, 'registry.add(F)')}\n"
        install(tmp_path, monkeypatch, owner, HEAD + BODIES.get(kind, "") + own + hook)
    try:
        registry = build_registry()
        refused(lambda: registry.get(kind, "same"), *owners)
        assert [problem for problem in registry.problems if all(o in problem for o in owners)]
        assert "same" not in registry.entries[kind]
        assert set(owners) <= set(registry.entries["scorer"])  # what they do not share stays
    finally:
        plugins._build.cache_clear()


def test_one_package_that_takes_a_name_twice_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(owner="one")
    registry.add_model("same", "x")
    refused(lambda: registry.add_model("same", "y"), "'one'")


__all__ = ["Own", "TaskError", "itertools"]
