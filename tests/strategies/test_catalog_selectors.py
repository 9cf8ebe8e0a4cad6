"""Every selector keeps exactly the tokens that the slow references keep, image by image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from references import greedy, selections
from references.answers import (
    BUDGETS,
    CASES,
    chosen,
    counts_of,
    expected,
    in_turn,
    mask_of,
    mmtok,
    taken,
)
from references.batches import Image, arranged, batch_of, padded_scores, places, valid_of, view_of
from references.formulas import cosine, top_k

from tokensieve.strategies.selectors.bottom_k import BottomKSelector
from tokensieve.strategies.selectors.composite import CompositeSelector
from tokensieve.strategies.selectors.coverage import CoverageSelector
from tokensieve.strategies.selectors.dpp import DppSelector
from tokensieve.strategies.selectors.max_min import MaxMinSelector
from tokensieve.strategies.selectors.top_k import TopKSelector


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("name", CASES)
def test_selector_keeps_the_tokens_of_its_reference(name: str, budget: str) -> None:
    selector, reference = CASES[name]
    for seed in range(3):
        images = batch_of(seed)
        counts = counts_of(budget, images)
        assert chosen(selector, images, counts) == expected(reference, images, counts)
        assert taken(selector, images, counts) == in_turn(reference, images, counts)


def top_in_turn(image: Image, count: int) -> list[int]:
    return selections.best_first(image.scores, top_k(image.scores, count))


COVERING = {
    "coverage",
    "coverage balanced",
    "facility location",
}  # sums that tie on paper, but not in floating point


@pytest.mark.parametrize("budget", ["one", "third", "mixed"])
@pytest.mark.parametrize("name", sorted(CASES.keys() - COVERING))
def test_selector_breaks_ties_like_its_reference(name: str, budget: str) -> None:
    """Every vector is there twice and scores are equal; budgets below the rank of the features."""
    selector, reference = CASES[name]
    for seed in range(3):
        images = batch_of(seed, tied=True)
        counts = [max(1, min(k, len(i.scores) // 3)) for k, i in zip(
            counts_of(budget, images), images, strict=True)]  # fmt: skip
        assert taken(selector, images, counts) == in_turn(reference, images, counts)


@pytest.mark.parametrize("text", [True, False])
def test_coverage_gains_most_at_every_step_and_takes_the_first_of_copies(text: bool) -> None:
    selector = CoverageSelector(text=text)
    for seed in range(4):
        images = batch_of(seed, (27, 24, 14), tied=True)
        steps = [chosen(selector, images, [count] * 3) for count in range(1, 9)]
        for image, *kept in zip(images, *steps, strict=True):
            rows, half = mmtok(image, text), (len(image.scores) + 1) // 2
            before: list[int] = []
            for now in kept:
                (new,) = set(now) - set(before)
                gain = np.maximum(rows - rows[:, before].max(axis=1, initial=0)[:, None], 0).sum(0)
                assert gain[new] == pytest.approx(gain.max(), abs=1e-12)
                assert new < half or new - half in before
                before = now


def test_selectors_that_know_one_order_only() -> None:
    """`order` tells what follows from the scores; a greedy choice has its order when it is made."""
    images = batch_of(15, tied=True)
    counts = counts_of("third", images)
    top = [top_in_turn(image, count) for image, count in zip(images, counts, strict=True)]
    assert taken(TopKSelector(), images, counts) == top
    with pytest.raises(NotImplementedError, match="take_in_order"):
        MaxMinSelector().order(padded_scores(images), valid_of(images), view_of(images))


# --- what earlier parts took ----------------------------------------------------------------------

GREEDY: dict[str, tuple[Any, Callable[[Image, int, list[int]], list[int]]]] = {
    "max-min": ("max-min", lambda i, k, taken: greedy.max_min(i["hidden"], k, taken)),
    "dpp": (
        "dpp",
        lambda i, k, taken: greedy.dpp_map(
            i["hidden"], greedy.minmax_quality(i.scores), k, taken
        ),
    ),
    "scope": (
        "scope",
        lambda i, k, taken: greedy.scope(i["vision_features"], i.scores, k, taken),
    ),
    "coverage": ("coverage", lambda i, k, taken: greedy.coverage(mmtok(i), k, taken)),
}  # fmt: skip


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("name", GREEDY)
def test_greedy_selectors_know_what_was_taken(name: str, budget: str) -> None:
    """Images whose first share rounds down to nothing begin anew, next to others that do not."""
    selector, reference = GREEDY[name]
    composite = CompositeSelector.model_validate({"parts": [{"share": 0.4}, {"select": selector}]})

    def both(image: Image, count: int) -> list[int]:
        first = top_in_turn(image, int(count * 0.4 + 1e-9))
        return first + reference(image, count - len(first), first)

    for seed in range(3):
        images = batch_of(10 + seed)
        counts = counts_of(budget, images)
        assert taken(composite, images, counts) == in_turn(both, images, counts)


def test_max_min_breaks_ties_behind_an_earlier_part() -> None:
    composite = CompositeSelector.model_validate({"parts": [{"share": 0.4}, {"select": "max-min"}]})

    def both(image: Image, count: int) -> list[int]:
        first = top_in_turn(image, int(count * 0.4 + 1e-9))
        return first + greedy.max_min(image["hidden"], count - len(first), first)

    for seed in range(4):
        images = batch_of(10 + seed, tied=True)
        for budget in BUDGETS:
            counts = counts_of(budget, images)
            assert taken(composite, images, counts) == in_turn(both, images, counts)


def test_a_part_of_a_part_knows_all_that_was_taken() -> None:
    images = batch_of(4)
    inner = {"selector": "composite", "parts": [{"share": 0.5, "select": "bottom-k"},
                                                {"select": "max-min"}]}  # fmt: skip
    outer = CompositeSelector.model_validate({"parts": [{"share": 0.3}, {"select": inner}]})

    def nested(image: Image, count: int) -> list[int]:
        best = top_in_turn(image, int(count * 0.3 + 1e-9))
        rest, left = selections.without(len(image.scores), best), count - len(best)
        worst = [rest[place] for place in selections.bottom_k(image.scores[rest], left // 2)]
        return best + worst + greedy.max_min(image["hidden"], left - left // 2, best + worst)

    for budget in BUDGETS:
        counts = counts_of(budget, images)
        assert taken(outer, images, counts) == in_turn(nested, images, counts)


@pytest.mark.parametrize(("tokens", "count"), [(144, 32), (145, 32), (100, 61), (61, 7), (30, 29)])
def test_vispruner(tokens: int, count: int) -> None:
    """Chaotic, so in float64: half by score, the rest thinned out; odd remainders included."""
    images = batch_of(5, (tokens, tokens - 7, tokens // 2))
    composite = CompositeSelector.model_validate({"parts": [{"share": 0.5}, {"select": "dedupe"}]})
    counts = [min(count, len(image.scores)) for image in images]

    def both(image: Image, wanted: int) -> list[int]:
        return selections.vispruner(image.scores, image["vision_features"], wanted, 0.5)

    assert taken(composite, images, counts) == in_turn(both, images, counts)


# --- determinants ---------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", range(2, 9))
def test_every_step_of_dpp_enlarges_the_determinant_most(tokens: int) -> None:
    images = batch_of(6, (tokens,) * 4)
    for image in images:
        image.tensors["hidden"][:, 2:] *= 0.3  # cosines far from 0
    steps = [chosen(DppSelector(quality="none"), images, [k] * 4) for k in range(1, tokens + 1)]
    for number, image in enumerate(images):
        kernel = greedy.dpp_kernel(image["hidden"], image.scores)
        before: set[int] = set()
        for step in steps:
            now = set(step[number])
            assert before < now
            free = set(range(tokens)) - before
            value = {t: np.linalg.det(kernel[np.ix_([*before, t], [*before, t])]) for t in free}
            assert now - before == {max(value, key=lambda token: value[token])}
            before = now
        best = greedy.best_subset(image["hidden"], image.scores, 1)
        assert steps[0][number] == best


def test_dpp_finds_the_best_subset_where_tokens_hardly_overlap() -> None:
    images = batch_of(7, (8, 7, 6))
    for image in images:
        image.tensors["hidden"][:] = np.eye(WIDTH := image["hidden"].shape[1])[: len(image.scores)]
        image.tensors["hidden"][0, : WIDTH // 4] += 0.1
    for count in (2, 3, 5):
        theirs = [greedy.best_subset(image["hidden"], image.scores, count) for image in images]
        assert chosen(DppSelector(quality="none"), images, [count] * 3) == theirs


def test_dpp_ranks_tokens_whose_quality_is_a_thousandth_of_the_best() -> None:
    """Attention often has a few tokens far above all others."""
    images = batch_of(8, (20, 12))
    for image in images:
        image.scores[3:] *= 3e-4
    for quality, made in (("minmax", greedy.minmax_quality), ("none", lambda scores: scores)):
        selector = DppSelector.model_validate({"quality": quality})
        theirs = [greedy.dpp_map(i["hidden"], made(i.scores), 8) for i in images]
        assert chosen(selector, images, [8, 8]) == [sorted(kept) for kept in theirs]


def test_dpp_is_conditioned_on_taken_tokens_whatever_their_quality() -> None:
    images = batch_of(9, (16, 10))
    for image in images:
        image["hidden"][1::2] = image["hidden"][::2] + 0.2 * image["hidden"][1::2]
        image.scores[::4] *= 1e-7
    taken = [[0, 4, 8], [0, 8]]
    view = view_of(images).after(mask_of(taken, images))
    available = valid_of(images) & ~mask_of(taken, images)
    selector = DppSelector(quality="none")
    kept = selector.select(padded_scores(images), available, [4, 4], view)
    assert places(kept) == [
        sorted(greedy.dpp_map(image["hidden"], image.scores, 4, before))
        for image, before in zip(images, taken, strict=True)
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dpp_takes_copies_last_and_by_index(dtype: torch.dtype) -> None:
    """Copies of what an earlier part took as well; a singular kernel is no error."""
    images = batch_of(11, (12, 12), tied=True)
    for image in images:
        image.tensors["hidden"] = np.eye(32)[[0, 0, 1, 1, 2, 2, 0, 3, 3, 4, 0, 0]]
        image.scores[:] = 1
    view = view_of(images, more={"hidden": view_of(images).hidden.to(dtype)})
    taken = mask_of([[1, 6], []], images)
    available, scores = valid_of(images) & ~taken, padded_scores(images).to(dtype)
    for count in range(1, 11):
        kept = DppSelector().select(scores, available, [count] * 2, view.after(taken))
        order = [[2, 4, 7, 9, 0, 3, 5, 8, 10, 11], [0, 2, 4, 7, 9, 1, 3, 5, 6, 8]]
        assert places(kept) == [sorted(row[:count]) for row in order]


def test_dpp_takes_what_is_spanned_by_index() -> None:
    """Behind the rank of the features every determinant is zero, whatever rounding left of it."""
    images = batch_of(13, (14, 10, 9))
    for image in images:
        image["hidden"][:, 3:] = 0
    first = [greedy.dpp_map(image["hidden"], image.scores, 3) for image in images]
    for count in range(3, 8):
        kept = chosen(DppSelector(quality="none"), images, [count] * 3)
        for tokens, three in zip(kept, first, strict=True):
            others = [token for token in range(9) if token not in three]
            assert tokens == sorted([*three, *others[: count - 3]])


def test_dpp_takes_the_worst_token_before_copies() -> None:
    """Its quality is above 0 by a hair."""
    images = batch_of(14, (4,))
    images[0].tensors["hidden"] = np.eye(32)[[0, 0, 0, 1]]
    images[0].scores[:] = [3, 3, 3, 1]
    assert chosen(DppSelector(), images, [2]) == [[0, 3]]


def test_max_min_is_exhaustive() -> None:
    """Nearest neighbors by hand, without :mod:`references.greedy`."""
    image = batch_of(12, (9,))[0]
    apart = [[1 - cosine(one, other) for other in image["hidden"]] for one in image["hidden"]]
    alone = [min(row[:t] + row[t + 1 :]) for t, row in enumerate(apart)]
    kept = [alone.index(max(alone))]
    for count in range(1, 9):
        assert chosen(MaxMinSelector(), [image], [count]) == [sorted(kept)]
        free = [token for token in range(9) if token not in kept]
        kept.append(max(free, key=lambda token: min(apart[token][t] for t in kept)))


def test_bottom_k_orders_the_worst_first() -> None:
    images = batch_of(71, tied=True)
    selector, scores = BottomKSelector(), padded_scores(images)
    kept = selector.select(scores, valid_of(images), [4, 4, 4, 1, 7], view_of(images))
    assert arranged(kept, selector.order(scores, kept, view_of(images))) == [
        sorted(tokens, key=lambda token, image=image: (image.scores[token], token))  # type: ignore[misc]
        for tokens, image in zip(places(kept), images, strict=True)
    ]
