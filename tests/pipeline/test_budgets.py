"""Budgets and FLOPs: the numbers printed in the papers, and the rounding that leads to them.

Golden values: TransPrune (arXiv 2507.20630) tables 1-6 and 9 count one decoder layer with ``n``
visual tokens as ``4 n d^2 + 2 n^2 d + 3 n d m`` on LLaVA-1.5-7B; they are recomputed here by hand.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import pytest

import tokensieve
from tokensieve.core.contract.dims import DecoderDims
from tokensieve.core.errors import AttachError, PipelineError
from tokensieve.core.pipeline.budgets import Schedule
from tokensieve.core.pipeline.flops import PAPER, Convention, decoder_flops, kv_bytes

LLAVA = DecoderDims(layers=32, dim=4096, mlp_dim=11008, heads=32, kv_heads=32, head_dim=128)
QWEN = DecoderDims(layers=28, dim=3584, mlp_dim=18944, heads=28, kv_heads=4, head_dim=128)
N = 576


def schedule_of(source: Any, dims: DecoderDims = LLAVA, **options: Any) -> Schedule:
    return tokensieve.load_pipeline(source, **options).schedule(dims)


def stages(at: Any, keep: Any) -> dict[str, Any]:
    return {"at": at, "score": "random", "keep": keep}


def layers_of(source: Any, original: int = N, dims: DecoderDims = LLAVA) -> list[int]:
    schedule = schedule_of(source, dims)
    return schedule.per_layer(original, schedule.counts(original))


def by_hand(tokens: Iterable[int], dims: DecoderDims = LLAVA) -> int:
    """Convention 1, in whole numbers."""
    d, m = dims.dim, dims.mlp_dim
    return sum(4 * n * d * d + 2 * n * n * d + 3 * n * d * m for n in tokens)


def sparsevlm(kept: Iterable[int]) -> list[int]:
    """Tokens after each SparseVLM stage: the kept ones and the clusters of recycled ones."""
    alive, counts = N, []
    for keep in kept:
        recycled = (alive - keep) * 3 // 10 + 1
        alive = keep + recycled // 10 + 1
        counts.append(alive)
    return counts


def two_stages(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    return {"stages": [first, second]}


def of_input(*ratios: float) -> list[dict[str, Any]]:
    return [{"share": ratio, "of": "input"} for ratio in ratios]


HIGH = [0.875, 0.625, 0.125]
PDROP = [0.5, 0.25, 0.125]
GOLDEN: dict[str, tuple[Any, int, float]] = {
    "untouched": ("none", N, 3.817),
    "untouched-next": ("none", 2880, 20.825),
    "288": (stages(0, 288), N, 1.887),
    "192": (stages(0, 192), N, 1.253),
    "fastv": ("fastv", N, 2.007),
    "fastv-0.25": (stages(2, 0.25), N, 1.118),
    "fastv-next": ("fastv", 2880, 10.55),
    "fastv-0.25-next": (stages(2, 0.25), 2880, 5.80),
    "transprune": ("transprune", N, 1.557),
    "transprune-next": ("transprune", 2880, 8.330),
    "transprune-5-7-10": (stages([5, 7, 10], HIGH), N, 1.348),
    "transprune-6-8-11": (stages([6, 8, 11], HIGH), N, 1.45),
    "transprune-8-10-13": (stages([8, 10, 13], HIGH), N, 1.66),
    "transprune-9-11-14": (stages([9, 11, 14], HIGH), N, 1.767),
    "transprune-low": (stages([7, 9, 12], [0.625, 0.1875, 0.0625]), N, 1.1946),
    "transprune-low-next": (stages([7, 9, 12], [0.625, 0.1875, 0.0625]), 2880, 6.406),
    "pyramiddrop": (stages([8, 16, 24], PDROP), N, 1.777),
    "pyramiddrop-next": (stages([8, 16, 24], PDROP), 2880, 9.46),
    "sparsevlm-192": (stages([3, 7, 16], sparsevlm([300, 200, 110])), N, 1.353),
    "sparsevlm-128": (stages([3, 7, 16], sparsevlm([303, 110, 36])), N, 0.954),
    "sparsevlm-64": (stages([3, 7, 16], sparsevlm([66, 30, 17])), N, 0.541),
    "visionzip-288+fastv": (two_stages(stages(0, 288), stages(2, of_input(0.5))), N, 0.997),
    "visionzip-192+fastv": (two_stages(stages(0, 192), stages(2, of_input(0.5))), N, 0.663),
    "visionzip-288+pdrop": (
        two_stages(stages(0, 288), stages([8, 16, 24], of_input(*PDROP))), N, 0.8815
    ),
    "visionzip-192+pdrop": (
        two_stages(stages(0, 192), stages([8, 16, 24], of_input(*PDROP))), N, 0.586
    ),
    "visionzip-288+transprune": (
        two_stages(stages(0, 288), stages([7, 9, 12], of_input(*PDROP))), N, 0.661
    ),
    "visionzip+transprune": ("visionzip+transprune", N, 0.4395),
    "visionzip-288+transprune-high": (
        two_stages(stages(0, 288), stages([7, 9, 12], of_input(*HIGH))), N, 0.772
    ),
    "visionzip-192+transprune-high": (
        two_stages(stages(0, 192), stages([7, 9, 12], of_input(*HIGH))), N, 0.513
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", GOLDEN)
def test_teraflops_are_those_of_the_papers(case: str) -> None:
    source, original, printed = GOLDEN[case]
    layers = layers_of(source, original)
    flops = decoder_flops(layers, LLAVA, PAPER)
    assert flops == by_hand(layers)
    digits = len(f"{printed}".split(".")[1])
    assert flops / 1e12 == pytest.approx(printed, abs=0.5001 * 10**-digits)


def test_other_conventions_count_what_they_say() -> None:
    full = [N] * 32
    two_matrices = decoder_flops(full, LLAVA, Convention(ffn_matrices=2))
    assert two_matrices / 1e12 == pytest.approx(2.986, abs=5e-4)
    assert decoder_flops(full, LLAVA, Convention(mac_factor=2)) == 2 * by_hand(full)
    with_text = decoder_flops(full, LLAVA, Convention(count_text=True), text_tokens=64)
    assert with_text == by_hand([N + 64] * 32)
    grouped = decoder_flops([10], QWEN, Convention(grouped_keys=True))
    assert by_hand([10], QWEN) - grouped == 10 * 2 * (3584 - 512) * 3584


def test_kv_bytes_follow_the_tokens_of_each_layer() -> None:
    """LLaVA: 2 x 4096 x 2 bytes a token and layer; TransPrune keeps 236.25 of 576 on average."""
    layers = layers_of("transprune")
    assert kv_bytes(layers, LLAVA) == sum(layers) * 2 * 4096 * 2
    assert kv_bytes(layers, LLAVA, text_tokens=30) == (sum(layers) + 30 * 32) * 2 * 4096 * 2
    assert kv_bytes([100] * 28, QWEN, element_bytes=1) == 100 * 28 * 2 * 512


COUNTS: dict[str, tuple[Any, int, list[int]]] = {
    "transprune": ("transprune", N, [504, 360, 72]),
    "transprune-next": ("transprune", 2880, [2520, 1800, 360]),
    "fastv": ("fastv", N, [288]),
    "visionzip": ("visionzip", N, [64]),
    "visionzip+transprune": ("visionzip+transprune", N, [192, 96, 48, 24]),
    "visionzip+transprune-small-image": ("visionzip+transprune", 100, [100, 50, 25, 12]),
    "sparsevlm-192": (stages([3, 7, 16], sparsevlm([300, 200, 110])), N, [309, 204, 113]),
    "divprune": (stages(0, 0.098), N, [56]),
    "v2drop": (
        stages([3, 17, 22], [{"share": 0.5, "of": "current"}, {"share": 0.5, "of": "current"}, 1]),
        N,
        [288, 144, 1],
    ),
    "of-current": (stages([1, 2], [0.5, {"share": 0.5, "of": "current"}]), 101, [50, 25]),
    "of-input-without-a-cut-at-0": (stages([1, 2], of_input(0.5, 0.25)), 101, [50, 25]),
    "more-tokens-than-there-are": (stages([0, 4], [1000, 700]), N, [N, N]),
    "tokens-never-come-back": (stages([1, 2], [50, 80]), N, [50, 50]),
    "one-token-image": ("transprune", 1, [1, 1, 1]),
    "one-token-image-zipped": ("visionzip+transprune", 1, [1, 1, 1, 1]),
    "empty-image": ("transprune", 0, [0, 0, 0]),
    "one-budget-for-all-boundaries": (stages([2, 4, 8], 0.25), N, [144, 144, 144]),
}


@pytest.mark.parametrize("case", COUNTS)
def test_tokens_left_after_each_boundary(case: str) -> None:
    source, original, expected = COUNTS[case]
    assert schedule_of(source).counts(original) == expected


def test_tokens_per_layer_and_their_average_are_as_published() -> None:
    assert layers_of("transprune") == [N] * 7 + [504] * 2 + [360] * 3 + [72] * 20
    assert sum(layers_of("transprune")) / 32 == 236.25
    assert sum(layers_of(GOLDEN["transprune-low"][0])) / 32 == pytest.approx(181.1, abs=0.05)
    for case, average in (("192", 206.5), ("128", 145.4), ("64", 82.3)):
        layers = layers_of(GOLDEN[f"sparsevlm-{case}"][0])
        assert sum(layers) / 32 == pytest.approx(average, abs=0.0501)
    assert sum(layers_of(COUNTS["v2drop"][0])) / 32 == pytest.approx(202.8, abs=0.05)


def test_transprune_on_qwen_computes_45_percent_of_the_token_layers() -> None:
    """7, 9, 12 of 28 layers, as the paper's table 3."""
    layers = layers_of("transprune", N, QWEN)
    assert layers == [N] * 7 + [504] * 2 + [360] * 3 + [72] * 16
    assert sum(layers) / (28 * N) == pytest.approx(0.451, abs=5e-4)


@pytest.mark.parametrize("original", [1, 2, 7, 99, 100, 576, 577, 2880])
def test_a_share_is_rounded_down_as_a_person_would(original: int) -> None:
    """0.29 of 100 is 29, although 0.29 * 100 is 28.999999999999996 in binary."""
    for percent in range(1, 101):
        exact = int(Fraction(percent, 100) * original)
        assert schedule_of(stages(1, percent / 100)).counts(original) == [max(1, exact)]


def cost(kind: str, layers: list[int], original: int, dims: DecoderDims) -> float:
    if kind == "average":
        return sum(layers) / dims.layers
    return by_hand(layers, dims) / by_hand([original] * dims.layers, dims)


def spread(at: int, count: int, original: int, dims: DecoderDims) -> list[int]:
    return [original] * at + [count] * (dims.layers - at)


@pytest.mark.parametrize("original", [64, 576, 1001])
@pytest.mark.parametrize("at", [0, 2, 7])
@pytest.mark.parametrize(
    ("kind", "value"), [("average", 50), ("average", 192.5), ("flops", 0.25), ("flops", 0.6)]
)
def test_average_and_flops_are_met_from_below_and_with_the_most_tokens(
    kind: str, value: float, at: int, original: int
) -> None:
    schedule = schedule_of(stages(at, {kind: value}))
    least = cost(kind, spread(at, 1, original, LLAVA), original, LLAVA)
    if least > value:
        with pytest.raises(AttachError, match="impossible"):
            schedule.counts(original)
        return
    (count,) = schedule.counts(original)
    assert cost(kind, spread(at, count, original, LLAVA), original, LLAVA) <= value + 1e-9
    more = cost(kind, spread(at, count + 1, original, LLAVA), original, LLAVA)
    assert count == original or more > value


@pytest.mark.parametrize(
    ("first", "second", "value"),
    [(0.5, {"average": 200}, 200), ({"average": 300}, 0.125, 300), ({"flops": 0.4}, 72, 0.4)],
)
def test_average_and_flops_allow_for_what_the_other_boundary_keeps(
    first: Any, second: Any, value: float
) -> None:
    schedule = schedule_of(stages([2, 16], [first, second]))
    counts = schedule.counts(N)
    open_one = 0 if isinstance(first, dict) else 1
    kind = next(iter((first, second)[open_one]))
    assert cost(kind, schedule.per_layer(N, counts), N, LLAVA) <= value
    counts[open_one] += 1
    assert cost(kind, schedule.per_layer(N, counts), N, LLAVA) > value


@pytest.mark.parametrize(
    ("kind", "value"), [("average", 130), ("average", 200), ("average", 300), ("flops", 0.5)]
)
def test_overall_keep_scales_all_counts_by_the_largest_factor_allowed(
    kind: str, value: float
) -> None:
    """Brute force over every factor at which one of TransPrune's counts changes."""
    base, best = (504, 360, 72), [0, 0, 0]
    for factor in sorted({Fraction(k, b) for b in base for k in range(1, N + 1)}):
        counts = [max(1, min(N, int(b * factor))) for b in base]
        layers = [N] * 7 + [counts[0]] * 2 + [counts[1]] * 3 + [counts[2]] * 20
        if cost(kind, layers, N, LLAVA) <= value:
            best = max(best, counts)
    assert schedule_of("transprune", keep={kind: value}).counts(N) == best


def test_a_number_of_tokens_for_many_boundaries_is_their_average() -> None:
    schedule = schedule_of("transprune", keep=200)
    assert schedule.counts(N) == schedule_of("transprune", keep={"average": 200}).counts(N)
    assert schedule_of("visionzip", keep=128).counts(N) == [128]


def test_a_share_for_many_boundaries_is_their_average_as_a_share_of_the_image() -> None:
    assert schedule_of("transprune", keep=0.5).counts(N) == (
        schedule_of("transprune", keep={"average": 0.5 * N}).counts(N)
    )
    with pytest.raises(AttachError, match=r"0\.1 is impossible .* alone cost 0\.22"):
        schedule_of("transprune", keep=0.1).counts(N)
    with pytest.raises(PipelineError, match=r"^keep: \{share: 0\.5, of: input\}: .* drop `of`$"):
        schedule_of("transprune", keep={"share": 0.5, "of": "input"})


def test_an_image_within_the_overall_average_is_not_touched() -> None:
    assert schedule_of("transprune", keep={"average": 200}).counts(150) == [150, 150, 150]


@pytest.mark.parametrize(
    ("source", "keep"),
    [
        ("transprune", {"average": 100}),  # seven layers with 576 tokens alone make 126
        ("transprune", {"flops": 0.2}),
        (stages(16, {"average": 100}), None),
        (stages(16, {"flops": 0.3}), None),
    ],
)
def test_a_budget_that_the_first_layers_exceed_is_refused(source: Any, keep: Any) -> None:
    with pytest.raises(AttachError, match=r"budget .* is impossible for an image of 576 tokens"):
        schedule_of(source, keep=keep).counts(N)


@pytest.mark.parametrize(
    "keep",
    [0, -1, 0.0, -0.1, 1.5, True, "many", None, [], {"average": 0}, {"average": 0.5}, {"flops": 2},
     {"flops": 0}, {"share": 0.5, "of": "nothing"}, {"tokens": 3.5}, {"average": 5, "flops": 0.1},
     {"average": "5"}, {"tokens": 5, "of": "input"}, {}, float("nan"), float("inf")],
)  # fmt: skip
def test_impossible_budgets_are_refused(keep: Any) -> None:
    with pytest.raises(PipelineError, match="keep"):
        tokensieve.load_pipeline(stages(0, keep))


@pytest.mark.parametrize(
    ("at", "keep", "problem"),
    [
        ([7, 9, 12], [0.5, 0.6, 0.1], "later boundary cannot keep more"),
        ([7, 9, 12], [0.5, 0.4], "2 budgets for 3 boundaries"),
        ([7, 7], [0.5, 0.4], "boundaries must increase"),
    ],
)
def test_lists_of_budgets_must_make_sense(at: Any, keep: Any, problem: str) -> None:
    with pytest.raises(PipelineError, match=problem):
        tokensieve.load_pipeline(stages(at, keep))
