"""One boundary's decision: scores, selection, merging -> a :class:`Reduction`, or nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from tokensieve.core.blame import titled
from tokensieve.core.contract.answers import FLOATS, checked
from tokensieve.core.contract.components import Merged, Merger, Split
from tokensieve.core.contract.tensors import on_device
from tokensieve.core.contract.ties import first_max
from tokensieve.core.contract.view import View
from tokensieve.core.engine.board import BoundarySignals
from tokensieve.core.engine.layout import Layout
from tokensieve.core.engine.reduction import Groups, Reduction, reduce_rows
from tokensieve.core.gate.mergers import Room, asked_merged, asked_split
from tokensieve.core.gate.selection import asked_mask, asked_turns
from tokensieve.core.pipeline.pipeline import PlacedStage
from tokensieve.core.pipeline.scoring import combined_scores
from tokensieve.core.pipeline.stage import Stage

if TYPE_CHECKING:
    from torch import Tensor

Checks = list[tuple[str, "Tensor"]]
Counts = dict[tuple[int, int], int]


def decide(
    cut: PlacedStage,
    board: BoundarySignals,
    layout: Layout,
    targets: Counts,
    checks: Checks,
    notes: list[str],
) -> Reduction | None:
    """Run the stage of ``cut``; None if every token stays.

    ``targets`` are the tokens to leave of each image; ``checks`` collects conditions that are
    looked at once, after the forward, so that the device is not waited for here; ``notes`` what
    components have to say.
    """
    stage, groups = cut.stage, board.groups
    wanted = [
        sum(min(targets[b.sample, b.image], b.length) for b in group) for group in groups.blocks
    ]
    if not stage.select.adaptive_count and wanted == groups.sizes:
        return None
    view = board.view()
    view.place = f"stage {cut.number + 1}, boundary {cut.at}"
    splits = [
        _split(stage, total, size, view) for total, size in zip(wanted, groups.sizes, strict=True)
    ]
    scores = combined_scores(stage.score, view)
    chosen = _chosen(stage, scores, groups, [split.selected for split in splits], view)
    kept, arranged = chosen.kept, chosen.arranged
    merged = None
    if stage.merge is not None:
        room = _room(board, stage.merge, view)
        merged = asked_merged(stage.merge, kept, scores, splits, view, room)
    checks.extend(view.later_checks)
    notes.extend(note for note in view.notes if note not in notes)
    return _reduction(board, layout, Outcome(kept, merged, arranged, splits), stage)


@dataclass(frozen=True)
class Chosen:
    """``[batch, tokens]``: which tokens stay, and their turns if the order of selection counts."""

    kept: Tensor
    arranged: Tensor | None = None


@dataclass(frozen=True)
class Outcome:
    """What the components of a stage decided; ``arranged`` orders the kept tokens, if it does."""

    kept: Tensor
    merged: Merged | None
    arranged: Tensor | None
    splits: list[Split]


def _split(stage: Stage, total: int, available: int, view: View) -> Split:
    if stage.merge is None or (total >= available and not stage.select.adaptive_count):
        return Split(total, 0, 0)
    total, has_cls = min(total, available), view.has("cls_feature")
    return asked_split(stage.merge, total, available, has_cls, view.place)


def _chosen(stage: Stage, scores: Tensor, groups: Groups, counts: list[int], view: View) -> Chosen:
    """The selector's choice, and its order if the stage wants it."""
    selector, valid = stage.select, groups.valid
    if stage.order == "raster":
        return Chosen(asked_mask(selector, scores, valid, counts, view))
    turns = asked_turns(selector, scores, valid, counts, view)
    return Chosen(turns > 0, turns)


def _room(board: BoundarySignals, merger: Merger, view: View) -> Room:
    """What a merger's vectors replace: hidden states, or what enters the projector."""
    tokens, hidden = board.sizes().sum(dim=1), board.hidden
    if merger.space == "decoder":
        return Room(hidden.dtype, hidden.shape[-1], tokens)
    if not view.has("vision_features"):
        return Room(hidden.dtype, None, tokens)
    features: Tensor = view.read("vision_features")
    return Room(features.dtype, features.shape[-1], tokens)


def _reduction(board: BoundarySignals, layout: Layout, outcome: Outcome, stage: Stage) -> Reduction:
    groups, merged = board.groups, outcome.merged
    stay = outcome.kept if merged is None else outcome.kept | merged.targets
    extra = None
    if merged is not None and merged.extra is not None:
        extra = _extra_places(stay, groups, outcome.splits)
        stay = stay | extra
    counts = _counts(groups, stay, outcome.splits, adaptive=stage.select.adaptive_count)
    empty = torch.zeros(len(layout.samples), layout.length, dtype=torch.bool, device=stay.device)
    drop = groups.put(empty, ~stay)
    rank = _ranks(groups, layout, outcome, stay, extra)
    reduction = reduce_rows(layout, drop, counts, rank)
    if merged is None or stage.merge is None:
        return reduction
    return replace(
        reduction,
        written=_written(board, stage.merge, merged, extra),
        unplaced=None if extra is None else groups.put(empty, extra),
        sizes=_sizes(board, merged, extra),
    )


def _extra_places(stay: Tensor, groups: Groups, splits: list[Split]) -> Tensor:
    """One dropped place per image that lends its row to the extra token."""
    free = (~stay & groups.valid).to(torch.uint8)
    first = torch.zeros_like(stay).scatter(1, first_max(free)[:, None], True)
    wanted = on_device([bool(split.extra) for split in splits], stay.device)
    return first & wanted[:, None] & (free > 0)


def _counts(groups: Groups, stay: Tensor, splits: list[Split], *, adaptive: bool) -> Counts:
    """Tokens left per image: known beforehand, or counted where the data decides."""
    one_image = all(len(group) == 1 for group in groups.blocks)
    if one_image and not adaptive:
        totals = [split.selected + split.merged + split.extra for split in splits]
        return {(g[0].sample, g[0].image): n for g, n in zip(groups.blocks, totals, strict=True)}
    flags, counts = stay.cpu(), {}
    for row, group in zip(flags, groups.blocks, strict=True):
        start = 0
        for block in group:
            part = row[start : start + block.length]
            counts[block.sample, block.image] = int(part.sum())
            start += block.length
    return counts


def _ranks(
    groups: Groups, layout: Layout, outcome: Outcome, stay: Tensor, extra: Tensor | None
) -> Tensor | None:
    """``[samples, rows]`` order of the rows, where it is not the raster order.

    The tokens of an image change places among themselves: an extra token in front, the kept ones
    as the selector arranged them, appended ones, an extra token behind. Others that stay because
    vectors merge into them follow the kept ones.
    """
    merged, width = outcome.merged, groups.valid.shape[1]
    appended = None if merged is None else merged.appended
    if outcome.arranged is None and appended is None and extra is None:
        return None
    raster = torch.arange(width, device=groups.rows.device).expand(groups.valid.shape)
    own = raster
    if outcome.arranged is not None:
        own = torch.where(outcome.arranged > 0, outcome.arranged, width + 1 + raster)
    if appended is not None:
        own = torch.where(appended > 0, 2 * width + appended, own)
    if extra is not None and merged is not None:
        own = torch.where(extra, 3 * width + 1 if merged.extra_last else -1, own)
    last = torch.iinfo(groups.rows.dtype).max
    turns = (groups.image_starts * (4 * width + 4) + 1 + own).masked_fill(~stay, last)
    places = groups.rows.masked_fill(~stay, last).sort(dim=1).values
    taken = torch.empty_like(places).scatter(1, turns.argsort(dim=1, stable=True), places)
    rows = torch.arange(layout.length, device=own.device)
    return groups.put(rows.expand(len(layout.samples), -1), taken)


def _written(
    board: BoundarySignals, merger: Merger, merged: Merged, extra: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Decoder inputs of merged and extra tokens, and the rows they replace."""
    groups = board.groups
    row, token = merged.targets.nonzero(as_tuple=True)
    vectors = merged.vectors[row, token]
    samples, rows = groups.sample[row], groups.rows[row, token]
    if extra is not None and merged.extra is not None:
        extra_row, extra_token = extra.nonzero(as_tuple=True)
        samples = torch.cat([samples, groups.sample[extra_row]])
        rows = torch.cat([rows, groups.rows[extra_row, extra_token]])
        vectors = torch.cat([vectors, merged.extra[extra_row, 0].to(vectors.dtype)])
    if merger.space == "vision":
        vectors = board.project(vectors)
        shape, device = (len(samples), board.hidden.shape[-1]), vectors.device
        vectors = checked(vectors, f"the projector behind {titled(merger)}", shape, FLOATS, device)
    return samples, rows, vectors


def _sizes(board: BoundarySignals, merged: Merged, extra: Tensor | None) -> Tensor:
    """``[samples, rows]`` original tokens in each row, after merging."""
    before = board.sizes()
    after = torch.where(merged.targets, merged.sizes.to(before.dtype), before)
    if extra is not None:
        after = after.masked_fill(extra, 1.0)
    shape = (len(board.layout.samples), board.layout.length)
    return board.groups.put(before.new_ones(shape), after)
