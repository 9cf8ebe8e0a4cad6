"""Training batches: scenes, packed questions and what the probes have to say about them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tokensieve.adapters.zoo import tiny_llava
from tokensieve.adapters.zoo.tasks import digit_scenes as scenes

PATCHES_PER_SIDE = scenes.IMAGE_SIZE // tiny_llava.PATCH_SIZE
BACKGROUND = 10  # the class after the ten digits
IGNORE = -100
NOTHING = (IGNORE,) * 4


def patch_labels(
    scene: scenes.DigitScene,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Digit (10 = none) and color of every patch, raster order, and what the scene contains."""
    value = np.full((PATCHES_PER_SIDE, PATCHES_PER_SIDE), BACKGROUND)
    color = np.full((PATCHES_PER_SIDE, PATCHES_PER_SIDE), len(scenes.COLOR_NAMES))
    seen = np.zeros(10 + len(scenes.COLOR_NAMES), dtype=np.float32)
    centers = np.arange(PATCHES_PER_SIDE) * tiny_llava.PATCH_SIZE + tiny_llava.PATCH_SIZE / 2
    for digit in scene.digits:
        rows = (centers > digit.top) & (centers < digit.top + digit.side)
        columns = (centers > digit.left) & (centers < digit.left + digit.side)
        shade = scenes.COLOR_NAMES.index(digit.color)
        value[np.ix_(rows, columns)] = digit.value
        color[np.ix_(rows, columns)] = shade
        seen[[digit.value, 10 + shade]] = 1
    return value.ravel(), color.ravel(), seen


class Packer:
    """Turns scenes and questions into one training batch."""

    def __init__(self, batch_size: int, questions: int) -> None:
        self.batch_size = batch_size
        self.questions = questions
        self.tokenizer = tiny_llava.build_tokenizer()
        self.image_id = self.tokenizer.get_vocab()["<image>"]
        head = self.tokenizer("USER:")["input_ids"]
        self.words: dict[str, int] = self.tokenizer.get_vocab()
        self.known: dict[tuple[str, str], list[int]] = {}
        self.prefix = [*head, *[self.image_id] * PATCHES_PER_SIDE**2]

    def _question(self, question: scenes.DigitQuestion) -> list[int]:
        key = question.text, question.answer
        if key not in self.known:
            text = f"{question.text} ASSISTANT: {question.answer}"
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            self.known[key] = [*ids, int(self.tokenizer.eos_token_id)]
        return self.known[key]

    def sequence(
        self, scene: scenes.DigitScene, questions: list[scenes.DigitQuestion]
    ) -> tuple[list[Any], ...]:
        """Ids, positions, segment (0 = image), label, named digit and side of every token."""
        ids, start = list(self.prefix), len(self.prefix)
        positions, segments, labels = list(range(start)), [0] * start, [IGNORE] * start
        named: list[Any] = [NOTHING] * start
        sides: list[Any] = [NOTHING[:3]] * start
        for turn, question in enumerate(questions, 1):
            tokens = self._question(question)
            ids += tokens
            positions += range(start, start + len(tokens))
            segments += [turn] * len(tokens)
            labels += [*[IGNORE] * (len(tokens) - 2), *tokens[-2:]]
            named += self._named(scene, question, tokens)
            sides += self._sides(scene, question, tokens)
        return ids, positions, segments, labels, named, sides

    def _named(
        self, scene: scenes.DigitScene, question: scenes.DigitQuestion, tokens: list[int]
    ) -> list[tuple[int, ...]]:
        """What the naming words of a question stand for; the answer itself names nothing."""
        found: dict[int, tuple[int, ...]] = {}
        for index in question.about if question.kind != "count" else ():
            digit = scene.digits[index]
            facts = (
                digit.value,
                scenes.COLOR_NAMES.index(digit.color),
                digit.top // tiny_llava.PATCH_SIZE,
                digit.left // tiny_llava.PATCH_SIZE,
            )
            for word in (str(digit.value), digit.color):
                found[self.words[word]] = facts
        return [*(found.get(token, NOTHING) for token in tokens[:-2]), NOTHING, NOTHING]

    def _sides(
        self, scene: scenes.DigitScene, question: scenes.DigitQuestion, tokens: list[int]
    ) -> list[tuple[int, ...]]:
        """At the second digit of a comparison: where the first one is (0, 2), and the answer."""
        sides: list[tuple[int, ...]] = [NOTHING[:3]] * len(tokens)
        if question.kind == "position":
            first, second = (scene.digits[i] for i in question.about)
            place = tokens.index(self.words[str(second.value)])
            offsets = np.sign(np.subtract(first.center, second.center))
            holds = int(question.answer == "yes")
            sides[place] = (int(offsets[0]) + 1, int(offsets[1]) + 1, holds)
        return sides

    def _thinned(self, drawn: list[scenes.DigitScene], indices: range, length: int) -> torch.Tensor:
        """``[batch, tokens]`` bool: background patches that are hidden, any share of them."""
        gone = torch.zeros(len(drawn), length, dtype=torch.bool)
        start = len(self.prefix) - PATCHES_PER_SIDE**2
        for row, (scene, index) in enumerate(zip(drawn, indices, strict=True)):
            rng = np.random.default_rng([13, index])
            share = rng.uniform(0, 1)
            background = patch_labels(scene)[0] == BACKGROUND
            hidden = (rng.random(background.shape) < share) & background
            gone[row, start : len(self.prefix)] = torch.from_numpy(hidden)
        return gone

    def batch(
        self, split: scenes.Split, first: int, *, opposites: bool = False, thin: bool = False
    ) -> dict[str, torch.Tensor]:
        """Scenes ``first .. first + batch_size`` of ``split``, packed and padded.

        ``thin`` hides background patches; every other scene then has contiguous positions.
        """
        indices = range(first, first + self.batch_size)
        drawn = [scenes.make_scene(split, i) for i in indices]
        rows = [
            self.sequence(
                scene, scenes.questions_for(scene, split, i, self.questions, opposites=opposites)
            )
            for scene, i in zip(drawn, indices, strict=True)
        ]
        length = max(len(row[0]) for row in rows)
        fill: tuple[Any, ...] = (0, 0, -1, IGNORE, NOTHING, NOTHING[:3])
        ids, positions, segments, labels, named, sides = (
            torch.tensor([row[k] + [fill[k]] * (length - len(row[k])) for row in rows])
            for k in range(len(fill))
        )
        visible = (segments[:, None, :] == segments[:, :, None]) | (segments[:, None, :] == 0)
        visible &= torch.ones(length, length, dtype=torch.bool).tril()
        if thin:
            gone = self._thinned(drawn, indices, length)
            visible &= ~gone[:, None, :] | torch.eye(length, dtype=torch.bool)
            closed = positions - gone.long().cumsum(dim=1)  # ids without gaps
            reindex = torch.tensor([i % 2 == 0 for i in indices])[:, None]
            positions = torch.where(reindex, closed, positions)
        mask = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)
        value, color, seen = (
            torch.from_numpy(np.stack(column))
            for column in zip(*(patch_labels(scene) for scene in drawn), strict=True)
        )
        images = torch.from_numpy(np.stack([scene.image for scene in drawn])).float() / 255
        mean, std = torch.tensor(tiny_llava.IMAGE_MEAN), torch.tensor(tiny_llava.IMAGE_STD)
        return {
            "pixel_values": ((images - mean) / std).permute(0, 3, 1, 2),
            "input_ids": ids,
            "position_ids": positions,
            "attention_mask": mask[:, None],
            "labels": labels,
            "named": named,
            "sides": sides,
            "patch_value": value,
            "patch_colour": color,
            "seen": seen,
        }
