"""What is kept does not depend on the last bits: equal by meaning is equal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import Prompt, build, inputs

import tokensieve
from tokensieve.core.contract.ranking import selection_order, top_counts
from tokensieve.core.contract.ties import above, falling, first_max
from tokensieve.core.pipeline.scoring import NORMALIZERS
from tokensieve.core.plugins.discovery import build_registry
from tokensieve.core.report.statistics.ranks import first_best, leave_one_out_choice

EPS = torch.finfo(torch.float32).eps


def jittered(values: torch.Tensor, seed: int, ulps: int = 4) -> torch.Tensor:
    """The same numbers, as another processor could have computed them."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randint(-ulps, ulps + 1, values.shape, generator=generator)
    return values * (1 + steps * EPS)


def levels(seed: int) -> torch.Tensor:
    """``[3, 40]`` scores with few different values, so that nearly all are tied."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 5, (3, 40), generator=generator) * 0.137 + 0.011


@pytest.mark.parametrize("seed", range(20))
def test_order_does_not_see_the_last_bits(seed: int) -> None:
    exact = levels(seed)
    expected = exact.sort(dim=1, descending=True, stable=True).indices
    noisy = jittered(exact, seed)
    assert not torch.equal(noisy.sort(dim=1, descending=True, stable=True).indices, expected)
    assert torch.equal(falling(noisy), expected)
    kept = torch.ones_like(exact, dtype=torch.bool)
    for count in (1, 7, 20, 39):
        taken = top_counts(noisy, kept, [count] * 3)
        assert torch.equal(taken, top_counts(exact, kept, [count] * 3))
    assert torch.equal(selection_order(noisy, kept), selection_order(exact, kept))
    assert torch.equal(first_max(noisy), expected[:, 0])


@pytest.mark.parametrize("seed", range(5))
def test_numbers_that_differ_are_told_apart(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randperm(300, generator=generator)[None] * 1e-4 + 0.5
    assert torch.equal(falling(values), values.sort(descending=True).indices)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_filler_and_infinite_scores_stay_where_they_are(dtype: torch.dtype) -> None:
    lowest = torch.finfo(dtype).min
    row = torch.tensor([[lowest, 1.0, -torch.inf, torch.inf, 1.0, -torch.inf]], dtype=dtype)
    assert falling(row).tolist() == [[3, 1, 4, 0, 2, 5]]
    assert first_max(row).tolist() == [3]
    assert first_max(torch.full((1, 3), -torch.inf, dtype=dtype)).tolist() == [0]
    assert falling(torch.tensor([[2, 3, 3]])).tolist() == [[1, 2, 0]]


def test_size_of_what_was_subtracted() -> None:
    """``1 - cos`` of equal tokens is rounding, however small."""
    change = torch.tensor([[1e-7, 0.0, 2e-7, 3e-5]])
    assert falling(change).tolist() == [[3, 2, 0, 1]]
    assert falling(change, scale=1).tolist() == [[3, 0, 1, 2]]


@pytest.mark.parametrize("normalize", ["minmax", "zscore", "rank"])
@pytest.mark.parametrize("seed", range(5))
def test_normalizing_does_not_stretch_rounding(normalize: str, seed: int) -> None:
    alike = jittered(torch.full((2, 30), 0.37), seed)
    valid = torch.ones_like(alike, dtype=torch.bool)
    total = NORMALIZERS[normalize](alike, valid)
    exact = NORMALIZERS[normalize](torch.full((2, 30), 0.37), valid)
    assert torch.equal(falling(total), falling(exact))


@pytest.mark.parametrize("rule", ["absolute", "quantile", "iqr"])
@pytest.mark.parametrize("seed", range(5))
def test_thresholds(rule: str, seed: int) -> None:
    registry = build_registry()
    value = 0.148 if rule == "absolute" else 0.5  # exactly one of the levels
    selector = registry.get("selector", "threshold")(rule=rule, value=value)
    exact = levels(seed)
    available = torch.ones_like(exact, dtype=torch.bool)
    view: Any = None
    kept = [
        selector.select(scores, available, [40] * 3, view)
        for scores in (exact, jittered(exact, seed))
    ]
    assert torch.equal(*kept)


def test_above_is_not_equal() -> None:
    mean = torch.tensor([0.1])
    assert not above(mean * (1 + 4 * EPS), mean)
    assert above(torch.tensor([0.1001]), mean)


BLANK = [
    *({"at": 0, "score": name} for name in ("cls-attention", "received-attention", "relevance")),
    *({"at": 0, "select": name} for name in ("max-min", "dpp", "coverage", "dedupe")),
    {"at": 0, "score": "cls-attention", "merge": {"merger": "contextual", "keep": 2}},
    {"at": 0, "score": "cls-attention", "merge": "absorb"},
]


@pytest.mark.parametrize("stage", BLANK, ids=lambda s: "-".join(str(v) for v in s.values()))
def test_blank_picture_is_decided_by_index(stage: dict[str, Any]) -> None:
    """All patches of a blank picture are the same to Qwen's encoder, up to the last bits.

    Batches of different sizes and other numbers of threads compute them in another order.
    """
    model = build("qwen-vl", torch.float32)
    one = inputs("qwen-vl", [Prompt(3, ((6, 6),), 4)], dtype=torch.float32)
    many = inputs("qwen-vl", [Prompt(3, ((6, 6),), 4)] * 5, dtype=torch.float32)
    whole = {"select": "top-k", "score": "uniform", "keep": 7, **stage}
    spec = {"name": "blank", "stages": [whole]}
    kept = set()
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            for batch in (one, many):
                batch["pixel_values"] = torch.full_like(batch["pixel_values"], -0.73)
                with tokensieve.attach(model, spec) as session, torch.no_grad():
                    model(**batch)
                kept |= {tuple(row.tolist()) for row in session.trace.stages[0].kept}
    finally:
        torch.set_num_threads(threads)
    assert len(kept) == 1


def test_leave_one_out_does_not_choose_by_rounding() -> None:
    """The mean of the same three numbers depends on the order in which they are added."""
    table = np.array([[0.9, 0.8], [0.85, 0.88], [0.86, 0.93], [0.0, 1.0]])
    a, b = 0.8699999999999999, 0.87
    assert a < b
    assert first_best(np.array([a, b])) == 0
    assert leave_one_out_choice(np.array([[a, b], [b, a], [0.1, 0.2]]), 2) == 0
    assert leave_one_out_choice(table, 3) == 0  # both 0.87
    assert leave_one_out_choice(table, 0) == 1
