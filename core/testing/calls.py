"""Calls of each kind of component as the engine makes them, and what it reads of the answers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokensieve.core.contract.components import (
    Component,
    Merged,
    Merger,
    Scorer,
    Selector,
    Split,
)
from tokensieve.core.contract.ranking import top_counts
from tokensieve.core.contract.tensors import at_least_float32
from tokensieve.core.contract.view import View
from tokensieve.core.pipeline.budgets import whole
from tokensieve.core.testing.batch import Record, SyntheticBatch

Outcome = dict[str, Tensor]
SPACES = {"vision": "vision_features", "decoder": "hidden"}
"""The vectors that a merger of each space works on."""


def sizes(batch: SyntheticBatch) -> list[int]:
    """Visual tokens of each image."""
    return [int(count) for count in batch.valid.sum(dim=1)]


def available(batch: SyntheticBatch) -> Tensor:
    """``[batch, tokens]`` bool, the tokens that a selector may take."""
    return batch.tensors["available"] & batch.valid


def selector_counts(batch: SyntheticBatch, share: float) -> list[int]:
    """The tokens that a selector is asked for, per image."""
    return [whole(share * int(count)) for count in available(batch).sum(dim=1)]


def splits(merger: Merger, batch: SyntheticBatch, share: float, has_cls: bool) -> list[Split]:
    """The parts of each image's budget; nothing to merge where all tokens stay."""
    totals = [max(1, whole(share * size)) for size in sizes(batch)]
    return [
        merger.split(total, size, has_cls) if total < size else Split(total, 0, 0)
        for total, size in zip(totals, sizes(batch), strict=True)
    ]


def selected(batch: SyntheticBatch, divided: list[Split]) -> Tensor:
    """``[batch, tokens]`` bool, what a selector left to the merger."""
    counts = [split.selected for split in divided]
    return top_counts(batch.tensors["scores"], batch.valid, counts)


def call(
    component: Component, batch: SyntheticBatch, share: float, record: Record, view: View
) -> Any:
    """The component's answer, as it returns it: scores, a mask, or what was merged."""
    if isinstance(component, Scorer):
        return component.score(view)
    if isinstance(component, Selector):
        return component.select(*_for_selector(batch, share, record), view)
    assert isinstance(component, Merger)
    divided = splits(component, batch, share, view.has("cls_feature"))
    if [split.selected for split in divided] == sizes(batch):  # no merger is asked then
        nowhere = batch.valid & False
        return Merged(nowhere, batch.tensors[SPACES[component.space]] * 0, nowhere.float())
    counts = record.give_list("counts", [split.merged for split in divided])
    kept = selected(batch, divided)
    reader = view.after(kept, record.give("scores", batch.tensors["scores"]))
    return component.apply(record.give("kept", kept), counts, reader)


def take_in_order(
    selector: Selector, batch: SyntheticBatch, share: float, record: Record, view: View
) -> Tensor:
    """The turns in which a selector takes the tokens, as it returns them."""
    return selector.take_in_order(*_for_selector(batch, share, record), view)


def _for_selector(
    batch: SyntheticBatch, share: float, record: Record
) -> tuple[Tensor, Tensor, list[int]]:
    """Scores, available tokens, counts. Padding of the scores is NaN: nothing promises more."""
    scores = batch.tensors["scores"].masked_fill(~batch.valid, float("nan"))
    return (
        record.give("scores", scores),
        record.give("available", available(batch)),
        record.give_list("counts", selector_counts(batch, share)),
    )


def read(component: Component, answer: Any, batch: SyntheticBatch) -> Outcome:
    """All that the engine reads of an answer: zero at padding, and where nothing was merged."""
    if isinstance(component, Scorer):
        return {"scores": at_least_float32(answer).masked_fill(~batch.valid, 0)}
    if isinstance(component, Selector):
        return {"kept": answer & batch.valid}
    vectors = at_least_float32(answer.vectors).masked_fill(~answer.targets[..., None], 0)
    sized = answer.sizes.float().masked_fill(~answer.targets, 0)
    return {"targets": answer.targets, "vectors": vectors, "sizes": sized}


def difference(one: Outcome, other: Outcome) -> str:
    """The name of the values that differ by more than rounding; nothing if none do."""
    for name, values in one.items():
        if values.shape != other[name].shape or not _close(values, other[name]):
            return name
    return ""


def _close(one: Tensor, other: Tensor) -> bool:
    """Whether they differ by no more than the rounding of another order of summing."""
    if one.dtype == torch.bool:
        return bool((one == other).all())
    if bool((one.isfinite() != other.isfinite()).any()):
        return False
    one, other = (values.double().nan_to_num(0, 0, 0).flatten(1) for values in (one, other))
    spread = one.amax(dim=1) - one.amin(dim=1)
    allowed = 1e-3 * spread + 1e-5 * one.abs().amax(dim=1)
    return bool(((one - other).abs() <= allowed[:, None]).all())
