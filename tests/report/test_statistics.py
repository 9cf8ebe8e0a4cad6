"""Every statistic of a study equals a closed form, a brute-force count, or SciPy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from tokensieve.core.report import statistics as own
from tokensieve.core.report import variance

SEEDS = range(8)


def flipped_by_hand(differences: list[float]) -> float:
    """All sign patterns, counted."""
    sums = [
        sum(sign * value for sign, value in zip(signs, differences, strict=True))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    return float(np.mean([abs(value) >= abs(sum(differences)) - 1e-12 for value in sums]))


# ------------------------------------------------------------------ bootstrap


def test_weights_are_resamples() -> None:
    weights = own.bootstrap_weights(50, 300, seed=1)
    assert weights.shape == (300, 50)
    assert np.allclose(weights.sum(axis=1), 1)
    assert np.allclose(weights * 50, np.rint(weights * 50))
    assert np.array_equal(weights, own.bootstrap_weights(50, 300, seed=1))
    assert not np.array_equal(weights, own.bootstrap_weights(50, 300, seed=2))


def test_the_interval_of_a_mean_is_the_one_of_normal_theory() -> None:
    rng = np.random.default_rng(0)
    scores = (rng.random(800) < 0.7).astype(float)
    interval = own.mean_interval(scores, own.bootstrap_weights(800, 4000))
    half = 1.959964 * scores.std() / math.sqrt(800)
    assert interval.value == pytest.approx(scores.mean())
    assert interval.low == pytest.approx(scores.mean() - half, abs=0.004)
    assert interval.high == pytest.approx(scores.mean() + half, abs=0.004)


def test_the_interval_equals_scipys_bootstrap() -> None:
    scores = np.random.default_rng(3).random(60)
    ours = own.mean_interval(scores, own.bootstrap_weights(60, 8000))
    theirs = stats.bootstrap(
        (scores,), np.mean, n_resamples=8000, method="percentile", rng=np.random.default_rng(4)
    ).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.005)
    assert ours.high == pytest.approx(theirs.high, abs=0.005)


def test_nineteen_of_twenty_intervals_hold_the_truth() -> None:
    rng = np.random.default_rng(5)
    weights = own.bootstrap_weights(120, 500)
    held = [own.mean_interval((rng.random(120) < 0.6).astype(float), weights) for _ in range(400)]
    share = np.mean([interval.low <= 0.6 <= interval.high for interval in held])
    assert 0.91 <= share <= 0.98


def test_ten_right_answers_of_ten_are_no_proof() -> None:
    interval = own.mean_interval(np.ones(10), own.bootstrap_weights(10, 100))
    low, high = stats.binomtest(10, 10).proportion_ci(method="wilson")
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-6)


@pytest.mark.parametrize(("right", "count"), [(0, 7), (3, 9), (40, 41)])
def test_wilson_equals_scipy(right: int, count: int) -> None:
    theirs = stats.binomtest(right, count).proportion_ci(method="wilson")
    assert own.wilson(right / count, count) == pytest.approx((theirs.low, theirs.high), abs=1e-6)


def test_no_difference_seen_is_not_no_difference() -> None:
    interval = own.difference_interval(np.zeros(30), own.bootstrap_weights(30, 100))
    assert interval.value == 0
    assert (1 - interval.high) ** 30 == pytest.approx(0.05)
    assert interval.low == -interval.high


def test_pairing_makes_intervals_narrow() -> None:
    rng = np.random.default_rng(6)
    level = rng.random(200)
    one, two = (level < 0.6).astype(float), (level < 0.62).astype(float)
    weights = own.bootstrap_weights(200, 1000)
    paired = own.difference_interval(two - one, weights)
    assert paired.high - paired.low < 0.06
    alone = own.mean_interval(one, weights)
    assert alone.high - alone.low > 0.12


def test_a_centered_interval_holds_its_value() -> None:
    draws = np.random.default_rng(0).normal(0.5, 0.1, 4000)
    interval = own.centered_interval(0.8, draws, -1, 1)
    assert interval.low == pytest.approx(0.8 - 0.196, abs=0.01)
    assert interval.high == pytest.approx(0.8 + 0.196, abs=0.01)
    assert own.centered_interval(0.95, draws, -1, 1).high == 1
    assert math.isnan(own.centered_interval(0.5, [math.nan]).low)


# ------------------------------------------------------------------ tests


@pytest.mark.parametrize("seed", SEEDS)
def test_sign_flips_are_counted(seed: int) -> None:
    rng = np.random.default_rng(seed)
    differences = (rng.integers(-3, 4, 9) / 3).tolist()
    assert own.sign_flip_test(differences) == pytest.approx(flipped_by_hand(differences))


@pytest.mark.parametrize("seed", SEEDS)
def test_few_odd_numbers_are_counted_too(seed: int) -> None:
    differences = np.random.default_rng(seed).normal(0.3, 1, 10).tolist()
    assert own.sign_flip_test(differences) == pytest.approx(flipped_by_hand(differences))


@pytest.mark.parametrize("seed", SEEDS)
def test_sums_of_many_steps_equal_counting(seed: int) -> None:
    """The way of many differences, on few enough to count."""
    steps = np.random.default_rng(seed).integers(1, 5, 11) * np.array([1, -1, 1] * 3 + [1, 1])
    assert own._exact_flip_probability(steps) == pytest.approx(flipped_by_hand(steps.tolist()))


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (5, 0), (12, 3), (40, 41), (300, 250)])
def test_single_answers_give_mcnemars_exact_test(won: int, lost: int) -> None:
    differences = [1.0] * won + [-1.0] * lost + [0.0] * 20
    expected = stats.binomtest(won, won + lost).pvalue if won + lost else 1.0
    assert own.sign_flip_test(differences) == pytest.approx(expected, rel=1e-9)


def test_odd_numbers_take_the_normal_distribution() -> None:
    differences = np.random.default_rng(1).normal(0.1, 1, 400)
    flips = np.random.default_rng(2).choice([-1, 1], (20_000, 400)) @ differences
    simulated = np.mean(np.abs(flips) >= abs(differences.sum()))
    assert own.sign_flip_test(differences) == pytest.approx(simulated, abs=0.015)


def test_p_values_are_uniform_where_nothing_differs() -> None:
    rng = np.random.default_rng(7)
    found = [own.sign_flip_test(rng.integers(-2, 3, 80) / 2) for _ in range(600)]
    assert np.mean(np.array(found) < 0.05) <= 0.07
    assert 0.4 <= np.mean(found) <= 0.6


def test_binomial_of_a_fair_coin() -> None:
    assert own.binomial_half(11) == pytest.approx(stats.binom.pmf(range(12), 11, 0.5))


@pytest.mark.parametrize("seed", SEEDS)
def test_holm_steps_down(seed: int) -> None:
    """By definition: the k-th smallest p is held against 0.05 / (m - k + 1), until one fails."""
    given = np.random.default_rng(seed).random(12) ** 4
    rejected, order = set(), np.argsort(given)
    for step, index in enumerate(order):
        if given[index] > 0.05 / (len(given) - step):
            break
        rejected.add(int(index))
    adjusted = own.holm(given.tolist())
    assert {i for i, p in enumerate(adjusted) if p <= 0.05} == rejected
    assert all(a >= p for a, p in zip(adjusted, given, strict=True))
    assert own.holm([]) == []


# ------------------------------------------------------------------ rank correlation


@pytest.mark.parametrize("seed", SEEDS)
def test_ranks_and_correlations_equal_scipys(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, two = rng.integers(0, 6, 25), rng.integers(0, 6, 25)
    assert own.average_ranks(one) == pytest.approx(stats.rankdata(one))
    assert own.spearman(one, two) == pytest.approx(stats.spearmanr(one, two).statistic)
    assert own.pearson(one, two) == pytest.approx(stats.pearsonr(one, two).statistic)
    assert float(own.kendall_tau_b(one, two)) == pytest.approx(stats.kendalltau(one, two).statistic)


def test_a_constant_has_no_correlation() -> None:
    assert math.isnan(own.spearman([1, 1, 1], [1, 2, 3]))
    assert math.isnan(own.kendall_tau_b([1, 1, 1], [1, 2, 3]))


def test_taus_of_many_rankings_at_once() -> None:
    table = np.random.default_rng(0).integers(0, 5, (7, 3, 8)).astype(float)
    found = own.tau_matrix(table)
    for draw, i, j in itertools.product(range(7), range(3), range(3)):
        expected = stats.kendalltau(table[draw, i], table[draw, j]).statistic
        assert found[draw, i, j] == pytest.approx(expected)
    pairs = [(0, 1), (0, 2), (1, 2)]
    expected_mean = [np.mean([matrix[pair] for pair in pairs]) for matrix in found]
    assert own.mean_off_diagonal(found) == pytest.approx(expected_mean)


def test_rounding_makes_no_order() -> None:
    assert own.kendall_tau_b([0.1 + 0.2, 0.3, 1.0], [1.0, 2.0, 3.0]) == pytest.approx(
        stats.kendalltau([0.3, 0.3, 1.0], [1.0, 2.0, 3.0]).statistic
    )


# ------------------------------------------------------------------ choice and variance


def test_the_choice_ignores_the_model_that_is_held_out() -> None:
    table = np.array([[0.9, 0.1, 0.2], [0.5, 0.6, 0.1], [0.5, 0.6, 0.2]])
    assert own.leave_one_out_choice(table, 0) == 1
    assert own.leave_one_out_choice(table, 1) == 0


def test_sums_of_squares_by_hand() -> None:
    """Two-way tables of means, written out in loops."""
    table = np.random.default_rng(2).random((3, 2, 4))
    grand, models, tasks, methods = table.mean(), 3, 2, 4
    found = variance.sums_of_squares(table)
    model_mean = [table[i].mean() for i in range(models)]
    task_mean = [table[:, j].mean() for j in range(tasks)]
    method_mean = [table[:, :, k].mean() for k in range(methods)]
    assert found["model"] == pytest.approx(8 * sum((m - grand) ** 2 for m in model_mean))
    assert found["task"] == pytest.approx(12 * sum((m - grand) ** 2 for m in task_mean))
    assert found["method"] == pytest.approx(6 * sum((m - grand) ** 2 for m in method_mean))
    crossed = sum(
        (table[i, :, k].mean() - model_mean[i] - method_mean[k] + grand) ** 2
        for i in range(models)
        for k in range(methods)
    )
    assert found["model x method"] == pytest.approx(tasks * crossed)
    assert sum(found.values()) == pytest.approx(np.square(table - grand).sum())


def test_main_effects_equal_scipys_anova() -> None:
    table = np.random.default_rng(3).random((4, 3, 5))
    by_model = stats.f_oneway(*(table[i].ravel() for i in range(4)))
    between = float(variance.sums_of_squares(table)["model"])
    within = float(np.square(table - table.mean()).sum()) - between
    assert by_model.statistic == pytest.approx((between / 3) / (within / 56))


def drawn_study(
    effect: np.ndarray, samples: int, seed: int, resamples: int = 400
) -> tuple[np.ndarray, np.ndarray]:
    """Accuracies of independent answers with these chances, and their bootstrap."""
    rng = np.random.default_rng(seed)
    right = (rng.random((*effect.shape, samples)) < effect[..., None]).astype(float)
    weights = own.bootstrap_weights(samples, resamples, seed)
    return right.mean(axis=-1), right @ weights.T


def test_the_split_finds_what_was_planted() -> None:
    shape = (3, 2, 6, 2)
    method = np.linspace(-0.2, 0.2, 6)[None, None, :, None]
    crossed = np.random.default_rng(0).choice([-0.1, 0.1], (3, 1, 6, 1))
    effect = np.broadcast_to(0.6 + method + crossed - crossed.mean(axis=2, keepdims=True), shape)
    true = {n: float(v.sum()) for n, v in variance.sums_of_squares(effect).items()}
    shares = variance.variance_split(*drawn_study(effect, 300, 1))
    assert sum(share.value for share in shares.values()) == pytest.approx(1)
    signal = 1 - shares["drawn examples"].value
    for name in ("method", "model x method"):
        expected = true[name] / sum(true.values())
        assert shares[name].value / signal == pytest.approx(expected, abs=0.05)
    assert shares["model x task"].value < 0.01


def test_noise_is_not_taken_for_an_interplay() -> None:
    effect = np.full((3, 3, 6, 2), 0.6)
    found = [variance.variance_split(*drawn_study(effect, 100, seed)) for seed in range(6)]
    assert np.mean([shares["drawn examples"].value for shares in found]) > 0.7
    assert all(shares["method"].low == 0 for shares in found)


def test_a_table_without_differences_has_nothing_to_split() -> None:
    assert variance.variance_split(np.full((2, 2, 2, 1), 0.5), np.full((2, 2, 2, 1, 9), 0.5)) == {}
