"""Selectors that go by place, part or threshold, against the slow references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from references import selections
from references.answers import by_windows, chosen, in_slices, in_windows, taken, vscan
from references.batches import (
    Image,
    arranged,
    batch_of,
    padded_scores,
    valid_of,
    view_of,
    width_of,
)

from tokensieve.strategies.partitions import divided
from tokensieve.strategies.selectors.dilated import DilatedSelector
from tokensieve.strategies.selectors.partitioned import PartitionedSelector
from tokensieve.strategies.selectors.threshold import ThresholdSelector
from tokensieve.strategies.selectors.windowed import WindowedSelector

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
            assert taken(DilatedSelector(share=share), images, [count] * 3, view) == theirs


def test_dilated_ignores_an_extra_token() -> None:
    """It is no neighbor of the first token, and as an anchor it has none."""
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
    turns = selector.take_in_order(padded_scores(images), valid_of(images), [10, 9], view)
    assert arranged(turns > 0, turns) == [
        selections.dilated(anchors, i.scores, range(len(anchors)), 5, count, 0.6)
        for i, anchors, count in zip(images, own, (10, 9), strict=True)
    ]


def test_tokens_of_tiles_at_the_same_place_share_a_window() -> None:
    images = batch_of(32, (32,))
    images[0].tensors["grid"] = np.array([[n % 16 // 4, n % 4] for n in range(32)])
    theirs = by_windows(images[0], 20, 0.8, 2, 2)
    assert taken(WindowedSelector(share=0.8, windows=(2, 2)), images, [20]) == [theirs]


@pytest.mark.parametrize("count", [16, 31, 72, 100])
def test_the_released_vscan_takes_less_than_its_budget(count: int) -> None:
    """Where 16 windows do not divide half of it, or have fewer tokens than that: 68 of 72."""
    selector = WindowedSelector(rest="drop")
    for seed in range(3):
        images = batch_of(33 + seed, (144, 110))
        theirs = [vscan(image, count, released=True) for image in images]
        assert taken(selector, images, [count] * 2) == theirs
        if count == 72:
            assert len(theirs[0]) == 68
        assert WindowedSelector.adaptive_count is False
        assert selector.adaptive_count


@pytest.mark.parametrize("slices", [2, 4, 16])
def test_the_released_holov_loses_what_does_not_fit(slices: int) -> None:
    """Its zero vectors are no tokens; with a peak some slices have more budget than tokens."""
    selector, lost = PartitionedSelector(parts=slices, overflow="drop"), 0
    for seed in range(4):
        images = batch_of(46 + seed, (12 * slices, 7 * slices + 3, 5 * slices))
        for image in images:
            image.scores[len(image.scores) // 3 :][:5] *= 40
        for share in (0.1, 0.35, 0.8):
            counts = [int(share * len(image.scores)) for image in images]
            theirs = [
                selections.holov(image.scores, image["hidden"], count, slices, released=True)
                for image, count in zip(images, counts, strict=True)
            ]
            assert taken(selector, images, counts) == theirs
            lost += sum(counts) - sum(len(tokens) for tokens in theirs)
    assert lost > 0


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
            turns = selector.take_in_order(scores, valid_of(images), counts, view_of(images))
            assert arranged(turns > 0, turns) == [
                selections.holov(image.scores, image["hidden"], count, slices)
                for image, count in zip(images, counts, strict=True)
            ]


@pytest.mark.parametrize(
    ("weights", "room"),
    [
        ([5, 1, 3], [2, 4, 4]),
        ([0, 0, 0], [4, 4, 4]),
        ([0, 0, 0], [1, 3, 3]),
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


def test_equal_parts_leave_out_an_empty_window() -> None:
    image = batch_of(52, (12,))[0]
    image.tensors["grid"] = np.array([[n // 4, n % 4] for n in range(16) if n not in (0, 1, 4, 5)])
    selector = PartitionedSelector(parts=4, divide="windows", allocate="equal")
    (kept,) = chosen(selector, [image], [7])
    labels = in_windows(image, 2, 2)
    assert [sum(labels[token] == part for token in kept) for part in range(4)] == [0, 3, 2, 2]


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
        turns = selector.take_in_order(scores, valid_of(images), counts, view)
        theirs = []
        for image, count in zip(images, counts, strict=True):
            found = selections.best_first(image.scores, selections.outliers(image.scores))
            both = selections.outliers_with_grid(image.scores)
            theirs.append([*found, *[t for t in both if t not in found]][:count])
        assert arranged(turns > 0, turns) == theirs


@pytest.mark.parametrize(("ratio", "share"), [(8, 0.125), (3, 1 / 3), (10, 0.1)])
def test_a_fixed_ratio_with_its_grid(ratio: int, share: float) -> None:
    """One in eight by score and every eighth token; what is in both stands once."""
    selector = ThresholdSelector(rule="share", value=share, grid=True)
    for seed in range(3):
        images = batch_of(65 + seed, (576, 145, 30, 1), tied=seed == 2)
        counts = [len(image.scores) for image in images]
        theirs = [selections.share_with_grid(image.scores, ratio) for image in images]
        assert taken(selector, images, counts) == theirs
        assert len(set(theirs[0])) == len(theirs[0]) <= 2 * (576 // ratio)
        best = [selections.best_first(i.scores, range(len(i.scores))) for i in images]
        plain = taken(ThresholdSelector(rule="share", value=share), images, counts)
        assert plain == [b[: max(1, len(b) // ratio)] for b in best]


def test_a_share_lies_between_nothing_and_all() -> None:
    for value in (0.0, 1.5):
        with pytest.raises(ValueError, match="a share lies above 0"):
            ThresholdSelector(rule="share", value=value)


def test_outliers_without_grid() -> None:
    selector = ThresholdSelector(rule="iqr", value=1.5)
    images = peaked(70)
    counts = [len(image.scores) for image in images]
    theirs = [selections.outliers(image.scores) for image in images]
    assert chosen(selector, images, counts) == theirs
    assert [len(tokens) for tokens in theirs] == [1, 2, 1, 1, 1]
