"""Training batches of the families: pictures, packed questions, and what the read-outs must say."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tokensieve.adapters.zoo.families import IMAGE_MEAN, IMAGE_STD, Family, TokenLayout
from tokensieve.adapters.zoo.tasks.digit_scenes import COLOR_NAMES
from tokensieve.adapters.zoo.tasks.glyphs import GLYPH_SIZE, LABELS, PATCH
from tokensieve.adapters.zoo.tasks.pictures import Item, PictureQuestion, PictureScene, PictureTask

IGNORE = -100
NOTHING = len(LABELS)  # the class after all labels
NO_COLOR = len(COLOR_NAMES)
UNKNOWN = (IGNORE,) * 4


@dataclass(frozen=True)
class Portion:
    """What one training step takes: ``kept`` image tokens a picture, ``length`` tokens in all.

    ``closed``: every fourth picture that loses tokens gets positions without gaps, where positions
    count tokens.
    """

    task: PictureTask
    side: int
    batch_size: int
    length: int
    kept: int
    closed: bool = False


@dataclass
class Row:
    """One packed sequence; every list has one entry a token.

    ``named`` holds label, color, row and column of the item that a word stands for, ``compared``
    on which side of the second digit of a comparison the first one is (0 to 2, across and down)
    and whether the question is to be answered with yes.
    """

    ids: list[int]
    segments: list[int]
    labels: list[int]
    offsets: list[int]
    named: list[tuple[int, ...]]
    compared: list[tuple[int, ...]]


def facts(item: Item) -> tuple[int, ...]:
    """Label, color, row and column of an item as class numbers."""
    color = COLOR_NAMES.index(item.color)
    return LABELS.index(item.label), color, item.top // PATCH, item.left // PATCH


def cell_labels(scene: PictureScene, side: int) -> tuple[npt.NDArray[np.int64], ...]:
    """Label, color and place in a sign of every square of 8 pixels, raster order."""
    rows, span = side // PATCH, GLYPH_SIZE // PATCH
    labels = np.full((rows, rows), NOTHING)
    colors = np.full((rows, rows), NO_COLOR)
    places = np.full((rows, rows), IGNORE)
    for item in scene.items:
        label, color, top, left = facts(item)
        labels[top : top + span, left : left + span] = label
        colors[top : top + span, left : left + span] = color
        if item.place is not None:
            places[top : top + span, left : left + span] = item.place
    return labels.ravel(), colors.ravel(), places.ravel()


class Packer:
    """Turns pictures and questions into batches for one family."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.words: dict[str, int] = family.tokenizer.get_vocab()
        self.known: dict[str, list[int]] = {}
        self.end = int(family.tokenizer.eos_token_id)

    def _ids(self, text: str) -> list[int]:
        if text not in self.known:
            ids = self.family.tokenizer(text, add_special_tokens=False)["input_ids"]
            self.known[text] = list(ids)
        return self.known[text]

    def _question(self, scene: PictureScene, question: PictureQuestion) -> Row:
        asked, answer = self._ids(f"{question.text} ASSISTANT:"), self._ids(question.answer)
        ids = [*asked, *answer, self.end]
        meaning = {self.words[word]: facts(scene.items[i]) for word, i in question.names}
        named = [meaning.get(token, UNKNOWN) for token in ids[:-2]]
        named += [UNKNOWN] * 2  # the last word of an answer names nothing
        compared: list[tuple[int, ...]] = [UNKNOWN[:3]] * len(ids)
        if question.kind == "position":
            first, second = (scene.items[i] for i in question.about)
            place = ids.index(self.words[second.label])
            signs = np.sign([first.left - second.left, first.top - second.top]) + 1
            compared[place] = (int(signs[0]), int(signs[1]), int(question.answer == "yes"))
        labels = [*[IGNORE] * len(asked), *answer, self.end]
        return Row(ids, [], labels, list(range(len(ids))), named, compared)

    def row(self, scene: PictureScene, questions: list[PictureQuestion], room: int) -> Row:
        """Tail of the picture and as many questions as fit into ``room`` tokens, padded."""
        tail = self.family.tail
        count = len(tail)
        row = Row(list(tail), [0] * count, [IGNORE] * count, list(range(count)), [], [])
        row.named += [UNKNOWN] * count
        row.compared += [UNKNOWN[:3]] * count
        for turn, question in enumerate(questions, 1):
            one = self._question(scene, question)
            if len(row.ids) + len(one.ids) > room:
                break
            row.ids += one.ids
            row.segments += [turn] * len(one.ids)
            row.labels += one.labels
            row.offsets += [count + offset for offset in one.offsets]
            row.named += one.named
            row.compared += one.compared
        fill = room - len(row.ids)
        row.ids += [0] * fill
        row.segments += [-1] * fill
        row.labels += [IGNORE] * fill
        row.offsets += [0] * fill
        row.named += [UNKNOWN] * fill
        row.compared += [UNKNOWN[:3]] * fill
        return row

    def batch(self, portion: Portion, split: Any, first: int) -> dict[str, Tensor]:
        """Pictures ``first .. first + batch_size`` of a task."""
        layout = self.family.layout(portion.side)
        indices = range(first, first + portion.batch_size)
        task = portion.task
        scenes = [task.scene(index, split, portion.side) for index in indices]
        seen = {
            "cells": layout.cells,
            "on_noise": torch.tensor(task.name == "digits"),
            **self._pictures(scenes, layout, portion.side),
        }
        if not task.kinds:
            return seen
        kept = min(portion.kept, len(layout.cells))
        room = portion.length - len(self.family.head) - kept
        rows = [
            self.row(scene, task.questions(scene, index, split, room // 6), room)
            for scene, index in zip(scenes, indices, strict=True)
        ]
        return {
            **seen,
            **self._text(rows),
            **self._choice(scenes, indices, layout, replace(portion, kept=kept), rows),
        }

    def _pictures(
        self, scenes: list[PictureScene], layout: TokenLayout, side: int
    ) -> dict[str, Tensor]:
        """Pixels, and label, color and contents for the read-outs of sight."""
        cells = [cell_labels(scene, side) for scene in scenes]
        reduced = layout.cells < 0
        labels, colors, order = (
            torch.from_numpy(np.stack(column))[:, layout.cells].masked_fill(reduced, IGNORE)
            for column in zip(*cells, strict=True)
        )
        tiles = int(layout.tiles.max()) + 1
        places = torch.argsort(layout.cells, stable=True)[int(reduced.sum()) :]  # of a square
        seen = torch.zeros(len(scenes), tiles, NOTHING + NO_COLOR)
        for row, scene in enumerate(scenes):
            for label, color, top, left in map(facts, scene.items):
                at = int(places[top * layout.rows + left])
                shown_in = {int(layout.tiles[at])}
                shown_in |= set(layout.tiles[reduced].tolist())
                for tile in shown_in:
                    seen[row, tile, [label, NOTHING + color]] = 1
        images = torch.from_numpy(np.stack([scene.image for scene in scenes])).float() / 255
        images = (images - torch.tensor(IMAGE_MEAN)) / torch.tensor(IMAGE_STD)
        return {
            "images": images.permute(0, 3, 1, 2).contiguous(),
            "token_label": labels,
            "token_colour": colors,
            "token_place": order[..., None],
            "seen": seen,
        }

    def _text(self, rows: list[Row]) -> dict[str, Tensor]:
        return {
            name: torch.tensor([getattr(row, name) for row in rows])
            for name in ("ids", "segments", "labels", "offsets", "named", "compared")
        }

    def _choice(
        self,
        scenes: list[PictureScene],
        indices: range,
        layout: TokenLayout,
        portion: Portion,
        rows: list[Row],
    ) -> dict[str, Tensor]:
        """Which image tokens the decoder sees, and where everything is.

        Tokens that show an item are always among them.
        """
        kept, keep, places, starts = portion.kept, [], [], []
        for scene, index in zip(scenes, indices, strict=True):
            rng = np.random.default_rng([13, index])
            shown = cell_labels(scene, layout.rows * PATCH)[0][layout.cells] != NOTHING
            shown &= layout.cells.numpy() >= 0
            order = rng.random(len(shown)) - shown
            chosen = torch.from_numpy(np.sort(np.argsort(order)[:kept]))
            positions, start = layout.positions[:, chosen], layout.start
            close = portion.closed and index % 4 == 0 and len(positions) == 1
            if close and kept < len(shown):
                positions, start = layout.positions[:, :kept], start - len(shown) + kept
            keep.append(chosen)
            places.append(positions)
            starts.append(start)
        offsets = torch.tensor([row.offsets for row in rows]) + torch.tensor(starts)[:, None]
        axes = len(layout.positions)
        head = torch.arange(len(self.family.head)).expand(axes, len(rows), -1)
        positions = torch.stack(places, dim=1)
        text = offsets.expand(axes, -1, -1)
        return {
            "keep": torch.stack(keep),
            "positions": torch.cat([head, positions, text], dim=2),
            "head": torch.tensor(self.family.head).expand(len(rows), -1),
        }


def block_mask(segments: Tensor, before: int) -> Tensor:
    """``[batch, 1, tokens, tokens]``: each question sees the picture and itself, backwards."""
    whole = torch.nn.functional.pad(segments, (before, 0))
    visible = (whole[:, None, :] == whole[:, :, None]) | (whole[:, None, :] == 0)
    length = whole.shape[1]
    visible &= torch.ones(length, length, dtype=torch.bool, device=whole.device).tril()
    mask = torch.zeros(visible.shape, dtype=torch.bfloat16, device=whole.device)
    return mask.masked_fill(~visible, torch.finfo(torch.bfloat16).min)[:, None]
