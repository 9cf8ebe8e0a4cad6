"""The methods that look into the vision encoder, on encoders that are not CLIP, in ragged batches.

Qwen2.5-VL: no [CLS], windowed attention, signals pooled over 2x2 patches; InternVL: a [CLS], tiles,
signals pooled over what pixel shuffle joins. Two prompts of different length, two images in one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import tiny_models
from references import forward, published
from references.compare import model_of, run_ours, run_theirs
from references.formulas import share
from references.forward import best
from references.published import Stand, chosen, rewritten
from references.vision import Encoded
from tiny_models import Prompt

import tokensieve
from tokensieve.core.pipeline.budgets import Budget

SHARE = 0.6
NOISE = {"qwen-vl": 1e-5, "internvl": 1e-9}
"""The adapter computes Qwen's encoder attention in float32."""

Pick = Callable[..., list[int]]


def model(family: str) -> Any:
    """Eight encoder layers; in Qwen four of them see the whole image."""
    if family == "internvl":
        return model_of(family, vision_layers=8)
    return model_of(family, vision_layers=8, whole_image=(1, 3, 5, 7))


def prompts(family: str) -> list[Prompt]:
    qwen = family == "qwen-vl"
    images = [((8, 9),), ((10, 11), (6, 9))] if qwen else [(4,), (5, 3)]
    return [Prompt(3 + 4 * n, group, 5 - n, seed=31 + n) for n, group in enumerate(images)]


def with_share(preset: str) -> Any:
    """The preset, the budget of its first stage replaced."""
    pipeline = tokensieve.load_pipeline(preset)
    first = pipeline.stages[0].model_copy(update={"keep": (Budget.model_validate(SHARE),)})
    return pipeline.model_copy(update={"stages": (first, *pipeline.stages[1:])})


def picked(pick: Pick, noise: float) -> Callable[[Sequence[Encoded]], Stand]:
    """``pick`` is one of the rules of :mod:`references.published`."""

    def stand(images: Sequence[Encoded]) -> Stand:
        return chosen(lambda n: pick(images[n], budget(images[n]), noise=noise))

    return stand


def budget(image: Encoded) -> int:
    return share(len(image.features), SHARE)


def absorbed(noise: float) -> Callable[[Sequence[Encoded]], Stand]:
    return lambda images: published.absorbed(
        lambda n: published.vscan(images[n], budget(images[n]), noise=noise)
    )


def compare(
    family: str,
    preset: str,
    stand: Callable[[Sequence[Encoded]], Stand],
    more: Callable[[Sequence[Encoded]], list[Any]] = lambda _images: [],
) -> Any:
    asked, reindex = prompts(family), family != "qwen-vl"

    def stages(images: Sequence[Encoded]) -> list[Any]:
        return [(0, rewritten(stand(images), reindex=reindex)), *more(images)]

    pipeline = with_share(preset)
    both = run_ours(model(family), tiny_models.inputs(family, asked), pipeline)
    both.expected = [
        run_theirs(model(family), tiny_models.inputs(family, [p]), stages, reindex=reindex)
        for p in asked
    ]
    both.assert_same_tokens()
    both.assert_same_logits(2e-5)
    return both


def standing(both: Any) -> list[tuple[list[int], list[int]]]:
    """Per sample the order behind the first stage, ours and theirs, extra tokens left out."""
    pairs = zip(both.trace.stages[0].order, both.expected, strict=True)
    return [
        (ours.tolist(), [t for t in outcome.runs[0].rows.visual if t is not None and t >= 0])
        for ours, outcome in pairs
    ]


RULES: dict[str, Pick] = {
    "fastervlm": published.fastervlm,
    "hiprune": published.hiprune,
    "holov": published.holov,
}


@pytest.mark.parametrize("preset", RULES)
@pytest.mark.parametrize("family", NOISE)
def test_selection_at_the_input(family: str, preset: str) -> None:
    both = compare(family, preset, picked(RULES[preset], NOISE[family]))
    for ours, theirs in standing(both):
        assert ours == theirs


@pytest.mark.parametrize("preset", ["prumerge", "prumerge-plus"])
@pytest.mark.parametrize("family", NOISE)
def test_prumerge_counts_and_merges_image_by_image(family: str, preset: str) -> None:
    plus = preset.endswith("plus")

    def stand(images: Sequence[Encoded]) -> Stand:
        return published.prumerge(images, plus=plus, noise=NOISE[family])

    both = compare(family, preset, stand)
    for ours, theirs in standing(both):
        assert ours == theirs


@pytest.mark.parametrize("family", NOISE)
def test_vscan_in_windows_of_every_image(family: str) -> None:
    def cut(images: Sequence[Encoded]) -> list[Any]:
        counts = [share(budget(image), 0.33334) for image in images]
        return [(3, forward.iga("last"), best(*counts))]

    both = compare(family, "vscan", absorbed(NOISE[family]), cut)
    assert [stage.boundary for stage in both.trace.stages] == [0, 3]
