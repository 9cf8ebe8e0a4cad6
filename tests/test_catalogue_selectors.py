"""Every selector keeps exactly the tokens that the slow references keep, image by image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from references import greedy, selections
from references.batches import (
    TOKENS,
    Image,
    arranged,
    batch_of,
    padded_scores,
    places,
    valid_of,
    view_of,
    width_of,
)
from references.formulas import Array, cosine, top_k

from tokensieve.core.components import Selector
from tokensieve.core.view import View
from tokensieve.strategies.partitions import divided
from tokensieve.strategies.selectors.bottom_k import BottomKSelector
from tokensieve.strategies.selectors.composite import CompositeSelector
from tokensieve.strategies.selectors.coverage import CoverageSelector
from tokensieve.strategies.selectors.dedupe import DedupeSelector
from tokensieve.strategies.selectors.dilated import DilatedSelector
from tokensieve.strategies.selectors.dpp import DppSelector
from tokensieve.strategies.selectors.max_min import MaxMinSelector
from tokensieve.strategies.selectors.partitioned import PartitionedSelector
from tokensieve.strategies.selectors.pivots import PivotsSelector
from tokensieve.strategies.selectors.threshold import ThresholdSelector
from tokensieve.strategies.selectors.windowed import WindowedSelector

Reference = Callable[[Image, int], Sequence[int]]

BUDGETS: dict[str, Callable[[int, int], int]] = {
    "one": lambda _image, _tokens: 1,
    "third": lambda _image, tokens: max(1, tokens // 3),
    "mixed": lambda image, tokens: max(1, tokens * (image + 2) // 6 - image),
    "all but one": lambda _image, tokens: max(1, tokens - 1),
    "all": lambda _image, tokens: tokens,
}


def counts_of(budget: str, images: Sequence[Image]) -> list[int]:
    return [BUDGETS[budget](number, len(image.scores)) for number, image in enumerate(images)]


def chosen(
    selector: Selector, images: Sequence[Image], counts: list[int], view: View | None = None
) -> list[list[int]]:
    reader = (view or view_of(images)).for_component(selector)
    return places(selector.select(padded_scores(images), valid_of(images), counts, reader))


def expected(reference: Reference, images: Sequence[Image], counts: list[int]) -> list[list[int]]:
    pairs = zip(images, counts, strict=True)
    return [sorted(reference(image, count)) for image, count in pairs]


def mmtok(image: Image, text: bool = True) -> Array:
    words = image.asked("embeddings") if text else image.asked("embeddings")[:0]
    return greedy.mmtok_rows(words, image["embeddings"], image["vision_features"])


def dart(image: Image, count: int, own: int = 4, words: int = 4) -> list[int]:
    return selections.pivots(
        np.abs(image["previous_keys"]).sum(axis=1),
        np.abs(image.asked("previous_keys")).sum(axis=1),
        image["normed_states"],
        image.asked("normed_states"),
        count,
        own,
        words,
    )


def columns_of(image: Image) -> int:
    return int(image.grid[:, 1].max()) + 1


def hiprune(image: Image, count: int, share: float) -> list[int]:
    index = range(len(image.scores))
    return selections.dilated(image.scores, image.scores, index, columns_of(image), count, share)


def in_windows(image: Image, down: int, across: int) -> list[int]:
    rows, columns = (int(size) + 1 for size in image.grid.max(axis=0))
    return [int(r) * down // rows * across + int(c) * across // columns for r, c in image.grid]


def vscan(image: Image, count: int) -> list[int]:
    rows, columns = (int(size) + 1 for size in image.grid.max(axis=0))
    at_rows, at_columns = image.grid.T.tolist()
    return selections.vscan(image.scores, image.scores, at_rows, at_columns, rows, columns, count)


def by_windows(image: Image, count: int, share: float, down: int, across: int) -> list[int]:
    labels, each = in_windows(image, down, across), int(count * share + 1e-9) // (down * across)
    first: list[int] = []
    for window in range(down * across):
        inside = [token for token, label in enumerate(labels) if label == window]
        first += selections.best_first(image.scores, inside)[:each]
    rest = selections.without(len(image.scores), first)
    return first + selections.best_first(image.scores, rest)[: count - len(first)]


def by_parts(image: Image, count: int, labels: Sequence[int], parts: int) -> list[int]:
    """The share of each part by its mean score, its tokens as in HoloV; in output order."""
    inside = [[t for t, label in enumerate(labels) if label == part] for part in range(parts)]
    weights = [float(image.scores[part].mean()) if part else 0.0 for part in inside]
    shares = selections.holov_shares(weights, [len(part) for part in inside], count)
    kept: list[int] = []
    for part, share in zip(inside, shares, strict=True):
        best = selections.best_first(image.scores, part)
        kept += part if share == len(part) else best[:share]
    return kept


def in_slices(image: Image, parts: int) -> list[int]:
    return [place * parts // len(image.scores) for place in range(len(image.scores))]


CASES: dict[str, tuple[Selector, Reference]] = {
    "bottom-k": (BottomKSelector(), lambda i, k: selections.bottom_k(i.scores, k)),
    "max-min": (MaxMinSelector(), lambda i, k: greedy.max_min(i["hidden"], k)),
    "max-min keys": (
        MaxMinSelector(features="vision_keys"),
        lambda i, k: greedy.max_min(i["vision_keys"], k),
    ),
    "max-min normed": (
        MaxMinSelector(features="normed_states"),
        lambda i, k: greedy.max_min(i["normed_states"], k),
    ),
    "dpp": (
        DppSelector(),
        lambda i, k: greedy.dpp_map(i["hidden"], greedy.minmax_quality(i.scores), k),
    ),
    "dpp raw": (DppSelector(quality="none"), lambda i, k: greedy.dpp_map(i["hidden"], i.scores, k)),
    "coverage": (CoverageSelector(), lambda i, k: greedy.coverage(mmtok(i), k)),
    "facility location": (
        CoverageSelector(text=False),
        lambda i, k: greedy.coverage(mmtok(i, text=False), k),
    ),
    "dedupe": (
        DedupeSelector(),
        lambda i, k: selections.dedupe(i["vision_features"], i.scores, k),
    ),
    "pivots": (PivotsSelector(), dart),
    "pivots 2+9": (
        PivotsSelector(image_pivots=2, text_pivots=9),
        lambda i, k: dart(i, k, own=2, words=9),
    ),
    "pivots 5+0": (
        PivotsSelector(image_pivots=5, text_pivots=0),
        lambda i, k: dart(i, k, own=5, words=0),
    ),
    "dilated": (DilatedSelector(share=1.0), lambda i, k: hiprune(i, k, 1.0)),
    "dilated .4": (DilatedSelector(share=0.4), lambda i, k: hiprune(i, k, 0.4)),
    "windowed": (WindowedSelector(), vscan),
    "windowed 2x3": (
        WindowedSelector(share=0.7, windows=(2, 3)),
        lambda i, k: by_windows(i, k, 0.7, 2, 3),
    ),
    "partitioned": (
        PartitionedSelector(parts=3),
        lambda i, k: by_parts(i, k, in_slices(i, 3), 3),
    ),
    "partitioned 16": (
        PartitionedSelector(),
        lambda i, k: by_parts(i, k, in_slices(i, 16), 16),
    ),
    "partitioned windows": (
        PartitionedSelector(parts=6, divide="windows"),
        lambda i, k: by_parts(i, k, in_windows(i, 2, 3), 6),
    ),
}


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("name", CASES)
def test_selector_keeps_the_tokens_of_its_reference(name: str, budget: str) -> None:
    selector, reference = CASES[name]
    for seed in range(3):
        images = batch_of(seed)
        counts = counts_of(budget, images)
        assert chosen(selector, images, counts) == expected(reference, images, counts)


COVERING = {"coverage", "facility location"}  # sums that tie on paper, but not in floating point


@pytest.mark.parametrize("budget", ["one", "third", "mixed"])
@pytest.mark.parametrize("name", sorted(CASES.keys() - COVERING))
def test_selector_breaks_ties_like_its_reference(name: str, budget: str) -> None:
    """Every vector is there twice and scores are equal; budgets below the rank of the features."""
    selector, reference = CASES[name]
    for seed in range(3):
        images = batch_of(seed, tied=True)
        counts = [max(1, min(k, len(i.scores) // 3)) for k, i in zip(
            counts_of(budget, images), images, strict=True)]  # fmt: skip
        assert chosen(selector, images, counts) == expected(reference, images, counts)


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


# --- what earlier parts took ----------------------------------------------------------------------

GREEDY: dict[str, tuple[Any, Callable[[Image, int, list[int]], list[int]]]] = {
    "max-min": ("max-min", lambda i, k, taken: greedy.max_min(i["hidden"], k, taken)),
    "dpp": (
        "dpp",
        lambda i, k, taken: greedy.dpp_map(
            i["hidden"], greedy.minmax_quality(i.scores), k, taken
        ),
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
        first = top_k(image.scores, int(count * 0.4 + 1e-9))
        return first + reference(image, count - len(first), first)

    for seed in range(3):
        images = batch_of(10 + seed)
        counts = counts_of(budget, images)
        assert chosen(composite, images, counts) == expected(both, images, counts)


def test_max_min_breaks_ties_behind_an_earlier_part() -> None:
    composite = CompositeSelector.model_validate({"parts": [{"share": 0.4}, {"select": "max-min"}]})

    def both(image: Image, count: int) -> list[int]:
        first = top_k(image.scores, int(count * 0.4 + 1e-9))
        return first + greedy.max_min(image["hidden"], count - len(first), first)

    for seed in range(4):
        images = batch_of(10 + seed, tied=True)
        for budget in BUDGETS:
            counts = counts_of(budget, images)
            assert chosen(composite, images, counts) == expected(both, images, counts)


def test_a_part_of_a_part_knows_all_that_was_taken() -> None:
    images = batch_of(4)
    inner = {"selector": "composite", "parts": [{"share": 0.5, "select": "bottom-k"},
                                                {"select": "max-min"}]}  # fmt: skip
    outer = CompositeSelector.model_validate({"parts": [{"share": 0.3}, {"select": inner}]})

    def nested(image: Image, count: int) -> list[int]:
        best = top_k(image.scores, int(count * 0.3 + 1e-9))
        rest, left = selections.without(len(image.scores), best), count - len(best)
        worst = [rest[place] for place in selections.bottom_k(image.scores[rest], left // 2)]
        return best + worst + greedy.max_min(image["hidden"], left - left // 2, best + worst)

    for budget in BUDGETS:
        counts = counts_of(budget, images)
        assert chosen(outer, images, counts) == expected(nested, images, counts)


@pytest.mark.parametrize(("tokens", "count"), [(144, 32), (145, 32), (100, 61), (61, 7), (30, 29)])
def test_vispruner(tokens: int, count: int) -> None:
    """Chaotic, so in float64: half by score, the rest thinned out; odd remainders included."""
    images = batch_of(5, (tokens, tokens - 7, tokens // 2))
    composite = CompositeSelector.model_validate({"parts": [{"share": 0.5}, {"select": "dedupe"}]})
    counts = [min(count, len(image.scores)) for image in images]

    def both(image: Image, wanted: int) -> list[int]:
        return selections.vispruner(image.scores, image["vision_features"], wanted, 0.5)

    assert chosen(composite, images, counts) == expected(both, images, counts)


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


def mask_of(marked: Sequence[Sequence[int]], images: Sequence[Image]) -> torch.Tensor:
    mask = torch.zeros(len(images), width_of(images), dtype=torch.bool)
    for row, tokens in zip(mask, marked, strict=True):
        row[list(tokens)] = True
    return mask


def test_max_min_is_exhaustive() -> None:
    """Nearest neighbours by hand, without :mod:`references.greedy`."""
    image = batch_of(12, (9,))[0]
    apart = [[1 - cosine(one, other) for other in image["hidden"]] for one in image["hidden"]]
    alone = [min(row[:t] + row[t + 1 :]) for t, row in enumerate(apart)]
    kept = [alone.index(max(alone))]
    for count in range(1, 9):
        assert chosen(MaxMinSelector(), [image], [count]) == [sorted(kept)]
        free = [token for token in range(9) if token not in kept]
        kept.append(max(free, key=lambda token: min(apart[token][t] for t in kept)))


# --- places ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.3, 1.0, 1.0 / 3])
def test_dilated_after_an_earlier_prune(share: float) -> None:
    """The index has gaps, starts late for a second image, and holds an extra token."""
    generator = np.random.default_rng(3)
    for seed in range(6):
        images = batch_of(20 + seed, (17, 12, 9))
        index = []
        for number, image in enumerate(images):
            alive = sorted(generator.choice(29, len(image.scores) - 1, replace=False).tolist())
            alive.append(29)  # the last column is still there
            image.tensors["grid"] = np.array([[place // 6, place % 6] for place in alive])
            index.append([place + 40 * number for place in alive])
        for count in (1, 5, 7, 9):
            theirs = [
                selections.dilated(i.scores, i.scores, row, 6, count, share)
                for i, row in zip(images, index, strict=True)
            ]
            view = view_of(images, index=index)
            assert chosen(DilatedSelector(share=share), images, [count] * 3, view) == theirs


def test_dilated_ignores_an_extra_token() -> None:
    """It is no neighbour of the first token, and as an anchor it has none."""
    images = batch_of(30, (6,))
    images[0].scores[:] = [9, 1, 2, 3, 8, 5]
    images[0].tensors["grid"] = np.array([[0, 0], [0, 0], [0, 1], [0, 2], [1, 0], [1, 1]])
    view = view_of(images, index=[[-1, 0, 1, 2, 3, 4]])
    assert chosen(DilatedSelector(share=1.0), images, [5], view) == [[0, 2, 3, 4, 5]]
    images[0].scores[:2] = [0, 9]
    assert chosen(DilatedSelector(share=1.0), images, [5], view) == [[1, 2, 3, 4, 5]]


def test_first_choice_selectors_take_another_score() -> None:
    images = batch_of(31, (25, 20))
    own = [image["vision_keys"][:, 0] for image in images]
    attention = torch.zeros(2, width_of(images), 1, dtype=torch.float64)
    for row, values in zip(attention, own, strict=True):
        row[: len(values), 0] = torch.from_numpy(values)

    class Layer:
        def attention(self, _kind: str = "auto", *, joined: bool = False) -> torch.Tensor:
            return attention

    view = view_of(images, more={"encoder_layers": lambda _depth: Layer()})
    selector = DilatedSelector.model_validate({"share": 0.6, "score": "cls-attention"})
    mask = selector.select(padded_scores(images), valid_of(images), [10, 9], view)
    assert places(mask) == [
        selections.dilated(anchors, i.scores, range(len(anchors)), 5, count, 0.6)
        for i, anchors, count in zip(images, own, (10, 9), strict=True)
    ]


def test_tokens_of_tiles_at_the_same_place_share_a_window() -> None:
    images = batch_of(32, (32,))
    images[0].tensors["grid"] = np.array([[n % 16 // 4, n % 4] for n in range(32)])
    theirs = by_windows(images[0], 20, 0.8, 2, 2)
    assert chosen(WindowedSelector(share=0.8, windows=(2, 2)), images, [20]) == [sorted(theirs)]


# --- HoloV ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("peak", [1, 40])
@pytest.mark.parametrize("slices", [2, 4, 16])
def test_holov(slices: int, peak: float) -> None:
    """The variance term, which is in the reference, decides nothing; with a peak slices overflow.

    Output order slice by slice, most attended first, slices that are kept whole in raster order.
    """
    sizes = (12 * slices, 7 * slices + 3, 5 * slices)
    for seed in range(4):
        images = batch_of(40 + seed, sizes)
        for image in images:
            image.scores[len(image.scores) // 3 :][:5] *= peak
        selector = PartitionedSelector(parts=slices)
        for share in (0.1, 0.35, 0.8):
            counts = [int(share * len(image.scores)) for image in images]
            scores = padded_scores(images)
            kept = selector.select(scores, valid_of(images), counts, view_of(images))
            assert arranged(kept, selector.order(scores, kept, view_of(images))) == [
                selections.holov(image.scores, image["hidden"], count, slices)
                for image, count in zip(images, counts, strict=True)
            ]


@pytest.mark.parametrize(
    ("weights", "room"),
    [
        ([5, 1, 3], [2, 4, 4]),
        ([0, 0, 0], [4, 4, 4]),
        ([9, 0, 0, 1], [1, 3, 0, 9]),
        ([1, 1, 1, 1, 1], [1, 2, 3, 4, 5]),
        ([2, 8, 8, 2], [20, 3, 1, 2]),
    ],
)
def test_overflow_is_dealt_out_round_by_round(weights: list[int], room: list[int]) -> None:
    for count in range(sum(room) + 1):
        ours = divided(torch.tensor([weights], dtype=torch.float64), torch.tensor([room]), [count])
        assert ours[0].tolist() == selections.holov_shares(weights, room, count)


def test_equal_parts_ignore_scores_and_empty_parts() -> None:
    images = batch_of(50, (25, 7, 3))
    selector = PartitionedSelector(parts=5, allocate="equal")
    kept = chosen(selector, images, [12, 6, 2])
    for image, tokens, count in zip(images, kept, (12, 6, 2), strict=True):
        labels = in_slices(image, 5)
        sizes = [labels.count(part) for part in range(5)]
        shares = selections.holov_shares([float(size > 0) for size in sizes], sizes, count)
        assert [sum(labels[t] == part for t in tokens) for part in range(5)] == shares


def test_parts_of_negative_scores_weigh_nothing() -> None:
    images = batch_of(51, (12,))
    images[0].scores[:] = [-1, -2, -3, -4, 1, 2, 3, 4, -9, -8, -7, -6]
    assert chosen(PartitionedSelector(parts=3), images, [4]) == [[4, 5, 6, 7]]


# --- threshold ------------------------------------------------------------------------------------


def peaked(seed: int) -> list[Image]:
    """1, 2, 1, 0 and 0 outliers stand out."""
    images = batch_of(seed, (93, 41, 25, 12, 1))
    for image, peaks in zip(images, ([50], [3, 30], [24], [], []), strict=True):
        image.scores[peaks] = 5 + np.arange(len(peaks))
    return images


@pytest.mark.parametrize("cap", [None, 1, 2, 4, 9])
@pytest.mark.parametrize("tied", [False, True])
def test_outliers_and_grid(cap: int | None, tied: bool) -> None:
    """All of them, and in falling order of score; under a cap the grid's last tokens go first."""
    selector = ThresholdSelector(rule="iqr", value=1.5, grid=True)
    for seed in range(3):
        images = batch_of(60 + seed, tied=True) if tied else peaked(60 + seed)
        counts = [min(cap or 999, len(image.scores)) for image in images]
        scores, view = padded_scores(images), view_of(images)
        kept = selector.select(scores, valid_of(images), counts, view)
        theirs = []
        for image, count in zip(images, counts, strict=True):
            found = selections.best_first(image.scores, selections.outliers(image.scores))
            both = selections.outliers_with_grid(image.scores)
            theirs.append([*found, *[t for t in both if t not in found]][:count])
        assert arranged(kept, selector.order(scores, kept, view)) == theirs


def test_outliers_without_grid() -> None:
    selector = ThresholdSelector(rule="iqr", value=1.5)
    images = peaked(70)
    counts = [len(image.scores) for image in images]
    theirs = [selections.outliers(image.scores) for image in images]
    assert chosen(selector, images, counts) == theirs
    assert [len(tokens) for tokens in theirs] == [1, 2, 1, 1, 1]


def test_bottom_k_orders_the_worst_first() -> None:
    images = batch_of(71, tied=True)
    selector, scores = BottomKSelector(), padded_scores(images)
    kept = selector.select(scores, valid_of(images), [4, 4, 4, 1, 7], view_of(images))
    assert arranged(kept, selector.order(scores, kept, view_of(images))) == [
        sorted(tokens, key=lambda token, image=image: (image.scores[token], token))  # type: ignore[misc]
        for tokens, image in zip(places(kept), images, strict=True)
    ]
    assert len(TOKENS) == len(images)
