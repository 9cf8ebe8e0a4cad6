"""The printed numbers of the papers, read off the presets: token counts, KV lengths, TFLOPs.

``test_budgets`` checks the arithmetic on schedules written out by hand; here the presets themselves
are asked, on LLaVA-1.5-7B's decoder, with the pipeline's own names for budgets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import tiny_models
import torch
from references import mergers
from references.compare import SIDE, big_prompt, model_of

import tokensieve
from tokensieve.core.contract.dims import DecoderDims
from tokensieve.core.pipeline.budgets import Budget
from tokensieve.core.pipeline.flops import PAPER, Convention, decoder_flops
from tokensieve.core.pipeline.pipeline import Pipeline

LLAVA = DecoderDims(layers=32, dim=4096, mlp_dim=11008, heads=32, kv_heads=32, head_dim=128)
QWEN = DecoderDims(layers=28, dim=3584, mlp_dim=18944, heads=28, kv_heads=4, head_dim=128)
N, NEXT = 576, 2880


def changed(
    preset: str, *, keep: Sequence[Any] = (), at: Sequence[int] = (), first: Any = None
) -> Pipeline:
    """The preset with other numbers in its last stage, and with ``first`` in its first one."""
    pipeline = tokensieve.load_pipeline(preset)
    stages = list(pipeline.stages)
    update: dict[str, Any] = {"at": tuple(at)} if at else {}
    if keep:
        update["keep"] = tuple(Budget.model_validate(one) for one in keep)
    stages[-1] = stages[-1].model_copy(update=update)
    if first is not None:
        stages[0] = stages[0].model_copy(update={"keep": (Budget.model_validate(first),)})
    return pipeline.model_copy(update={"stages": tuple(stages)})


def counts_of(source: Any, tokens: int = N, dims: DecoderDims = LLAVA) -> list[int]:
    return tokensieve.load_pipeline(source).schedule(dims).counts(tokens)


def layers_of(source: Any, tokens: int = N, dims: DecoderDims = LLAVA) -> list[int]:
    schedule = tokensieve.load_pipeline(source).schedule(dims)
    return schedule.per_layer(tokens, schedule.counts(tokens))


def with_clusters(*kept: int) -> list[int]:
    """SparseVLM v1's list of kept tokens, and the clusters of recycled ones that come on top."""
    alive, totals = N, []
    for count in kept:
        candidates = mergers.candidate_count(alive - count)
        alive = count + mergers.cluster_count(candidates)
        totals.append(alive)
    return totals


SPARSE = {192: (300, 200, 110), 128: (303, 110, 36), 64: (66, 30, 17)}
SPARSE_TOTALS = {192: [309, 204, 113], 128: [312, 117, 39], 64: [82, 32, 18]}
HIGH, PDROP = (0.875, 0.625, 0.125), (0.5, 0.25, 0.125)


# ------------------------------------------------------------------ token counts

COUNTS: dict[str, tuple[Any, int, list[int]]] = {
    "transprune": ("transprune", N, [504, 360, 72]),
    "transprune-next": ("transprune", NEXT, [2520, 1800, 360]),
    "transprune-paper": ("transprune-paper", N, [504, 360, 72]),
    "transprune-ttv-only": ("transprune-ttv-only", N, [504, 360, 72]),
    "transprune-iga-only": ("transprune-iga-only", N, [504, 360, 72]),
    "transprune-low": ("transprune-low", N, [360, 108, 36]),
    "transprune-low-next": ("transprune-low", NEXT, [1800, 540, 180]),
    "fastv": ("fastv", N, [288]),
    "fastv-0.25": (changed("fastv", keep=[0.25]), N, [144]),
    "pyramiddrop": ("pyramiddrop", N, [288, 144, 72]),
    "pyramiddrop-next": ("pyramiddrop", NEXT, [1440, 720, 360]),
    "sparsevlm": ("sparsevlm", N, SPARSE_TOTALS[192]),
    "sparsevlm-v2": ("sparsevlm-v2", N, [300, 200, 118]),
    "v2drop": ("v2drop", N, [288, 144, 1]),
    "dart": ("dart", N, [124]),
    "fastervlm": ("fastervlm", N, [64]),
    "visionzip": ("visionzip", N, [64]),
    "visionzip-paper": ("visionzip-paper", N, [64]),
    "vispruner": ("vispruner", N, [64]),
    "prumerge": ("prumerge", N, [N]),
    "prumerge-plus": ("prumerge-plus", N, [N]),
    "hiprune": ("hiprune", N, [64]),
    "vscan": ("vscan", N, [96, 32]),
    "vscan-192": (changed("vscan", first=288), N, [288, 96]),
    "holov": ("holov", N, [64]),
    "divprune": ("divprune", N, [56]),
    "cdpruner": ("cdpruner", N, [64]),
    "mmtok": ("mmtok", N, [64]),
    "visionzip+transprune": ("visionzip+transprune", N, [192, 96, 48, 24]),
    "visionzip-288+transprune": (
        changed("visionzip+transprune", first=288), N, [288, 144, 72, 36]
    ),
    "cdpruner+transprune": ("cdpruner+transprune", N, [192, 96, 48, 24]),
    "visionzip+fastv": ("visionzip+fastv", N, [192, 96]),
    "visionzip-288+fastv": (changed("visionzip+fastv", first=288), N, [288, 144]),
    "visionzip+pyramiddrop": ("visionzip+pyramiddrop", N, [192, 96, 48, 24]),
    "visionzip-288+pyramiddrop": (
        changed("visionzip+pyramiddrop", first=288), N, [288, 144, 72, 36]
    ),
    "divprune+random-deep": ("divprune+random-deep", N, [288, 144]),
}  # fmt: skip


@pytest.mark.parametrize("case", COUNTS)
def test_tokens_behind_every_boundary(case: str) -> None:
    source, tokens, expected = COUNTS[case]
    assert counts_of(source, tokens) == expected


def split_of(preset: str, stage: int, total: int, available: int) -> tuple[int, int, int]:
    """Picked, merged and extra tokens of a stage's budget."""
    merger = tokensieve.load_pipeline(preset).stages[stage].merge
    assert merger is not None
    split = merger.split(total, available, True)
    return split.selected, split.merged, split.extra


@pytest.mark.parametrize(
    ("total", "dominant", "contextual"), [(64, 54, 10), (128, 108, 20), (192, 162, 30)]
)
def test_visionzip_s_dominant_tokens_include_the_cls(
    total: int, dominant: int, contextual: int
) -> None:
    assert split_of("visionzip", 0, total, N) == (dominant - 1, contextual, 1)


@pytest.mark.parametrize("setting", SPARSE_TOTALS)
def test_sparsevlm_s_budgets_hold_the_kept_tokens_and_their_clusters(setting: int) -> None:
    assert with_clusters(*SPARSE[setting]) == SPARSE_TOTALS[setting]
    totals, available = SPARSE_TOTALS[setting], N
    for kept, total in zip(SPARSE[setting], totals, strict=True):
        assert split_of("sparsevlm", 0, total, available) == (kept, total - kept, 0)
        available = total


# ------------------------------------------------------------------ tokens and KV rows per layer


def test_tokens_in_every_layer() -> None:
    assert layers_of("none") == [N] * 32
    assert layers_of("transprune") == [N] * 7 + [504] * 2 + [360] * 3 + [72] * 20
    assert layers_of("fastv") == [N] * 2 + [288] * 30
    assert layers_of("pyramiddrop") == [N] * 8 + [288] * 8 + [144] * 8 + [72] * 8
    assert layers_of("sparsevlm") == [N] * 3 + [309] * 4 + [204] * 9 + [113] * 16
    assert layers_of("v2drop") == [N] * 3 + [288] * 14 + [144] * 5 + [1] * 10
    assert layers_of("vscan") == [96] * 16 + [32] * 16
    assert layers_of("visionzip+transprune") == [192] * 7 + [96] * 2 + [48] * 3 + [24] * 20


@pytest.mark.parametrize(
    ("source", "average"),
    [
        ("transprune", 236.25),
        ("transprune-low", 181.1),
        ("v2drop", 202.8),
        ("vscan", 64),
        (changed("vscan", first=288), 192),
        ("sparsevlm", 206.5),
        (changed("sparsevlm", keep=SPARSE_TOTALS[128]), 145.4),
        (changed("sparsevlm", keep=SPARSE_TOTALS[64]), 82.3),
    ],
    ids=str,
)
def test_average_tokens_per_layer(source: Any, average: float) -> None:
    assert sum(layers_of(source)) / 32 == pytest.approx(average, abs=0.0501)


def test_the_cache_of_transprune_holds_7_2_3_and_20_layers_of_their_length() -> None:
    """A real prefill through 32 layers; text rows are in every layer."""
    model = model_of("llava", side=SIDE, num_hidden_layers=32)
    inputs = big_prompt(seed=1)
    text = int((inputs["input_ids"] != tiny_models.IMAGE).sum())
    with tokensieve.attach(model, "transprune"), torch.no_grad():
        cache = model(**inputs, use_cache=True).past_key_values
    lengths = [layer.keys.shape[2] - text for layer in cache.layers]
    assert lengths == [N] * 7 + [504] * 2 + [360] * 3 + [72] * 20


# ------------------------------------------------------------------ TFLOPs

TERAFLOPS: dict[str, tuple[Any, int, float]] = {
    "untouched": ("none", N, 3.817),
    "untouched-next": ("none", NEXT, 20.825),
    "288": (changed("fastervlm", keep=[288]), N, 1.887),
    "192": (changed("fastervlm", keep=[192]), N, 1.253),
    "128": (changed("fastervlm", keep=[128]), N, 0.833),
    "64": ("fastervlm", N, 0.4155),  # VScan prints 415 GFLOPs
    "fastv": ("fastv", N, 2.007),
    "fastv-next": ("fastv", NEXT, 10.55),
    "fastv-0.25": (changed("fastv", keep=[0.25]), N, 1.118),
    "fastv-0.25-next": (changed("fastv", keep=[0.25]), NEXT, 5.80),
    "transprune": ("transprune", N, 1.557),
    "transprune-next": ("transprune", NEXT, 8.330),
    "transprune-5-7-10": (changed("transprune", at=(5, 7, 10)), N, 1.348),
    "transprune-6-8-11": (changed("transprune", at=(6, 8, 11)), N, 1.45),
    "transprune-8-10-13": (changed("transprune", at=(8, 10, 13)), N, 1.66),
    "transprune-9-11-14": (changed("transprune", at=(9, 11, 14)), N, 1.767),
    "transprune-low": ("transprune-low", N, 1.1946),
    "transprune-low-printed": ("transprune-low", N, 1.19),
    "transprune-low-next": ("transprune-low", NEXT, 6.406),
    "pyramiddrop": ("pyramiddrop", N, 1.777),
    "pyramiddrop-next": ("pyramiddrop", NEXT, 9.46),
    "sparsevlm-192": ("sparsevlm", N, 1.353),
    "sparsevlm-128": (changed("sparsevlm", keep=SPARSE_TOTALS[128]), N, 0.954),
    "sparsevlm-64": (changed("sparsevlm", keep=SPARSE_TOTALS[64]), N, 0.541),
    "visionzip-288+fastv": (changed("visionzip+fastv", first=288), N, 0.997),
    "visionzip-288+pyramiddrop": (changed("visionzip+pyramiddrop", first=288), N, 0.8815),
    "visionzip-288+transprune": (changed("visionzip+transprune", first=288), N, 0.661),
    "visionzip-288+transprune-high": (
        changed("visionzip+transprune", first=288,
                keep=[{"share": share, "of": "input"} for share in HIGH]),
        N, 0.772,
    ),
    "visionzip-192+fastv": ("visionzip+fastv", N, 0.663),
    "visionzip-192+pyramiddrop": ("visionzip+pyramiddrop", N, 0.586),
    "visionzip-192+transprune": ("visionzip+transprune", N, 0.4395),
    "visionzip-192+transprune-high": (
        changed("visionzip+transprune",
                keep=[{"share": share, "of": "input"} for share in HIGH]),
        N, 0.513,
    ),
    "cdpruner-288+transprune": (changed("cdpruner+transprune", first=288), N, 0.66),
    "cdpruner-192+transprune": ("cdpruner+transprune", N, 0.44),
}  # fmt: skip


@pytest.mark.parametrize("case", TERAFLOPS)
def test_teraflops_under_the_papers_convention(case: str) -> None:
    source, tokens, printed = TERAFLOPS[case]
    found = decoder_flops(layers_of(source, tokens), LLAVA, PAPER) / 1e12
    digits = len(f"{printed}".split(".")[1])
    assert found == pytest.approx(printed, abs=0.5001 * 10**-digits)


@pytest.mark.parametrize(
    ("source", "share"),
    [("transprune", 40.8), (changed("fastv", keep=[0.25]), 29.3), ("transprune-low", 31.3)],
    ids=str,
)
def test_share_of_the_untouched_prefill_in_percent(source: Any, share: float) -> None:
    """The paper prints 31.2 for the low schedule: 1.19 of 3.82, both rounded."""
    ratio = decoder_flops(layers_of(source), LLAVA) / decoder_flops([N] * 32, LLAVA)
    assert 100 * ratio == pytest.approx(share, abs=0.0501)


@pytest.mark.parametrize(
    ("preset", "first", "share"), [("transprune", 288, 17.3), ("transprune", 192, 11.5)]
)
def test_share_of_the_composites_in_percent(preset: str, first: int, share: float) -> None:
    layers = layers_of(changed(f"visionzip+{preset}", first=first))
    ratio = decoder_flops(layers, LLAVA) / decoder_flops([N] * 32, LLAVA)
    assert 100 * ratio == pytest.approx(share, abs=0.0501)


def test_two_ffn_matrices_as_divprune_s_script_counts() -> None:
    flops = decoder_flops(layers_of("none"), LLAVA, Convention(ffn_matrices=2))
    assert flops / 1e12 == pytest.approx(2.986, abs=5e-4)


def test_transprune_leaves_45_percent_of_qwen_s_token_layers() -> None:
    layers = layers_of("transprune", 1600, QWEN)
    assert 100 * sum(layers) / (1600 * 28) == pytest.approx(45.1, abs=0.0501)
