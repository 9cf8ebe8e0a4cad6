"""The gate for mergers: how they divide a budget, and the vectors, sizes and places they make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokensieve.core.blame import blamed, titled
from tokensieve.core.contract.answers import (
    FLOATS,
    INTEGERS,
    Shape,
    checked,
    counted,
    described,
    shared,
)
from tokensieve.core.contract.components import Merged, Merger, Split
from tokensieve.core.contract.tensors import on_device
from tokensieve.core.contract.view import View
from tokensieve.core.errors import PluginError
from tokensieve.core.foreign import shown
from tokensieve.core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

SIZES = (*INTEGERS, *FLOATS)


@dataclass(frozen=True)
class Room:
    """Limits of a merger's vectors: the type and the width of those they replace.

    ``width`` is None where nothing says how wide they are; ``tokens`` ``[batch]`` are the original
    tokens that a row stands for, which no single one can exceed; None: not known.
    """

    dtype: torch.dtype
    width: int | None
    tokens: Tensor | None = None


def asked_split(merger: Merger, total: int, available: int, has_cls: bool, where: str) -> Split:
    """The answer of a merger that is asked to divide ``total`` tokens."""
    with blamed(merger, where):
        answer = merger.split(total, available, has_cls)
    wrong = flaw_of_split(answer, total)
    if wrong:
        call = f"split({total}, {available}, {has_cls})"
        raise PluginError(f"{titled(merger)} at {where}: {call} is {shown(answer)}: {wrong}")
    return answer


def flaw_of_split(answer: object, total: int) -> str:
    """The flaw of a division of ``total`` tokens; empty if there is none."""
    if type(answer) is not Split:
        return "expected a Split"
    parts = (answer.selected, answer.merged, answer.extra)
    if any(type(part) is not int for part in parts):
        return "its parts are no whole numbers"
    if min(parts) < 0:
        return "negative"
    if sum(parts) != total:
        return f"it adds up to {shown(sum(parts))}"
    if answer.selected < 1:
        return "at least one token must be selected"
    return "at most one extra token" if answer.extra > 1 else ""


def asked_merged(
    merger: Merger, kept: Tensor, scores: Tensor, splits: list[Split], view: View, room: Room
) -> Merged:
    """A merger's answer, checked: vectors at least as precise as the room's, sizes in float32."""
    counts = [split.merged for split in splits]
    with blamed(merger, view.place):
        reader = view.after(kept.clone(), scores.clone()).for_component(merger)
        answer = merger.apply(kept.clone(), list(counts), reader)
    title = f"{titled(merger)} at {view.place}"
    if type(answer) is not Merged:
        raise PluginError(f"{title} must return Merged, got {described(answer)}")
    shape, device = tuple(kept.shape), kept.device
    targets = checked(answer.targets, f"{title}: targets", shape, ("bool",), device)
    sizes = checked(answer.sizes, f"{title}: sizes", shape, SIZES, device)
    vectors = _vectors(answer.vectors, f"{title}: vectors", (*shape, room.width), room, device)
    appended, extra = _appended(answer, title, targets, view), None
    if any(split.extra for split in splits):
        shape = (vectors.shape[0], 1, vectors.shape[2])
        extra = _vectors(answer.extra, f"{title}: extra", shape, room, device)
    merged = Merged(
        targets,
        vectors,
        sizes.to(torch.promote_types(sizes.dtype, torch.float32)),
        appended,
        extra,
        bool(answer.extra_last),
    )
    view.check_later(f"{title}: targets are padding", (targets & ~view.valid).any())
    others = (targets & ~kept & view.valid).sum(dim=1)
    message = f"{title}: other tokens live on than it was asked for ({counts})"
    view.check_later(message, (others != on_device(counts, device)).any())
    _check_values_later(title, merged, splits, room, view)
    return merged


def _vectors(answer: object, what: str, shape: Shape, room: Room, device: torch.device) -> Tensor:
    """Real numbers that lose nothing which the model's type can hold."""
    vectors = checked(answer, what, shape, FLOATS, device)
    if torch.promote_types(vectors.dtype, room.dtype) != vectors.dtype:
        raise PluginError(f"{what} are {vectors.dtype}, less precise than {room.dtype}")
    return vectors


def _appended(answer: Merged, title: str, targets: Tensor, view: View) -> Tensor | None:
    """Places after the image's other tokens as 1, 2, ... in each row."""
    if answer.appended is None:
        return None
    what, shape = f"{title}: appended", tuple(targets.shape)
    places = checked(answer.appended, what, shape, INTEGERS, targets.device).long()
    moved = (places > 0) & view.valid
    view.check_later(f"{what} has a place below 0", ((places < 0) & view.valid).any())
    view.check_later(f"{what} is no permutation: two tokens share a place", shared(places, moved))
    return counted(places, moved)


def _check_values_later(
    title: str, merged: Merged, splits: list[Split], room: Room, view: View
) -> None:
    targets, largest = merged.targets, torch.finfo(room.dtype).max
    lost = ~(merged.vectors.abs() <= largest).all(dim=-1) & targets
    view.check_later(f"{title}: merged vectors are not finite", lost.any())
    if merged.extra is not None:
        promised = on_device([bool(split.extra) for split in splits], targets.device)
        gone = ~(merged.extra.abs() <= largest).all(dim=-1)[:, 0] & promised
        view.check_later(f"{title}: extra vectors are not finite", gone.any())
    sizes = merged.sizes
    wrong = ~((sizes >= 1) & sizes.isfinite())
    if room.tokens is not None:
        wrong |= sizes > room.tokens[:, None] + 0.5  # sums of fractions are rounded
    message = f"{title}: sizes of merged tokens lie between 1 and the tokens there were"
    view.check_later(message, (wrong & targets).any())
