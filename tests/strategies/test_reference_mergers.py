"""The slow references of scores and mergers against numbers worked out by hand."""

import math

import numpy as np
import pytest
from references import mergers, scores

LN = math.log


def close(result: object, expected: object) -> None:
    np.testing.assert_allclose(np.asarray(result), np.asarray(expected), rtol=1e-12, atol=1e-12)


# --- scores ---------------------------------------------------------------------------------------


def test_raters_draw_more_than_the_average_of_unscaled_dot_products() -> None:
    # softmax of (ln 8, ln 4, 0) is (8, 4, 1)/13; with a 1/sqrt(4) the second would exceed 1/3
    image = np.array([[1.0, 0, 0, 0]])
    text = np.array([[LN(8), 9, 0, 0], [LN(4), 0, 9, 0], [0, 0, 0, 9]])
    close(scores.rater_weights(image, text), [1, 0, 0])


def test_raters_average_over_image_tokens() -> None:
    # rows (3, 1)/4 and (1, 9)/10 have the mean (.425, .575)
    image = np.array([[1.0, 0], [0, 1]])
    text = np.array([[LN(3), 0], [0, LN(9)]])
    close(scores.rater_weights(image, text), [0, 1])


def test_a_lone_text_token_is_no_rater() -> None:
    close(scores.rater_weights(np.ones((3, 2)), np.ones((1, 2))), [0])


def test_gravity_is_a_sum_of_cosines() -> None:
    # head dim 4: frequencies 1 and 1/100, each for a pair; 2 (cos d + cos d/100) / sqrt(4)
    offsets = [0, 1, 2, 5]
    expected = [math.cos(d) + math.cos(d / 100) for d in offsets]
    close(scores.gravity(7, [7 - d for d in offsets], 4), expected)
    close(scores.gravity(3, [2], 2), [2 * math.cos(1) / math.sqrt(2)])
    close(scores.gravity(3, [2], 4, theta=100.0), [math.cos(1) + math.cos(0.1)])


def test_gravity_of_128_channels_first_fails_at_offset_1707() -> None:
    pull = scores.gravity(1707, range(1708), 128)
    assert [position for position in range(1708) if pull[position] <= 0] == [0]
    close(pull[-1], math.sqrt(128))


ATTENTION = np.array(
    [
        [[0.0, 0.0, 1.0], [0.6, 0.4, 0.0], [0.2, 0.4, 0.4]],
        [[0.0, 0.0, 1.0], [0.1, 0.3, 0.6], [0.3, 0.1, 0.6]],
    ]
)


def test_sparse_scores_average_rater_rows_and_heads() -> None:
    close(scores.sparse_scores(ATTENTION, [1, 2], [0, 1]), [1.2 / 4, 1.2 / 4])
    close(scores.sparse_scores(ATTENTION, [2], [1, 2]), [0.25, 0.5])


def test_sparse_scores_of_the_heaviest_head() -> None:
    # masses on rows 1, 2 and columns 0, 1: 1.6 and .8
    close(scores.sparse_scores(ATTENTION, [1, 2], [0, 1], heads=1), [0.4, 0.4])


def test_sparse_scores_divide_before_the_heads_are_ranked() -> None:
    # row 2: head 0 has .2/.1 + .4/4 = 2.1, head 1 has .3/.1 + .1/4 = 3.025
    correction = np.ones((3, 3))
    correction[2] = [0.1, 4, 1]
    close(scores.sparse_scores(ATTENTION, [2], [0, 1], correction=correction), [2.5, 0.0625])
    close(scores.sparse_scores(ATTENTION, [2], [0, 1], 1, correction), [3, 0.025])


def test_sparse_scores_prefer_the_first_of_equal_heads() -> None:
    # row 0 is the same in both heads
    attention = np.array([[[0.75, 0.25]], [[0.25, 0.75]]])
    close(scores.sparse_scores(attention, [0], [0, 1], heads=1), [0.75, 0.25])


def test_hidden_change() -> None:
    before = np.array([[1.0, 1], [0, 2], [5, 5]])
    after = np.array([[4.0, 5], [0, 0], [5, 5]])
    close(scores.hidden_change(before, after), [5, 2, 0])


def test_joint_cls_attention_scales_by_the_full_width_and_counts_the_cls() -> None:
    # logits 2 (0, ln 2, ln 5) / sqrt(4): (1, 2, 5)/8; the patches' own queries do not matter
    queries = np.array([[2.0, 0, 0, 0], [9, 9, 9, 9], [9, 0, 9, 0]])
    keys = np.array([[0, 1.0, 1, 1], [LN(2), 0, 7, 0], [LN(5), 3, 0, 0]])
    close(scores.joint_cls_attention(queries, keys), [2 / 8, 5 / 8])


def test_received_attention_counts_the_cls_as_a_query_and_drops_it_as_a_key() -> None:
    # head 0: the [CLS] spreads evenly, the patch gives itself 3/4; head 1: both spread evenly
    queries = np.array([[[0.0], [0.0]], [[1.0], [0.0]]])
    keys = np.array([[[0.0], [1.0]], [[LN(3)], [2.0]]])
    close(scores.received_with_cls(queries, keys), [((0.5 + 0.75) / 2 + 0.5) / 2])


def test_relevance_is_the_mean_positive_cosine() -> None:
    tokens = np.array([[2.0, 0], [3, 4], [-1, 0]])
    text = np.array([[5.0, 0], [0, 3]])
    close(scores.relevance(tokens, text), [0.5, 0.7, -0.5])


def test_clip_quality_is_high_where_the_cosine_is_low() -> None:
    close(
        scores.clip_relevance_quality(np.array([0.1, 0.3, 0.2])),
        [1 + 5e-6, 5e-6, 0.5 + 5e-6],
    )


# --- mergers --------------------------------------------------------------------------------------


def test_absorb_averages_each_group_in_the_order_of_kept() -> None:
    features = np.array([[1.0, 0], [0, 2], [3, 1], [5, 2], [1, 4]])
    close(mergers.absorb(features, [0, 1]), [[9 / 3, 3 / 3], [1 / 2, 6 / 2]])
    close(mergers.absorb(features, [1, 0]), [[1 / 2, 6 / 2], [9 / 3, 3 / 3]])


def test_absorb_gives_a_tie_to_the_first_kept_and_leaves_the_lonely_alone() -> None:
    features = np.array([[1.0, 0], [0, 1], [2, 2]])
    close(mergers.absorb(features, [0, 1]), [[1.5, 1], [0, 1]])
    close(mergers.absorb(features, [1, 0]), [[1, 1.5], [1, 0]])
    close(mergers.absorb(features, [2, 0, 1]), [[2, 2], [1, 0], [0, 1]])


FEATURES = np.array([[1.0, 0], [0, 1], [2, 0], [0, 4]])
KEYS = np.array([[1.0, 0], [0, 1], [1, 1.1], [-1, 2]])
ATTENDED = np.array([0.4, 0.3, 0.2, 0.1])


@pytest.mark.parametrize(
    ("neighbours", "expected"),
    [
        (1, [[1.4, 0], [0, 1.4]]),  # token 0 takes 2, token 1 takes 3
        (2, [[1.4, 0.3], [0.4, 1.4]]),  # then 0 takes 1 (kept), and 1 takes 2
        (3, [[1.4, 0.7], [0.8, 1.4]]),  # then 0 takes 3, and 1 takes the original 0
        (32, [[1.4, 0.7], [0.8, 1.4]]),
    ],
)
def test_knn_adds_weighted_neighbours(neighbours: int, expected: list[list[float]]) -> None:
    merged, extra = mergers.knn_weighted(FEATURES, KEYS, ATTENDED, [0, 1], neighbours)
    close(merged, expected)
    close(extra, [0.4, 0.4])


def test_knn_gives_ties_to_kept_tokens_first() -> None:
    keys, attention = np.array([[1.0, 0]] * 5), np.array([1.0, 2, 3, 4, 5])
    merged, extra = mergers.knn_weighted(np.eye(5), keys, attention, [4, 2, 3], 1)
    close(merged, [[0, 0, 3, 0, 1], [0, 0, 1, 0, 5], [0, 0, 0, 1, 5]])
    merged, _ = mergers.knn_weighted(np.eye(5), keys, attention, [4, 2], 2)
    close(merged, [[1, 0, 3, 0, 1], [1, 0, 1, 0, 5]])
    close(extra, [1, 2, 0, 0, 0])


def test_knn_with_everything_kept_has_an_empty_extra_token() -> None:
    _, extra = mergers.knn_weighted(FEATURES, KEYS, ATTENDED, [3, 1, 0, 2])
    close(extra, [0, 0])


THREE_CLUMPS = [
    *(0, 1, -1, 3, -3, 6, -6),
    *(100, 102, 98, 105, 95, 109, 91),
    *(300, 303, 297, 307, 293, 312),
]


@pytest.mark.parametrize("dim", [1, 4])
def test_recycle_finds_three_clumps(dim: int) -> None:
    # One kept token, then 45 pruned ones that score too low: int(.3 * 65) + 1 = 20 candidates, 3
    # clusters. Density exp(-(a^2 + b^2)/3) by the two nearest others, times the gap to a denser:
    #   0: (1, 1), none denser: 318 e^(-2/3) = 163     100: (2, 2), to  1: 99 e^(-8/3) = 6.9
    # 300: (3, 3), to 102:      198 e^(-6)   = .49       1: (1, 2), to  0: 1  e^(-5/3) = .19
    values = np.array([7.0, *range(1000, 1045), *reversed(THREE_CLUMPS)])
    hidden = np.repeat(values[:, None], dim, axis=1)  # the distance over sqrt(dim) is the same
    ranks = np.array([3.0, *[0.5] * 45, *[1.0] * 20])
    centers, vectors = mergers.recycle(hidden, ranks, [0])
    assert [values[center] for center in centers] == [0, 100, 300]
    expected = [0, 700 / (7 + 1e-6), 1812 / (6 + 1e-6)]
    close(vectors, np.repeat(np.array(expected)[:, None], dim, axis=1))


def test_recycle_with_one_cluster_is_centered_on_the_first_candidate() -> None:
    # With one nearest point, itself, all densities are 1: the first has nobody denser.
    # int(.3 * 8) + 1 = 3 candidates by score: tokens 4, 6 and (of the equal 3, 5, 7) 3.
    hidden = np.array([[2.0 * token, token + 1] for token in range(10)])
    ranks = np.array([9.0, 0, 9, 5, 7, 5, 8, 5, 0, 1])
    centers, vectors = mergers.recycle(hidden, ranks, [0, 2])
    assert centers == [3]
    close(vectors, [[26 / (3 + 1e-6), 16 / (3 + 1e-6)]])


def test_recycle_gives_a_tie_to_the_first_center() -> None:
    # Ten candidates, two clusters. The twins at 5 are the densest (1); the first of them has nobody
    # denser (gap 60), the second has the first (gap 0). 10 and 7.5 are equally dense, e^(-3.125);
    # the first has the twins (gap 5), 7.5 is as near to 5 as to 10.
    values = np.array([10.0, 7.5, 5, 17, 22, 5, 30, 38, 50, 65])
    centers, vectors = mergers.recycle(values[:, None], np.ones(10), [], share=0.9)
    assert centers == [2, 0]
    close(vectors, [[17.5 / (3 + 1e-6)], [232 / (7 + 1e-6)]])


def test_recycle_keeps_the_centers_of_a_blank_image_apart() -> None:
    centers, vectors = mergers.recycle(np.full((10, 1), 4.0), np.ones(10), [], share=0.9)
    assert centers == [0, 1]
    close(vectors, [[36 / (9 + 1e-6)], [4 / (1 + 1e-6)]])


def test_the_second_of_a_closest_pair_is_the_other_ones_neighbour() -> None:
    # A density over two points is that of the nearest neighbor: 5 and 4 tie for the top. The first
    # has the largest gap (45 e^(-.5)), the second the gap of 1 between them; 10 has 5 e^(-4.5).
    values = np.array([10.0, 13, 5, 17, 22, 4, 28, 35, 42, 49])
    centers, vectors = mergers.recycle(values[:, None], np.ones(10), [], share=0.9)
    assert centers == [2, 5]
    close(vectors, [[221 / (9 + 1e-6)], [4 / (1 + 1e-6)]])
    gaps = np.abs(values[:, None] - values)
    close(mergers.centrality(gaps, 2)[2], 45 * math.exp(-0.5))
    close(mergers.centrality(gaps, 2)[5], math.exp(-0.5))


def test_centrality_of_points_on_a_line() -> None:
    # Points 0, 1, 3, 7 and the three nearest: densities e^(-10/3), e^(-5/3), e^(-13/3), e^(-52/3)
    points = np.array([0.0, 1, 3, 7])
    gaps = np.abs(points[:, None] - points)
    powers = [(10 / 3, 1), (5 / 3, 7), (13 / 3, 2), (52 / 3, 4)]
    close(mergers.centrality(gaps, 3), [math.exp(-power) * gap for power, gap in powers])


def test_recycle_of_nothing_is_nothing() -> None:
    centers, vectors = mergers.recycle(np.ones((2, 3)), np.ones(2), [1, 0])
    assert centers == []
    assert vectors.shape == (0, 3)


def test_recycle_of_one_pruned_token_is_that_token() -> None:
    centers, vectors = mergers.recycle(np.array([[1.0], [2.0]]), np.ones(2), [0])
    assert centers == [1]
    close(vectors, [[2 / (1 + 1e-6)]])


# The three published presets; a token count per layer averages to the 206.5, 145.4 and 82.3 of
# the papers when layers 0-2 see 576 tokens and the cuts come after layers 2, 6 and 15.
PRESETS = [
    ([300, 200, 110], [309, 204, 113], 206.5),
    ([303, 110, 36], [312, 117, 39], 145.4),
    ([66, 30, 17], [82, 32, 18], 82.3),
]


@pytest.mark.parametrize(("selected", "totals", "average"), PRESETS)
def test_plan_gives_the_published_presets(
    selected: list[int], totals: list[int], average: float
) -> None:
    available, layers = 576, 3 * 576
    for select, total, span in zip(selected, totals, [4, 9, 16], strict=True):
        assert mergers.plan(available, total) == (select, total - select)
        assert mergers.recycled_count(available, total) == total - select
        available = total
        layers += span * total
    assert layers / 32 == pytest.approx(average, abs=0.06)


@pytest.mark.parametrize("available", [1, 2, 9, 33, 34, 35, 100])
def test_plan_uses_the_whole_budget(available: int) -> None:
    for total in range(1, available + 3):
        selected, merged = mergers.plan(available, total)
        assert selected >= 1
        assert selected + merged == min(total, available)


def test_plan_at_the_edges() -> None:
    assert mergers.plan(576, 576) == (576, 0)
    assert mergers.plan(576, 1) == (1, 0)
    assert mergers.plan(576, 10) == (1, 9)  # 575 pruned tokens would make 18 clusters
    assert mergers.plan(576, 575) == (574, 1)


@pytest.mark.parametrize("pruned", range(1, 60))
def test_recycle_makes_as_many_vectors_as_planned(pruned: int) -> None:
    hidden = np.random.default_rng(pruned).normal(size=(pruned + 2, 3))
    centers, vectors = mergers.recycle(hidden, hidden[:, 0], [1, 0])
    assert len(centers) == len(set(centers)) == len(vectors)
    assert len(vectors) == mergers.cluster_count(mergers.candidate_count(pruned))
    assert len(vectors) == int((int(0.3 * pruned) + 1) / 10) + 1
