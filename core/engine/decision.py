"""One boundary's decision: scores, selection, merging -> a :class:`Reduction`, or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tokensieve.core.components import Merged, Merger, Split
from tokensieve.core.engine.layout import Layout
from tokensieve.core.engine.reduction import Groups, Reduction, reduce_rows
from tokensieve.core.engine.signals import SignalBoard
from tokensieve.core.errors import PluginError
from tokensieve.core.pipeline import Cut
from tokensieve.core.scoring import combined_scores
from tokensieve.core.view import View, on_device

if TYPE_CHECKING:
    from torch import Tensor

Checks = list[tuple[str, "Tensor"]]
Counts = dict[tuple[int, int], int]


def decide(
    cut: Cut,
    board: SignalBoard,
    layout: Layout,
    targets: Counts,
    checks: Checks,
) -> Reduction | None:
    """Run the stage of ``cut``; None if every token stays.

    ``targets`` are the tokens to leave of each image; ``checks`` collects conditions that are
    looked at once, after the forward, so that the device is not waited for here.
    """
    stage, groups = cut.stage, board.groups
    wanted = [
        sum(min(targets[b.sample, b.image], b.length) for b in group) for group in groups.blocks
    ]
    if not stage.select.adaptive_count and wanted == groups.sizes:
        return None
    view = board.view()
    splits = [
        _split(stage.merge, total, size, view)
        for total, size in zip(wanted, groups.sizes, strict=True)
    ]
    scores = combined_scores(stage.score, view)
    selector = stage.select
    chosen = [split.selected for split in splits]
    kept = selector.select(
        scores,
        groups.valid,
        chosen,
        view.for_component(f"selector {selector.name!r}", selector.readable()),
    )
    _check_mask(selector.name, kept, groups)
    kept = kept & groups.valid
    if not stage.select.adaptive_count:
        _check_count(selector.name, kept, chosen, view)
    merged = None
    if stage.merge is not None and any(split.merged or split.extra for split in splits):
        reader = view.for_component(f"merger {stage.merge.name!r}", stage.merge.readable())
        merged = stage.merge.apply(kept, [split.merged for split in splits], reader)
    checks.extend(view.doubts)
    return _reduction(board, layout, kept, merged, splits, adaptive=stage.select.adaptive_count)


def _split(merger: Merger | None, total: int, available: int, view: View) -> Split:
    if merger is None or total >= available:
        return Split(total, 0, 0)
    return merger.split(total, available, view.has("cls_feature"))


def _check_mask(name: str, kept: Tensor, groups: Groups) -> None:
    if not isinstance(kept, torch.Tensor) or kept.shape != groups.valid.shape:
        raise PluginError(
            f"selector {name!r} must return a bool tensor {tuple(groups.valid.shape)}"
        )


def _check_count(name: str, kept: Tensor, counts: list[int], view: View) -> None:
    """A wrong count would break the layout."""
    wrong = (kept.sum(dim=1) != on_device(counts, kept.device)).any()
    message = f"selector {name!r} kept another number of tokens than it was asked for ({counts})"
    view.doubt(message, wrong)


def _reduction(
    board: SignalBoard,
    layout: Layout,
    kept: Tensor,
    merged: Merged | None,
    splits: list[Split],
    *,
    adaptive: bool,
) -> Reduction:
    groups = board.groups
    stay = kept if merged is None else kept | merged.targets
    extra = None
    if merged is not None and merged.extra is not None:
        extra = _extra_places(stay, groups, splits)
        stay = stay | extra
    counts = _counts(groups, stay, splits, adaptive=adaptive)
    drop = _scatter(groups, ~stay, layout, torch.bool)
    rank = None
    if merged is not None:
        rank = _ranks(groups, layout, merged, extra)
    reduction = reduce_rows(layout, drop, counts, rank)
    if merged is None:
        return reduction
    written = _written(board, groups, merged, extra)
    hidden_label = None if extra is None else _scatter(groups, extra, layout, torch.bool)
    return Reduction(reduction.order, reduction.valid, reduction.layout, written, hidden_label)


def _extra_places(stay: Tensor, groups: Groups, splits: list[Split]) -> Tensor:
    """One dropped place per image that lends its row to the extra token."""
    free = (~stay & groups.valid).to(torch.uint8)
    first = torch.zeros_like(stay).scatter(1, free.argmax(dim=1, keepdim=True), True)
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


def _scatter(groups: Groups, values: Tensor, layout: Layout, dtype: torch.dtype) -> Tensor:
    """``[batch, tokens]`` -> ``[samples, rows]``; zero outside the visual tokens."""
    spare = layout.length  # padding of the groups is written to a column that is cut off
    rows = groups.rows.masked_fill(~groups.valid, spare)
    full = torch.zeros(len(layout.samples), layout.length + 1, dtype=dtype, device=values.device)
    sample = groups.sample[:, None].expand_as(rows)
    return full.index_put((sample, rows), values.to(dtype))[:, :-1]


def _ranks(groups: Groups, layout: Layout, merged: Merged, extra: Tensor | None) -> Tensor:
    """Order of the rows: raster, or per image extra - selected - merged."""
    wide = layout.length + 4
    rows = torch.arange(1, layout.length + 1, device=groups.rows.device) * wide
    ranks = rows.expand(len(layout.samples), -1).contiguous()
    start = groups.rows[:, :1]
    end = start + on_device(groups.sizes, start.device)[:, None] - 1
    own = (groups.rows + 1) * wide
    if merged.appended:
        own = torch.where(merged.targets, (end + 1) * wide + 1 + groups.rows - start, own)
    if extra is not None:
        own = torch.where(extra, (start + 1) * wide - 1, own)
    spare = groups.rows.masked_fill(~groups.valid, layout.length)
    padded = torch.cat([ranks, ranks[:, :1]], dim=1)
    sample = groups.sample[:, None].expand_as(spare)
    return padded.index_put((sample, spare), own)[:, :-1]


def _written(
    board: SignalBoard, groups: Groups, merged: Merged, extra: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Decoder inputs of merged and extra tokens, and the rows they replace."""
    row, token = merged.targets.nonzero(as_tuple=True)
    vectors = merged.vectors[row, token]
    samples, rows = groups.sample[row], groups.rows[row, token]
    if extra is not None and merged.extra is not None:
        extra_row, extra_token = extra.nonzero(as_tuple=True)
        samples = torch.cat([samples, groups.sample[extra_row]])
        rows = torch.cat([rows, groups.rows[extra_row, extra_token]])
        vectors = torch.cat([vectors, merged.extra[extra_row, 0].to(vectors.dtype)])
    return samples, rows, board.bound.project(vectors)
