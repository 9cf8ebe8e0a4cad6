"""The merger `tome` against a slow reference, on views without a model."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from references import tome
from tiny_models import Prompt, build, inputs

import tokensieve
from tokensieve.core.contract.components import Split
from tokensieve.core.contract.view import View
from tokensieve.strategies.mergers.tome import TomeMerger

COUNTS = [13, 8, 2, 1, 30]


def views(seed: int, *, sized: bool) -> tuple[View, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)

    def draw(dim: int) -> torch.Tensor:
        return torch.randn(len(COUNTS), max(COUNTS), dim, generator=generator, dtype=torch.float64)

    valid = torch.arange(max(COUNTS)) < torch.tensor(COUNTS)[:, None]
    sizes = valid.double()
    if sized:
        sizes *= torch.randint(1, 5, valid.shape, generator=generator)
    values = {"hidden": draw(6), "vision_keys": draw(4), "sizes": sizes}
    signals: dict[str, Any] = {name: (lambda v=value: v) for name, value in values.items()}
    index = torch.arange(max(COUNTS)).expand(valid.shape)
    return View(valid, index, signals), values


@pytest.mark.parametrize("sized", [False, True])
@pytest.mark.parametrize("metric", ["keys", "hidden"])
@pytest.mark.parametrize("share", [0.9, 0.5, 0.3, 0.05])
def test_merged_equals_reference(
    share: float, metric: Literal["keys", "hidden"], sized: bool
) -> None:
    merger = TomeMerger(metric=metric)
    view, values = views(3, sized=sized)
    wanted = [max(1, int(share * count)) for count in COUNTS]
    splits = [
        merger.split(total, count, False) if total < count else Split(total, 0, 0)
        for total, count in zip(wanted, COUNTS, strict=True)
    ]
    kept, anchors = torch.zeros_like(view.valid), []
    for row, split in enumerate(splits):
        anchors.append(7 * row % COUNTS[row] if split.selected == 1 else 0)
        kept[row, anchors[-1] : anchors[-1] + split.selected] = True
    merged = merger.apply(kept, [split.merged for split in splits], view.for_component(merger))
    compared = values["vision_keys" if metric == "keys" else "hidden"]
    for row, count in enumerate(COUNTS):
        left, vectors, sizes = tome.match(
            values["hidden"][row, :count].numpy(),
            compared[row, :count].numpy(),
            values["sizes"][row, :count].numpy(),
            wanted[row],
            anchors[row],
        )
        alive = merged.targets[row].nonzero()[:, 0].tolist()
        assert alive == (left if wanted[row] < count else [])
        np.testing.assert_allclose(merged.vectors[row, left].numpy(), vectors, atol=1e-12)
        np.testing.assert_allclose(merged.sizes[row, left].numpy(), sizes)
        assert float(merged.sizes[row, left].sum()) == float(values["sizes"][row, :count].sum())


@pytest.mark.parametrize("anchor", [0, 1, 7])
@pytest.mark.parametrize("halves", ["even", "odd"])
@pytest.mark.parametrize("share", [0.9, 0.5, 0.3, 0.05])
def test_the_released_halves_know_no_best_token(share: float, halves: str, anchor: int) -> None:
    """Vectors, sizes and their order are the release's, whichever token was scored highest."""
    merger = TomeMerger.model_validate({"halves": halves})
    view, values = views(5, sized=True)
    wanted = [max(1, int(share * count)) for count in COUNTS]
    kept = torch.zeros_like(view.valid)
    for row, count in enumerate(COUNTS):
        kept[row, anchor % count] = True
        if wanted[row] == count:
            kept[row, :count] = True
    rest = [0 if want == count else want - 1 for want, count in zip(wanted, COUNTS, strict=True)]
    merged = merger.apply(kept, rest, view.for_component(merger))
    assert merged.appended is not None
    for row, count in enumerate(COUNTS):
        if wanted[row] == count:
            assert not merged.targets[row].any()
            continue
        hidden, keys, before = (
            values[name][row, :count].numpy() for name in ("hidden", "vision_keys", "sizes")
        )
        groups, vectors, sizes = tome.released(
            hidden,
            keys,
            before,
            wanted[row],
            cls=halves == "odd",
        )
        assert bool(merged.targets[row, anchor % count])
        order = merged.appended[row].argsort()[-wanted[row] :]
        assert merged.targets[row].nonzero()[:, 0].tolist() == sorted(order.tolist())
        assert all(token in group for token, group in zip(order.tolist(), groups, strict=True))
        np.testing.assert_allclose(merged.vectors[row, order].numpy(), vectors, atol=1e-12)
        np.testing.assert_allclose(merged.sizes[row, order].numpy(), sizes)


def test_released_reference_by_hand() -> None:
    """0, 2 and 4 give: 2 resembles 1 and 4 resembles 3; with a [CLS] 1 and 3 give."""
    metric = np.array([[1.0, 0], [0, 1], [0.1, 0.9], [1, -1], [0.9, -0.9]])
    features, sizes = np.arange(5.0)[:, None], np.ones(5)
    groups, vectors, grown = tome.released(features, metric, sizes, 3, cls=False)
    assert groups == [[0], [1, 2], [3, 4]]
    np.testing.assert_allclose(vectors[:, 0], [0, 1.5, 3.5])
    assert grown.tolist() == [1, 2, 2]
    groups, _, _ = tome.released(features, metric, sizes, 4, cls=False)
    assert groups == [[2], [0], [1], [3, 4]]  # left of the givers: 2 is nearer to a receiver than 0
    groups, _, _ = tome.released(features, metric, sizes, 4, cls=True)
    assert groups == [[1], [0], [2], [4, 3]]


def test_reference_by_hand() -> None:
    """Tokens 0 and 2 receive; 1 resembles 0, 3 resembles 0 less: one pair, then both."""
    metric = np.array([[1.0, 0], [0.9, 0.1], [0, 1], [0.7, 0.3]])
    features = np.array([[0.0], [4], [8], [2]])
    sizes = np.array([1.0, 3, 1, 1])
    left, vectors, grown = tome.match(features, metric, sizes, 3, 0)
    assert left == [0, 2, 3]
    np.testing.assert_allclose(vectors[:, 0], [3, 8, 2])
    np.testing.assert_allclose(grown, [4, 1, 1])
    left, vectors, grown = tome.match(features, metric, sizes, 2, 0)
    assert left == [0, 2]
    np.testing.assert_allclose(vectors[:, 0], [14 / 5, 8])
    np.testing.assert_allclose(grown, [5, 1])


def test_ties_go_to_the_first_pair() -> None:
    view, values = views(0, sized=False)
    values["hidden"][:] = 1.0
    merger = TomeMerger(metric="hidden", weigh_attention=False)
    kept = torch.zeros_like(view.valid)
    kept[:, 0] = True
    merged = merger.apply(kept, [11, 6, 0, 0, 28], view.for_component(merger))
    assert merged.targets[0].nonzero()[:, 0].tolist() == [0, *range(2, 13)]
    assert merged.sizes[0, 0] == 2
    assert not merger.proportional()


@pytest.mark.parametrize(("weigh", "notes"), [(True, 1), (False, 0)])
def test_a_decoder_says_that_it_does_not_weigh_attention(weigh: bool, notes: int) -> None:
    model, batch = build("llava"), inputs("llava", [Prompt(3, (1,), 5)])
    merge = {"merger": "tome", "weigh_attention": weigh}
    stage = {"at": 2, "score": "random", "keep": 8, "merge": merge}
    with tokensieve.attach(model, stage) as session, torch.no_grad():
        model(**batch)
    assert sum("whatever its size" in note for note in session.trace.notes) == notes
