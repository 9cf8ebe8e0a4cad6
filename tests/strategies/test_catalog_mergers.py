"""Every merger makes the vectors, sizes and order of the slow references, image by image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from references import mergers
from references.answers import mask_of
from references.batches import (
    Image,
    arranged,
    batch_of,
    padded,
    padded_scores,
    places,
    view_of,
    width_of,
)
from references.formulas import Array, top_k, visionzip_merge, visionzip_plan
from references.selections import best_first
from torch import Tensor

from tokensieve.core.contract.components import Merged, Merger, Split
from tokensieve.strategies.mergers.absorb import AbsorbMerger
from tokensieve.strategies.mergers.contextual import ContextualMerger
from tokensieve.strategies.mergers.knn_weighted import KnnWeightedMerger
from tokensieve.strategies.mergers.recycle import RecycleMerger

TOLERANCE = 1e-9


def close(ours: Tensor, theirs: Any) -> None:
    np.testing.assert_allclose(ours.numpy(), np.asarray(theirs), rtol=TOLERANCE, atol=TOLERANCE)


def applied(
    merger: Merger,
    images: Sequence[Image],
    kept: Sequence[Sequence[int]],
    merged: Sequence[int] | None = None,
    **more: Any,
) -> Merged:
    mask = mask_of(kept, images)
    view = view_of(images, more=more).after(mask, padded_scores(images))
    return merger.apply(mask, list(merged or [0] * len(images)), view.for_component(merger))


def best(images: Sequence[Image], share: float) -> list[list[int]]:
    return [top_k(i.scores, max(1, int(share * len(i.scores)))) for i in images]


# --- absorb ---------------------------------------------------------------------------------------


def groups_of(features: Array, kept: Sequence[int]) -> dict[int, list[int]]:
    """The members of each kept token, read off the reference: one unit vector per token."""
    names = np.eye(len(features))
    joined = np.concatenate([features, 1e-9 * names], axis=1)
    merged = mergers.absorb(joined, kept)[:, features.shape[1] :]
    return {
        token: np.flatnonzero(row).tolist() for token, row in zip(kept, merged, strict=True)
    }  # fmt: skip


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_absorb(share: float, tied: bool) -> None:
    """One kept token, some, all of them; a tie joins the first kept token."""
    for seed in range(3):
        images = batch_of(seed, tied=tied)
        kept = best(images, share)
        merged = applied(AbsorbMerger(), images, kept)
        assert merged.appended is None and merged.extra is None
        for number, (image, tokens) in enumerate(zip(images, kept, strict=True)):
            whole = len(tokens) == len(image.scores)
            assert places(merged.targets)[number] == ([] if whole else tokens)
            close(merged.vectors[number, tokens], mergers.absorb(image["hidden"], tokens))
            members = groups_of(image["hidden"], tokens)
            sizes = merged.sizes[number, tokens].tolist()
            assert sizes == [len(members[token]) for token in tokens]


@pytest.mark.parametrize("weigh", [False, True])
def test_absorb_counts_the_tokens_that_tokens_stand_for(weigh: bool) -> None:
    images = batch_of(3)
    generator = np.random.default_rng(5)
    sizes = [generator.integers(1, 5, len(image.scores)).astype(float) for image in images]
    kept = best(images, 0.4)
    merged = applied(AbsorbMerger(weigh=weigh), images, kept, sizes=padded(sizes, width_of(images)))
    for number, (image, tokens) in enumerate(zip(images, kept, strict=True)):
        members = groups_of(image["hidden"], tokens)
        for token in tokens:
            group, weights = members[token], sizes[number][members[token]]
            assert merged.sizes[number, token] == weights.sum()
            mean = np.average(image["hidden"][group], axis=0, weights=weights if weigh else None)
            close(merged.vectors[number, token], mean)


# --- knn-weighted ---------------------------------------------------------------------------------


class Layer:
    """An encoder layer that gives these numbers."""

    def __init__(self, images: Sequence[Image]) -> None:
        width = width_of(images)
        self.weights = padded([np.abs(image["normed_states"][:, 0]) for image in images], width)
        self.values = padded([image["vision_keys"] for image in images], width)

    def attention(self, kind: str = "auto", *, joined: bool = False) -> Tensor:
        assert kind == "auto" and joined
        return self.weights[..., None]

    def keys(self, *, joined: bool = False) -> Tensor:
        assert joined
        return self.values


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("neighbours", [1, 3, 11, 32])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_knn_weighted(share: float, neighbours: int, tied: bool) -> None:
    """Ties go to kept tokens, the most important first, then by index."""
    for seed in range(3):
        images = batch_of(10 + seed, tied=tied)
        kept, layer = best(images, share), Layer(images)
        merger = KnnWeightedMerger(neighbours=neighbours, depth=0.75)
        merged = applied(merger, images, kept, encoder_layers={0.75: layer}.__getitem__)
        assert merged.appended is None and merged.extra is not None and merged.extra_last
        for number, (image, tokens) in enumerate(zip(images, kept, strict=True)):
            whole = len(tokens) == len(image.scores)
            assert places(merged.targets)[number] == ([] if whole else tokens)
            order = best_first(image.scores, tokens)
            vectors, extra = mergers.knn_weighted(
                image["vision_features"],
                image["vision_keys"],
                np.abs(image["normed_states"][:, 0]),
                order,
                neighbours,
            )
            close(merged.vectors[number, order], vectors)
            close(merged.extra[number, 0], extra)
            near = min(neighbours, len(image.scores) - 1)
            assert merged.sizes[number, tokens].tolist() == [1 + near] * len(tokens)


def test_knn_extra_token_has_its_place_in_the_budget() -> None:
    assert KnnWeightedMerger().split(10, 20, False) == Split(9, 0, 1)
    assert KnnWeightedMerger().split(1, 20, False) == Split(1, 0, 0)
    assert KnnWeightedMerger(extra=False).split(10, 20, False) == Split(10, 0, 0)
    images = batch_of(1)
    layers = {1.0: Layer(images)}.__getitem__
    merger = KnnWeightedMerger(extra=False)
    assert applied(merger, images, best(images, 0.5), encoder_layers=layers).extra is None
    assert merger.vision_depths() == {1.0}


# --- recycle --------------------------------------------------------------------------------------


def cluster_sizes(image: Image, kept: Sequence[int], share: float) -> list[int]:
    """Read off the reference's vectors of ones: they are ``members / (members + 1e-6)``."""
    marked = np.concatenate([image["hidden"], 1e9 * np.ones((len(image.scores), 1))], axis=1)
    width = marked.shape[1]
    marked *= np.sqrt(width / (width - 1))  # the same distances as without the column
    _, vectors = mergers.recycle(marked, image.scores, kept, share)
    ones = vectors[:, -1] / marked[0, -1]
    return [round(one * 1e-6 / (1 - one)) for one in ones.tolist()]


def fitting(images: Sequence[Image], budget: Sequence[int], merger: RecycleMerger) -> list[Split]:
    pairs = zip(images, budget, strict=True)
    return [merger.split(total, len(image.scores), False) for image, total in pairs]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("share", [0.3, 0.55, 1.0])
def test_recycle(share: float, tied: bool) -> None:
    """Up to five clusters next to images with one or none: centers, order, means and sizes."""
    merger = RecycleMerger(share=share)
    for seed in range(3):
        images = batch_of(20 + seed, (61, 40, 25, 9, 1), tied=tied)
        kept = [top_k(i.scores, k) for i, k in zip(images, (14, 11, 2, 3, 1), strict=True)]
        theirs = [
            mergers.recycle(i["hidden"], i.scores, tokens, share)
            for i, tokens in zip(images, kept, strict=True)
        ]
        merged = applied(merger, images, kept, [len(centers) for centers, _ in theirs])
        assert merged.appended is not None and merged.extra is None
        centers = [tokens for tokens, _ in theirs]
        assert arranged(merged.targets, merged.appended) == centers
        assert places(merged.appended) == places(merged.targets)
        for number, (tokens, vectors) in enumerate(theirs):
            if tokens:
                close(merged.vectors[number, tokens], vectors)
                sizes = merged.sizes[number, tokens].tolist()
                assert sizes == cluster_sizes(images[number], kept[number], share)


def test_recycle_adds_up_what_tokens_stand_for() -> None:
    images = batch_of(30, (12, 5))
    kept = [top_k(images[0].scores, 4), [0, 1]]
    sizes = [np.arange(1.0, 13), np.arange(1.0, 6)]
    padded_sizes = padded(sizes, width_of(images))
    merged = applied(RecycleMerger(), images, kept, [1, 1], sizes=padded_sizes)
    for number, image in enumerate(images):
        ((center,), _) = mergers.recycle(image["hidden"], image.scores, kept[number])
        pruned = mergers.not_in(kept[number], len(image.scores))
        count = mergers.candidate_count(len(pruned))
        candidates = [pruned[place] for place in top_k(image.scores[pruned], count)]
        assert places(merged.targets)[number] == [center]
        assert merged.sizes[number, center] == sizes[number][candidates].sum()


def test_recycle_of_blank_images_keeps_centers_apart() -> None:
    """Everything ties, to the first center; the second one is alone."""
    images = batch_of(33, (45, 12))
    for image in images:
        image["hidden"][:] = image["hidden"][0]
        image.scores[2:] = 0.5
    kept = [[0, 1]] * 2
    merged = applied(RecycleMerger(), images, kept, [2, 1])
    assert merged.appended is not None
    assert arranged(merged.targets, merged.appended) == [[2, 3], [2]]
    assert merged.sizes[merged.targets].tolist() == [12, 1, 4]
    for number, (image, count) in enumerate(zip(images, (2, 1), strict=True)):
        centers, vectors = mergers.recycle(image["hidden"], image.scores, [0, 1])
        assert centers == [2, 3][:count]
        close(merged.vectors[number, centers], vectors)


def test_recycle_of_nothing_changes_nothing() -> None:
    images = batch_of(31, (5, 3))
    merged = applied(RecycleMerger(), images, [range(5), range(3)], [0, 0])
    assert not merged.targets.any()


@pytest.mark.parametrize("available", [1, 2, 9, 33, 34, 35, 100, 576])
def test_recycle_splits_the_budget_as_planned(available: int) -> None:
    """Wherever a number of clusters fits; where none does, one token is selected."""
    for total in range(1, available):
        selected, merged = mergers.plan(available, total)
        assert RecycleMerger().split(total, available, False) == Split(selected, merged, 0)


@pytest.mark.parametrize("share", [0.05, 0.29, 0.7, 1.0])
def test_recycle_uses_the_whole_budget_for_any_share(share: float) -> None:
    for available in (30, 57, 100):
        for total in range(1, available):
            split = RecycleMerger(share=share).split(total, available, False)
            pruned = available - split.selected
            clusters = mergers.cluster_count(mergers.candidate_count(pruned, share))
            assert split.selected + split.merged == total
            assert split.merged == clusters or (split.selected == 1 and split.merged < clusters)


@pytest.mark.parametrize(("wanted", "candidates"), [(1, 10), (2, 20), (3, 30)])
def test_recycle_in_a_small_budget_uses_ten_candidates_per_cluster(
    wanted: int, candidates: int
) -> None:
    """600 pruned tokens would make 19 clusters of 181 candidates."""
    image = batch_of(32, (601,))[0]
    kept = top_k(image.scores, 1)
    merged = applied(RecycleMerger(), [image], [kept], [wanted])
    assert merged.targets.sum() == wanted
    assert merged.sizes[merged.targets].sum() == candidates
    best_others = best_first(image.scores, mergers.not_in(kept, 601))[:candidates]
    assert set(places(merged.targets)[0]) <= set(best_others)


# --- contextual -----------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("rule", ["target_plus_mean", "average"])
@pytest.mark.parametrize("order", ["appended", "raster"])
def test_contextual(order: str, rule: str, tied: bool) -> None:
    merger = ContextualMerger.model_validate({"keep": 4, "merge": rule, "order": order})
    contextual = (4, 3, 1, 0, 2)
    for seed in range(3):
        images = batch_of(40 + seed, tied=tied)
        kept = best(images, 0.45)
        merged = applied(merger, images, kept, contextual)
        for number, image in enumerate(images):
            if contextual[number] == 0:
                assert not merged.targets[number].any()
                continue
            plan = (image.scores, image["vision_keys"], len(kept[number]), contextual[number])
            dominant, groups = visionzip_plan(*plan)
            assert dominant == kept[number]
            targets = list(groups)
            assert places(merged.targets)[number] == targets
            vectors = visionzip_merge(image["vision_features"], groups, rule)
            close(merged.vectors[number, targets], vectors)
            sizes = merged.sizes[number, targets].tolist()
            assert sizes == [1 + len(members) for members in groups.values()]
        if order == "appended":
            assert merged.appended is not None
            assert arranged(merged.targets, merged.appended) == places(merged.targets)
            assert places(merged.appended) == places(merged.targets)
        else:
            assert merged.appended is None
