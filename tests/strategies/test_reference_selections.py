"""The reference selection rules on cases small enough to work out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from references import greedy, selections
from references.formulas import Array


def vectors(*rows: tuple[float, ...]) -> Array:
    return np.array(rows, dtype=np.float64)


RIGHT, UP, LEFT, DOWN = (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)


def test_max_min_starts_with_the_loneliest_and_goes_farthest() -> None:
    features = vectors(RIGHT, (1, 0.1), UP, LEFT)
    # nearest others: .005, .005, .9, 1; from LEFT: 2, 1.995, 1; then only UP is far from both
    assert greedy.max_min(features, 4) == [3, 0, 2, 1]
    assert greedy.max_min(features, 2, selected=[0]) == [3, 2]
    assert greedy.max_min(features, 9, selected=[0, 3]) == [2, 1]


def test_max_min_ties_and_single_token() -> None:
    assert greedy.max_min(vectors(RIGHT, UP, LEFT, DOWN), 2) == [0, 2]
    assert greedy.max_min(vectors(UP), 1) == [0]


def test_minmax_quality() -> None:
    expected = [(2 + 1e-6) / 2, 1e-6 / 2, (1 + 1e-6) / 2]
    assert greedy.minmax_quality(np.array([3.0, 1.0, 2.0])) == pytest.approx(expected)
    assert greedy.minmax_quality(np.array([3.0, 3.0])).tolist() == [1, 1]


def test_dpp_map_and_the_best_subset_differ_where_greed_fails() -> None:
    features, quality = vectors(RIGHT, UP, (1, 1)), np.array([1, 1, 1.1])
    # the diagonal one alone is worth 1.21, with either other 1.21 * (1 - 1/2); the other two 1
    assert greedy.dpp_map(features, quality, 2) == [2, 0]
    assert greedy.best_subset(features, quality, 2) == [0, 1]
    assert greedy.dpp_map(features, quality, 1, selected=[0]) == [1]
    kernel = greedy.dpp_kernel(features, quality)
    assert math.exp(greedy.log_determinant(kernel, [2, 0])) == pytest.approx(0.605)


def test_dpp_map_never_takes_a_copy_before_something_new() -> None:
    assert greedy.dpp_map(vectors(RIGHT, RIGHT, UP), np.array([1.0, 2.0, 0.1]), 2) == [1, 2]


def test_coverage_is_greedy() -> None:
    rows = vectors((3, 0, 2), (0, 3, 2))
    assert greedy.coverage(rows, 2) == [2, 0]  # 4 before 3; then 3 + 2 either way
    assert greedy.coverage(rows, 2, selected=[0]) == [1, 2]
    assert greedy.coverage(vectors((1, 1, 1)), 2) == [0, 1]  # nothing left to gain


def test_scope_weighs_what_is_new_by_the_score() -> None:
    features = vectors(RIGHT, UP, (0.6, 0.8), LEFT)
    # sums of cosines that are not negative: 1.6, 1.8, 2.4, 1
    assert greedy.scope(features, np.ones(4), 1) == [2]
    assert greedy.scope(features, np.array([2.0, 1, 1, 3]), 1) == [0]  # 3.2 before 3
    # behind (.6, .8): what RIGHT adds is .4, UP .2, LEFT 1
    assert greedy.scope(features, np.ones(4), 4) == [2, 3, 0, 1]
    assert greedy.scope(features, np.array([1.0, 9, 1, 1]), 2, selected=[2]) == [1, 3]
    assert greedy.scope(features, np.array([1.0, 9, 1, 1]), 2, selected=[2], alpha=0) == [3, 0]
    assert greedy.scope(vectors(UP, UP, UP), np.ones(3), 3) == [0, 1, 2]


def test_mmtok_rows() -> None:
    rows = greedy.mmtok_rows(
        text=vectors((2, 0), (0, 3)),
        projected=vectors(RIGHT, UP),
        features=vectors(UP, RIGHT),
        text_temperature=0.5,
        vision_temperature=1,
    )
    near, far = math.e**2 / (math.e**2 + 1) / 2, 1 / (math.e**2 + 1) / 2
    same, other = 0.5 * math.e / (math.e + 1) / 2, 0.5 / (math.e + 1) / 2
    assert rows == pytest.approx(
        vectors((near, far), (far, near), (same, other), (other, same)), abs=1e-12
    )


def test_dedupe_reorders_the_even_places() -> None:
    # places 0, 2, 4 are 0, 1 and .6 like the nearest of places 1, 3, 5
    features = vectors((0, 0, 1), (*RIGHT, 0), (*RIGHT, 0), (*UP, 0), (0.6, 0, 0.8), (*UP, 0))
    scores = np.array([9.0, 8, 7, 6, 5, 4])
    assert selections.dedupe(features, scores, 5) == [4, 0, 1, 3, 5]
    assert selections.dedupe(features, scores, 6) == [0, 1, 2, 3, 4, 5]
    # the same list from tokens in reverse: the order of the scores counts, not the index
    assert selections.dedupe(features[::-1], scores[::-1], 5) == [1, 5, 4, 2, 0]


def test_dedupe_drops_eight_a_round_and_ties_by_place() -> None:
    features = np.ones((20, 2))
    # round 1 drops 0, 2 .. 14: [16 18 1 3 .. 19]; round 2 drops places 0 and 2: 16 and 1
    expected = [5, 9, 13, 17, 18, 3, 7, 11, 15, 19]
    assert selections.dedupe(features, np.zeros(20), 10) == expected


def test_dedupe_of_odd_and_tiny_lists() -> None:
    features, scores = np.ones((3, 2)), np.array([1.0, 3.0, 2.0])  # list: 1, 2, 0
    assert selections.dedupe(features, scores, 2) == [0, 2]
    assert selections.dedupe(features, scores, 1) == [2]
    assert selections.dedupe(features, scores, 0) == []


def test_vispruner() -> None:
    scores = np.array([1.0, 5, 4, 3, 2])
    # int(3 * .5) = 1: token 1; the list 2 3 4 0 loses both even places
    assert selections.vispruner(scores, np.ones((5, 2)), 3, 0.5) == [1, 3, 0]
    assert selections.vispruner(scores, np.ones((5, 2)), 3, 1.0) == [1, 2, 3]


def test_pivots() -> None:
    hidden = vectors(LEFT, RIGHT, (-1, -1), UP, (1, 1), LEFT, DOWN, (1, -1))
    norms, text_norms = np.array([1.0, 5, 2, 5, 1, 1, 1, 1]), np.array([1.0, 2, 2])
    text = vectors(UP, LEFT, UP)
    # pivots 1 and 3, and text 1; 4 to share: RIGHT takes 0 and 5, UP takes 6, LEFT takes 4
    assert selections.pivots(norms, text_norms, hidden, text, 6, 2, 1) == [1, 3, 0, 5, 6, 4]
    assert selections.pivots(norms, text_norms, hidden, text, 1, 2, 1) == [1]
    assert selections.pivots(norms, text_norms, hidden, text, 2, 0, 1) == [1, 4]  # LEFT takes both


def test_dilated_wraps_rows_and_clamps() -> None:
    corner, last = np.eye(9)[2], np.eye(9)[8]  # 3 x 3, the end of the first row; fill with 8
    grid = range(9)
    assert selections.dilated(corner, last, grid, 3, 5, 1) == [0, 1, 2, 3, 5]
    assert selections.dilated(corner, last, grid, 3, 6, 1) == [0, 1, 2, 3, 5, 8]
    assert selections.dilated(corner, last, grid, 3, 4, 1) == [0, 1, 2, 3]
    assert selections.dilated(corner, last, grid, 3, 5, 0.5) == [8, 0, 1, 2, 3]  # round(.5) = 0


def test_dilated_ignores_absent_neighbours() -> None:
    anchors, fill = np.array([0.0, 1, 0]), np.array([0.0, 0, 1])
    assert selections.dilated(anchors, fill, [10, 12, 20], 2, 2, 2.5) == [0, 1]
    assert selections.dilated(anchors, fill, [10, 12, 20], 5, 2, 2.5) == [0, 1]  # 7 is clamped


def test_windowed() -> None:
    scores = np.array([0.0, 9, 1, 1, 2, 3, 8, 1, 1, 1, 1, 1, 1, 5, 1, 7])
    rows, columns = [i // 4 for i in range(16)], [i % 4 for i in range(16)]
    assert selections.windowed(scores, rows, columns, 4, 4, 2, 2, 1) == [1, 6, 13, 15]
    # a row of three in two windows: columns 0 and 1, and column 2
    assert selections.windowed(np.ones(3), [0, 0, 0], [0, 1, 2], 1, 3, 1, 2, 1) == [0, 2]


def test_vscan_fills_up_to_the_count() -> None:
    index = np.arange(64.0)
    rows, columns = [i // 8 for i in range(64)], [i % 8 for i in range(64)]
    corners = [8 * row + column for row in (0, 2, 4, 6) for column in (0, 2, 4, 6)]
    # one for each window of 2 x 2, and the 19 highest others
    others = [*range(41, 48), 49, 51, 53, 55, *range(56, 64)]
    assert selections.vscan(-index, index, rows, columns, 8, 8, 35) == corners + others[::-1]


def test_holov_weight_has_the_variance_term() -> None:
    # two equal vectors: both rows are 0 and 1, variance .5 with one degree of freedom
    weight = selections.holov_weight(np.array([1.0, 3.0]), np.ones((2, 3)))
    assert weight == pytest.approx(2000 * (1 + 0.09 * 0.5 / (0.5 + 1e-6)))
    assert selections.holov_weight(np.array([2.0]), np.ones((1, 3))) == 2000


def test_holov_shares_redistribute_what_does_not_fit() -> None:
    # 4.4, .9, 2.7 -> 4 0 2 -> 5 0 3, of which 3 do not fit: to windows 2, 1 and 1
    assert selections.holov_shares([5, 1, 3], [2, 4, 4], 8) == [2, 2, 4]
    assert selections.holov_shares([1, 1, 1], [4, 4, 4], 5) == [2, 2, 1]
    assert selections.holov_shares([0, 0, 0], [4, 4, 4], 5) == [2, 2, 1]


def test_holov_output_order() -> None:
    attention, features = np.array([1.0, 2, 4, 1, 1, 1]), np.eye(6)
    assert selections.holov(attention, features, 2, slices=2) == [2, 1]  # 1.4, .6 -> 2, 0
    assert selections.holov(attention, features, 4, slices=2) == [0, 1, 2, 3]  # 2.8, 1.2 -> 3, 1
    # slices of 3 and 2: 1.5 each -> 2 and 1
    assert selections.holov(np.ones(5), np.eye(5), 3, slices=2) == [0, 1, 3]
    assert selections.holov(np.ones(2), np.eye(2), 1, slices=4) == [0]


def test_outliers() -> None:
    assert selections.outliers(np.array([1.0, 2, 3, 4, 100])) == [4]  # above 4 + 1.5 * 2
    assert selections.outliers(np.array([1.0, 2, 3])) == [2]
    assert selections.outliers(np.array([1.0, 2, 3, 4, 7.5]), factor=2) == [4]  # 8: only the best


def test_outliers_with_grid() -> None:
    assert selections.outliers_with_grid(np.eye(10)[5]) == [0, 3, 5, 6]  # 9 is the last token
    assert selections.outliers_with_grid(np.eye(8)[7]) == [0, 2, 4, 6, 7]  # int(8 / 3) = 2


def test_bottom_k() -> None:
    scores = np.array([2.0, 1.0, 3.0, 1.0])
    assert selections.bottom_k(scores, 1) == [1]
    assert selections.bottom_k(scores, 3) == [1, 3, 0]
