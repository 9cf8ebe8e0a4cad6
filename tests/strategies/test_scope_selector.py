"""SCOPE: coverage weighted by importance; what must hold besides the reference's tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from references import greedy
from references.answers import chosen, in_turn, taken
from references.batches import Image, batch_of, padded_scores, valid_of, view_of
from tiny_models import Prompt, build, inputs

import tokensieve
from tokensieve.core.models.sizes import SIZES
from tokensieve.strategies.selectors.scope import ScopeSelector


def test_copies_come_last_and_by_index() -> None:
    """A copy of a taken token covers nothing new; among equals the first is taken."""
    images = batch_of(20, (24, 13, 8), tied=True)
    for image in images:
        image.scores[:] = 1
    for count in (1, 4, 8):
        kept = taken(ScopeSelector(), images, [count] * 3)
        for image, tokens in zip(images, kept, strict=True):
            half = (len(image.scores) + 1) // 2
            assert all(token < half or token - half in tokens for token in tokens)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tokens_that_add_nothing_follow_by_index(dtype: torch.dtype) -> None:
    """A blank picture up to rounding, and one of two colors: one token each, then by index."""
    images = batch_of(21, (12, 12))
    for image, kinds in zip(images, ([0] * 12, [0, 1] * 6), strict=True):
        image.tensors["vision_features"] = np.eye(2, 32)[kinds] * 7 + 1.3
    noise = 1 + torch.finfo(dtype).eps * torch.randn(2, 15, 32, dtype=dtype)
    features = view_of(images).vision_features.to(dtype) * noise
    view = view_of(images, more={"vision_features": features})
    scores = torch.ones(2, 15, dtype=dtype)
    turns = ScopeSelector().take_in_order(scores, valid_of(images), [5, 5], view)
    order = [row.argsort()[row.sort().values > 0].tolist() for row in turns]
    assert order == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]


def test_without_scores_it_is_coverage_alone() -> None:
    images = batch_of(22)
    counts = [8, 4, 3, 1, 2]
    before = taken(ScopeSelector(alpha=0), images, counts)
    for image in images:
        image.scores[:] = np.random.default_rng(0).random(len(image.scores))
    assert taken(ScopeSelector(alpha=0), images, counts) == before
    assert not ScopeSelector(alpha=0).reads_scores()
    assert ScopeSelector().reads_scores()

    def covering(image: Image, count: int) -> list[int]:
        """Facility location on cosines of at least 0: the same sum, written as what is covered."""
        rows = np.maximum(greedy.cosines(*[image["vision_features"]] * 2), 0)
        return greedy.grow(
            lambda had, token: round(float(rows[:, [*had, token]].max(axis=1).sum()), 12),
            len(rows),
            count,
            (),
        )

    assert before == in_turn(covering, images, counts)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_a_batch_is_its_images_alone_and_budgets_are_met(alpha: float) -> None:
    images, counts = batch_of(23), [11, 12, 1, 1, 5]
    selector = ScopeSelector(alpha=alpha)
    together = taken(selector, images, counts)
    assert [len(tokens) for tokens in together] == counts
    for image, count, tokens in zip(images, counts, together, strict=True):
        assert taken(selector, [image], [count]) == [tokens]


def test_the_scale_of_the_scores_says_nothing_and_negative_ones_count_as_zero() -> None:
    images = batch_of(24)
    counts = [8, 4, 3, 1, 2]
    before = taken(ScopeSelector(), images, counts)
    for image in images:
        image.scores[:] *= 3e-4
    assert taken(ScopeSelector(), images, counts) == before
    for image in images:
        image.scores[::2] = 0
    zero = chosen(ScopeSelector(alpha=0.5), images, counts)
    for image in images:
        image.scores[::2] = -1
    assert chosen(ScopeSelector(alpha=0.5), images, counts) == zero
    assert padded_scores(images)[0, :4].min() == -1


def test_the_preset_keeps_the_published_counts_in_raster_order() -> None:
    """192, 128 and 64 of LLaVA-1.5's 576 tokens."""
    llava = SIZES["llava-1.5-7b"]
    for keep in (192, 128, 64):
        pipeline = tokensieve.load_pipeline("scope", keep=keep)
        assert pipeline.schedule(llava.dims).counts(llava.visual_tokens) == [keep]
    batch = inputs("llava", [Prompt(3, (1,), 5, seed=1)])
    model = build("llava")
    with torch.no_grad(), tokensieve.attach(model, "scope", keep=6) as session:
        model(**batch)
        (stage,) = session.trace.stages
    assert stage.order[0].tolist() == stage.kept[0].tolist()
    assert len(stage.kept[0]) == 6
