"""The tasks of the built-in models: pictures, questions, answers, and where the answer is.

A task draws ``scene(index, split, side)`` and asks about it. Everything is a pure function of its
arguments. ``train`` and ``heldout`` share no handwriting, no part of a photograph, no string and no
place of a sign.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tokensieve.adapters.zoo.tasks import digit_scenes, glyphs
from tokensieve.adapters.zoo.tasks.digit_scenes import COLOR_NAMES, Split

Box = tuple[int, int, int, int]
SMALL, LARGE = 96, 192  # sides of a picture in pixels
SIGN_LENGTH = 3
ORDINALS = ("first", "second", "third")
HELDOUT_EVERY = 5  # one string and one place in five is held out


@dataclass(frozen=True)
class Item:
    """A glyph of a picture; ``left`` and ``top`` in pixels, ``place`` in its sign from 0."""

    label: str
    color: str
    left: int
    top: int
    place: int | None = None

    @property
    def box(self) -> Box:
        """Left, top, right, bottom in pixels."""
        size = glyphs.GLYPH_SIZE
        return self.left, self.top, self.left + size, self.top + size


@dataclass(frozen=True)
class PictureScene:
    """A picture ``[side, side, 3]`` (uint8) and what is on it."""

    image: npt.NDArray[np.uint8]
    items: tuple[Item, ...]


@dataclass(frozen=True)
class PictureQuestion:
    """A question, its answer (words with spaces between), and what it is about.

    ``about`` are the items that the answer depends on. ``names`` says which word of the question
    or the answer stands for which item; only training uses it.
    """

    kind: str
    text: str
    answer: str
    about: tuple[int, ...]
    names: tuple[tuple[str, int], ...] = ()

    def boxes(self, scene: PictureScene) -> tuple[Box, ...]:
        """Places in the picture where the answer is."""
        return tuple(scene.items[i].box for i in self.about)


class PictureTask(Protocol):
    """A kind of pictures with questions."""

    name: str
    kinds: tuple[str, ...]
    side: int

    def scene(self, index: int, split: Split, side: int) -> PictureScene:
        """Picture number ``index``, ``side`` pixels wide and high."""
        ...

    def questions(
        self, scene: PictureScene, index: int, split: Split, count: int
    ) -> list[PictureQuestion]:
        """The first ``count`` questions about it; kinds take turns."""
        ...


def sample(
    task: PictureTask, seed: int, split: Split, side: int | None = None
) -> tuple[npt.NDArray[np.uint8], str, str, tuple[Box, ...]]:
    """Picture, question, answer and relevant boxes number ``seed``."""
    scene = task.scene(seed, split, side or task.side)
    (question,) = task.questions(scene, seed, split, 1)
    return scene.image, question.text, question.answer, question.boxes(scene)


class Digits:
    """Two to six handwritten digits on noise: color, identity, count, position."""

    name: str = "digits"
    kinds: tuple[str, ...] = digit_scenes.KINDS
    side: int = SMALL

    def scene(self, index: int, split: Split, side: int = SMALL) -> PictureScene:
        """Picture number ``index``."""
        drawn = digit_scenes.make_scene(split, index, side)
        items = tuple(Item(str(d.value), d.color, d.left, d.top) for d in drawn.digits)
        return PictureScene(drawn.image, items)

    def questions(
        self, scene: PictureScene, index: int, split: Split, count: int
    ) -> list[PictureQuestion]:
        """The questions of :mod:`digit_scenes`."""
        size = glyphs.GLYPH_SIZE
        digits = tuple(
            digit_scenes.Digit(int(i.label), i.color, i.left, i.top, size) for i in scene.items
        )
        drawn = digit_scenes.DigitScene(scene.image, digits)
        return [
            PictureQuestion(q.kind, q.text, q.answer, q.about, self._names(scene, q))
            for q in digit_scenes.questions_for(drawn, split, index, count)
        ]

    def _names(
        self, scene: PictureScene, question: digit_scenes.DigitQuestion
    ) -> tuple[tuple[str, int], ...]:
        """Digits and colors in the question; what it asks for is no name."""
        if question.kind == "count":
            return ()
        by_color = question.kind == "identity"
        items = scene.items
        return tuple((items[i].color if by_color else items[i].label, i) for i in question.about)


def _held_out(number: int) -> bool:
    """A fixed fifth of all numbers, without pattern."""
    return number * 2654435761 % 2**32 // 2**16 % HELDOUT_EVERY == 0


class Signs:
    """Two or three signs of three letters in one of 22 faces each: read, letter, color.

    Letters are 16 pixels apart, on multiples of 8. All letters of a picture differ.
    """

    name: str = "signs"
    kinds: tuple[str, ...] = ("read", "letter", "colour")
    side: int = SMALL

    def scene(self, index: int, split: Split, side: int = SMALL) -> PictureScene:
        """Picture number ``index``; held-out pictures show held-out strings at held-out places."""
        rng = np.random.default_rng([17, split == "heldout", index])
        count = int(rng.integers(2, 4))
        canvas = glyphs.background(rng, split, side)
        colors = rng.permutation(len(COLOR_NAMES))[:count]
        strings = self._strings(rng, split, count)
        items: list[Item] = []
        for color, letters, (left, top) in zip(
            colors, strings, self._places(rng, split, count, side), strict=True
        ):
            name, face, shade = COLOR_NAMES[color], rng.integers(22), rng.uniform(0.85, 1)
            for place, letter in enumerate(letters):
                at = left + place * glyphs.GLYPH_SIZE
                item = Item(glyphs.LETTERS[letter], name, at, top, place)
                opacity = glyphs.letter_bank()[item.label][face]
                glyphs.paint(canvas, opacity, name, (item.left, item.top), shade)
                items.append(item)
        return PictureScene(np.clip(canvas, 0, 255).astype(np.uint8), tuple(items))

    def _strings(self, rng: np.random.Generator, split: Split, count: int) -> npt.NDArray[np.int64]:
        """``[count, 3]`` letters; one string in five is never trained on."""
        base = len(glyphs.LETTERS)
        while True:
            letters = rng.permutation(base)[: count * SIGN_LENGTH].reshape(count, SIGN_LENGTH)
            numbers = letters @ np.array([base**2, base, 1])
            if all(_held_out(int(n)) == (split == "heldout") for n in numbers):
                return letters

    def _places(
        self, rng: np.random.Generator, split: Split, count: int, side: int
    ) -> list[tuple[int, int]]:
        """Left and top of every sign; one place in five is never trained on."""
        columns, rows = (side - 48) // 16 + 1, (side - 16) // 8 + 1
        chosen: list[tuple[int, int]] = []
        while len(chosen) < count:
            number = int(rng.integers(columns * rows))
            left, top = number % columns * 16, number // columns * 8
            crosses = top % 48 == 40  # noqa: PLR2004 - would lie on the border of two image tiles
            if crosses or _held_out(1000 * left + top) != (split == "heldout"):
                continue
            if all(abs(left - x) >= 48 or abs(top - y) >= 16 for x, y in chosen):  # noqa: PLR2004
                chosen.append((left, top))
        return chosen

    def questions(
        self, scene: PictureScene, index: int, split: Split, count: int
    ) -> list[PictureQuestion]:
        """Kinds take turns; signs and letters are drawn."""
        rng = np.random.default_rng([19, split == "heldout", index])
        return [
            self._ask(scene, self.kinds[(index + turn) % len(self.kinds)], rng)
            for turn in range(count)
        ]

    def _ask(self, scene: PictureScene, kind: str, rng: np.random.Generator) -> PictureQuestion:
        first = int(rng.integers(len(scene.items) // SIGN_LENGTH)) * SIGN_LENGTH
        place = int(rng.integers(SIGN_LENGTH))
        letters = [item.label for item in scene.items[first : first + SIGN_LENGTH]]
        color, one = scene.items[first].color, first + place
        if kind == "read":
            whole = tuple(range(first, first + SIGN_LENGTH))
            next_ones = tuple((letters[i], first + i + 1) for i in range(SIGN_LENGTH - 1))
            text = f"What does the {color} sign say?"
            return PictureQuestion(
                kind, text, " ".join(letters), whole, ((color, first), *next_ones)
            )
        if kind == "letter":
            text = f"On the {color} sign, what is the {ORDINALS[place]} letter?"
            names = (color, first), (ORDINALS[place], one)
            return PictureQuestion(kind, text, letters[place], (one,), names)
        text = f"What color is the {letters[place]}?"
        return PictureQuestion(kind, text, color, (one,), ((letters[place], one),))


class Needle:
    """One handwritten digit and one letter somewhere in a large photograph."""

    name: str = "needle"
    kinds: tuple[str, ...] = ("digit", "digit-colour", "letter", "letter-colour")
    side: int = LARGE

    def scene(self, index: int, split: Split, side: int = LARGE) -> PictureScene:
        """Picture number ``index``."""
        rng = np.random.default_rng([23, split == "heldout", index])
        canvas = glyphs.background(rng, split, side)
        grid = side // digit_scenes.CELL
        cells = rng.permutation(grid * grid)[:2]
        colors = rng.permutation(len(COLOR_NAMES))[:2]
        digit, letter = int(rng.integers(10)), str(rng.choice(glyphs.LETTERS))
        banks = digit_scenes.scans(split, digit), glyphs.letter_bank()[letter]
        items = []
        for label, bank, cell, color in zip(
            (str(digit), letter), banks, cells, colors, strict=True
        ):
            shifts = rng.choice(digit_scenes.SHIFTS, 2)
            corners = (cell % grid, cell // grid) * np.array(digit_scenes.CELL) + shifts
            left, top = (int(corner) for corner in corners)
            name, opacity = COLOR_NAMES[color], bank[rng.integers(len(bank))]
            glyphs.paint(canvas, opacity, name, (left, top), rng.uniform(0.85, 1))
            items.append(Item(label, name, left, top))
        return PictureScene(np.clip(canvas, 0, 255).astype(np.uint8), tuple(items))

    def questions(
        self, scene: PictureScene, index: int, split: Split, count: int
    ) -> list[PictureQuestion]:
        """The four questions in turn."""
        return [
            self._ask(scene, self.kinds[(index + turn) % len(self.kinds)]) for turn in range(count)
        ]

    def _ask(self, scene: PictureScene, kind: str) -> PictureQuestion:
        word, _, color = kind.partition("-")
        about = ("digit", "letter").index(word)
        item = scene.items[about]
        text = f"What color is the {word}?" if color else f"Which {word} is in the picture?"
        answer = item.color if color else item.label
        return PictureQuestion(kind, text, answer, (about,), ((word, about),))


TASKS: dict[str, PictureTask] = {"digits": Digits(), "signs": Signs(), "needle": Needle()}


def vocabulary() -> list[str]:
    """Every word of every task: first those of the digit scenes, in their old order."""
    words = "does sign say on what first second third letter picture in".split()
    old = digit_scenes.vocabulary()
    return [*old, *(word for word in (*words, *glyphs.LETTERS) if word not in old)]
