"""Deciding which tokens stay: signals in, a :class:`Reduction` out.

Nothing here knows a model, a hook or a cache. Whoever has signals of the visual tokens of some
sequences can ask :func:`decide`: the engines of this project do, between the layers of a model that
runs, and so can another runtime, or a test with a few tensors::

    layout = Layout(((Segment("text", 2), Segment("image", 9, 0), Segment("text", 3)),), 14)
    groups = Groups.of(layout, "image", device)
    index = torch.arange(9)[None]
    tokens = BoundaryTokens(layout, groups, index, {"hidden": hidden})
    for placed in pipeline.placed_stages(depth):
        decision = decide(placed, tokens, targets={(0, 0): 4})

A reduction is applied to whatever has rows: ``reduction.rows(tensor)`` keeps those that stay, and
``reduction.hidden(hidden_states)`` also writes merged vectors in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from tokensieve.core.blame import titled
from tokensieve.core.contract.answers import FLOATS, checked
from tokensieve.core.contract.components import Merged, Merger, Split
from tokensieve.core.contract.memory import Memory
from tokensieve.core.contract.tensors import on_device
from tokensieve.core.contract.ties import first_max
from tokensieve.core.contract.view import View
from tokensieve.core.engine.layout import Layout
from tokensieve.core.engine.reduction import Groups, Reduction, reduce_rows
from tokensieve.core.errors import SignalError
from tokensieve.core.gate.mergers import Room, asked_merged, asked_split
from tokensieve.core.gate.selection import asked_mask, asked_turns
from tokensieve.core.pipeline.pipeline import PlacedStage
from tokensieve.core.pipeline.scoring import combined_scores
from tokensieve.core.pipeline.stage import Stage

if TYPE_CHECKING:
    from torch import Tensor

Counts = Mapping[tuple[int, int], int]
"""Tokens of each image, by its sample and its number there."""


@dataclass(frozen=True)
class BoundaryTokens:
    """The visual tokens at a boundary, and what is known of them.

    Attributes:
        layout: which rows of the sequences are visual tokens of which image.
        groups: those tokens as a batch, a row for each image, or for each sample where the stage
            has ``scope: sample``.
        index: ``[batch, tokens]`` place of each among the original visual tokens of its sample, -1
            for one that is none of them.
        signals: by name, the value in the order of ``groups`` (``[batch, tokens, ...]`` for most),
            or a function without arguments that computes it when it is first read.
        keys: an integer for each row of the batch, by which scorers draw random numbers; none: 0.
        sizes: ``[batch, tokens]`` original tokens that each stands for; None: one.
        memory: what components remember from an earlier boundary to a later one; None: nothing.
        hidden: ``[samples, rows, dim]`` the vectors among which a merger's are written.
        project: turns the vectors of a merger that works before the projector into such vectors.
    """

    layout: Layout
    groups: Groups
    index: Tensor
    signals: Mapping[str, object]
    keys: list[int] | None = None
    sizes: Tensor | None = None
    memory: Memory | None = None
    hidden: Tensor | None = None
    project: Callable[[Tensor], Tensor] | None = None

    def view(self, placed: PlacedStage) -> View:
        """The tokens as components see them; nothing is computed yet."""
        readers: dict[str, Callable[[], object]] = {}
        for name, value in self.signals.items():
            readers[name] = value if callable(value) else partial(_given, value)
        view = View(
            self.groups.valid,
            self.index,
            readers,
            keys=self.keys,
            boundary=placed.at,
            memory=self.memory,
        )
        view.place = f"stage {placed.number + 1}, boundary {placed.at}"
        return view


def _given(value: object) -> object:
    return value


@dataclass(frozen=True)
class Decision:
    """What a stage decided at a boundary.

    Attributes:
        reduction: which rows stay, in which order; None if every token stays.
        later_checks: conditions that must not hold, with what to say if one does. They are on the
            device, and nothing has waited for it: pass all of them to ``settle`` before the answer
            is used.
        notes: what components have to say about it.
    """

    reduction: Reduction | None
    later_checks: list[tuple[str, Tensor]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def decide(placed: PlacedStage, tokens: BoundaryTokens, targets: Counts) -> Decision:
    """Score, select and merge as a stage says.

    Args:
        placed: the stage, and the boundary that it is at.
        tokens: what it chooses among.
        targets: tokens to leave of each image; an adaptive selector may leave fewer.

    Raises:
        PluginError: a component broke the contract.
        SignalError: a component read what is not there.
    """
    stage, groups = placed.stage, tokens.groups
    wanted = [
        sum(min(targets[b.sample, b.image], b.length) for b in group) for group in groups.blocks
    ]
    adaptive = stage.select.adaptive_count
    if not adaptive and wanted == groups.sizes:
        return Decision(None)
    view = tokens.view(placed)
    splits = [
        Split(total, 0, 0)
        if stage.merge is None or (total == size and not adaptive)
        else asked_split(stage.merge, total, size, view.has("cls_feature"), view.place)
        for total, size in zip(wanted, groups.sizes, strict=True)
    ]
    counts = [split.selected for split in splits]
    scores = combined_scores(stage.score, view)
    if stage.order == "raster":
        turns = None
        kept = asked_mask(stage.select, scores, groups.valid, counts, view)
    else:
        turns = asked_turns(stage.select, scores, groups.valid, counts, view)
        kept = turns > 0
    merged = None
    if stage.merge is not None:
        room = _room(stage.merge, tokens, view)
        merged = asked_merged(stage.merge, kept, scores, splits, view, room)
    outcome = Outcome(kept, turns, merged, splits)
    return Decision(_reduction(stage, tokens, outcome), view.later_checks, view.notes)


@dataclass(frozen=True)
class Outcome:
    """What the components of a stage answered, ``[batch, tokens]`` each.

    Attributes:
        kept: whether a token was selected.
        turns: 1, 2, ... in the order of selection, 0 for the others; None if it does not count.
    """

    kept: Tensor
    turns: Tensor | None
    merged: Merged | None
    splits: list[Split]


def _room(merger: Merger, tokens: BoundaryTokens, view: View) -> Room:
    """What a merger's vectors replace: hidden states, or what enters the projector."""
    if tokens.hidden is None or (merger.space == "vision" and tokens.project is None):
        missing = "hidden" if tokens.hidden is None else "project"
        raise SignalError(f"{titled(merger)} at {view.place} merges: its tokens need {missing!r}")
    originals = _sizes_before(tokens).sum(dim=1)
    if merger.space == "decoder":
        return Room(tokens.hidden.dtype, tokens.hidden.shape[-1], originals)
    if not view.has("vision_features"):
        return Room(tokens.hidden.dtype, None, originals)
    features: Tensor = view.read("vision_features")
    return Room(features.dtype, features.shape[-1], originals)


def _sizes_before(tokens: BoundaryTokens) -> Tensor:
    """``[batch, tokens]`` original tokens that each stands for; 0 for padding."""
    return tokens.groups.valid.float() if tokens.sizes is None else tokens.sizes


def _reduction(stage: Stage, tokens: BoundaryTokens, outcome: Outcome) -> Reduction:
    """Which rows stay, in which order, and the vectors that are written into them."""
    layout, groups, merged = tokens.layout, tokens.groups, outcome.merged
    stay = outcome.kept if merged is None else outcome.kept | merged.targets
    extra = None
    if merged is not None and merged.extra is not None:
        # an extra token has no row of its own: the first dropped one of its image lends it one
        free = (~stay & groups.valid).to(torch.uint8)
        first = torch.zeros_like(stay).scatter(1, first_max(free)[:, None], True)
        promised = on_device([bool(split.extra) for split in outcome.splits], stay.device)
        extra = first & promised[:, None] & (free > 0)
        stay = stay | extra
    counts = _counts(groups, stay, outcome.splits, adaptive=stage.select.adaptive_count)
    shape, device = (len(layout.samples), layout.length), stay.device
    nowhere = torch.zeros(shape, dtype=torch.bool, device=device)
    rank = None
    appended = None if merged is None else merged.appended
    if outcome.turns is not None or appended is not None or extra is not None:
        places = _rearranged(groups, outcome, stay, extra)
        rank = groups.put(torch.arange(layout.length, device=device).expand(shape), places)
    reduction = reduce_rows(layout, groups.put(nowhere, ~stay), counts, rank)
    if merged is None or stage.merge is None:
        return reduction
    before = _sizes_before(tokens)
    sizes = torch.where(merged.targets, merged.sizes.to(before.dtype), before)
    if extra is not None:
        sizes = sizes.masked_fill(extra, 1.0)
    return replace(
        reduction,
        written=_written(tokens, stage.merge, merged, extra),
        unplaced=None if extra is None else groups.put(nowhere, extra),
        sizes=groups.put(before.new_ones(shape), sizes),
    )


def _counts(
    groups: Groups, stay: Tensor, splits: list[Split], *, adaptive: bool
) -> dict[tuple[int, int], int]:
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


FIRST, SELECTED, OTHERS, APPENDED, LAST = range(5)
"""The parts of an image's tokens, one after the other, where their order is not the raster's: an
extra token in front, selected tokens by turn, others that stay, appended ones, an extra one."""


def _rearranged(groups: Groups, outcome: Outcome, stay: Tensor, extra: Tensor | None) -> Tensor:
    """``[batch, tokens]`` the row that each token moves to; read where it stays.

    The tokens of an image change places among themselves: they are sorted by the start of their
    image, then by part, then by their place in the part, and get the rows that stay one by one.
    """
    part = torch.full_like(groups.rows, OTHERS)
    place = torch.zeros_like(part)  # alike: the order that they had
    if outcome.turns is not None:
        selected = outcome.turns > 0
        part, place = part.masked_fill(selected, SELECTED), outcome.turns
    merged = outcome.merged
    if merged is not None and merged.appended is not None:
        appended = merged.appended > 0
        part = part.masked_fill(appended, APPENDED)
        place = torch.where(appended, merged.appended, place)
    if extra is not None and merged is not None:
        part = part.masked_fill(extra, LAST if merged.extra_last else FIRST)
    order = place.argsort(dim=1, stable=True)
    for key in (part, groups.image_starts, (~stay).to(torch.uint8)):
        order = order.gather(1, key.gather(1, order).argsort(dim=1, stable=True))
    gone = torch.iinfo(groups.rows.dtype).max
    rows = groups.rows.masked_fill(~stay, gone).sort(dim=1).values
    return torch.empty_like(rows).scatter(1, order, rows)


def _written(
    tokens: BoundaryTokens, merger: Merger, merged: Merged, extra: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The rows that merged and extra vectors replace, as samples and rows, and these vectors."""
    groups = tokens.groups
    row, token = merged.targets.nonzero(as_tuple=True)
    vectors = merged.vectors[row, token]
    samples, rows = groups.sample[row], groups.rows[row, token]
    if extra is not None and merged.extra is not None:
        extra_row, extra_token = extra.nonzero(as_tuple=True)
        samples = torch.cat([samples, groups.sample[extra_row]])
        rows = torch.cat([rows, groups.rows[extra_row, extra_token]])
        vectors = torch.cat([vectors, merged.extra[extra_row, 0].to(vectors.dtype)])
    if merger.space == "vision" and tokens.project is not None and tokens.hidden is not None:
        vectors = tokens.project(vectors)
        shape, device = (len(samples), tokens.hidden.shape[-1]), vectors.device
        vectors = checked(vectors, f"the projector behind {titled(merger)}", shape, FLOATS, device)
    return samples, rows, vectors
