"""Digit scenes: real handwritten digits, colored, on a noisy background, with questions.

The digits are scikit-learn's ``load_digits`` (1,797 real 8x8 scans, UCI ML repository). They are
split *by digit image* into ``train`` and ``heldout``, so a held-out scene shows only handwriting
the model never saw. Every answer depends on a small region of the picture that the question
names. A scene is a pure function of ``(split, index)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

Split = Literal["train", "heldout"]
Kind = Literal["colour", "identity", "count", "position"]

IMAGE_SIZE = 96
CELL = 24  # digits are dealt to distinct cells of a 4 x 4 grid, then shifted inside the cell
GRID = IMAGE_SIZE // CELL
DIGIT_SIZE = 16
SHIFTS = (0, 8)  # multiples of the patch size: a digit fills exactly 2 x 2 patches
HELDOUT_SHARE = 0.2
MIN_DIGITS, MAX_DIGITS = 2, 6

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (235, 40, 40),
    "green": (40, 200, 60),
    "blue": (60, 90, 255),
    "yellow": (240, 225, 40),
    "pink": (250, 110, 200),
    "cyan": (40, 220, 230),
    "orange": (250, 140, 20),
    "white": (245, 245, 245),
}
COLOR_NAMES = tuple(COLORS)
KINDS: tuple[Kind, ...] = ("colour", "identity", "count", "position")


@dataclass(frozen=True)
class Digit:
    """One digit of a scene: what it is, its color, and its box ``(left, top, side)`` in pixels."""

    value: int
    color: str
    left: int
    top: int
    side: int

    @property
    def center(self) -> tuple[float, float]:
        """Center of the box as ``(x, y)`` in pixels."""
        return self.left + self.side / 2, self.top + self.side / 2


@dataclass(frozen=True)
class DigitQuestion:
    """A question about a scene, its one-word answer, and the digits the answer depends on."""

    kind: Kind
    text: str
    answer: str
    about: tuple[int, ...]


@dataclass(frozen=True)
class DigitScene:
    """A picture ``[side, side, 3]`` (uint8) and the digits on it."""

    image: npt.NDArray[np.uint8]
    digits: tuple[Digit, ...]


@lru_cache(maxsize=1)
def _digit_bank() -> dict[str, dict[int, npt.NDArray[np.float32]]]:
    """``bank[split][value]``: opacities ``[images, 16, 16]`` in 0..1."""
    from PIL import Image
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(20630).permutation(len(data.images))
    bank: dict[str, dict[int, npt.NDArray[np.float32]]] = {"train": {}, "heldout": {}}
    for value in range(10):
        indices = [int(i) for i in order if data.target[i] == value]
        cut = round(len(indices) * HELDOUT_SHARE)
        for split, members in (("heldout", indices[:cut]), ("train", indices[cut:])):
            scans = [Image.fromarray((data.images[i] / 16 * 255).astype(np.uint8)) for i in members]
            size, smooth = (DIGIT_SIZE, DIGIT_SIZE), Image.Resampling.BILINEAR
            bank[split][value] = np.stack(
                [np.asarray(scan.resize(size, smooth), dtype=np.float32) / 255 for scan in scans]
            )
    return bank


def scans(split: Split, value: int) -> npt.NDArray[np.float32]:
    """All handwritings of a digit in ``split``: opacities ``[images, 16, 16]`` in 0..1."""
    return _digit_bank()[split][value]


def noise(rng: np.random.Generator, side: int) -> npt.NDArray[np.float64]:
    """A dark background ``[side, side, 3]`` of coarse and fine noise."""
    coarse = rng.normal(0, 12, (side // 8, side // 8, 3)).repeat(8, 0).repeat(8, 1)
    fine = rng.normal(0, 10, (side, side, 3))
    canvas: npt.NDArray[np.float64] = rng.uniform(20, 70) + coarse + fine
    return canvas


def make_scene(split: Split, index: int, image_size: int = IMAGE_SIZE) -> DigitScene:
    """Draw scene ``index`` of ``split``: 2 to 6 digits, all values and all colors distinct.

    A larger ``image_size`` (a multiple of ``CELL``) gives more background, not larger digits.
    """
    rng = np.random.default_rng([7, split == "heldout", index])
    bank = _digit_bank()[split]
    grid = image_size // CELL
    count = int(rng.integers(MIN_DIGITS, MAX_DIGITS + 1))
    values = rng.permutation(10)[:count]
    colors = rng.permutation(len(COLOR_NAMES))[:count]
    cells = rng.permutation(grid * grid)[:count]
    canvas = noise(rng, image_size)
    digits = []
    for value, color, cell in zip(values, colors, cells, strict=True):
        side = DIGIT_SIZE
        shift_x, shift_y = rng.choice(SHIFTS, 2)
        left, top = int(cell % grid * CELL + shift_x), int(cell // grid * CELL + shift_y)
        scans = bank[int(value)]
        opacity = scans[rng.integers(len(scans)), :, :, None]
        shade = np.asarray(COLORS[COLOR_NAMES[color]]) * rng.uniform(0.85, 1.0)
        window = canvas[top : top + side, left : left + side]
        window[:] = window * (1 - opacity) + shade * opacity
        digits.append(Digit(int(value), COLOR_NAMES[color], left, top, side))
    return DigitScene(np.clip(canvas, 0, 255).astype(np.uint8), tuple(digits))


def ask(
    scene: DigitScene, kind: Kind, rng: np.random.Generator, *, opposites: bool = False
) -> DigitQuestion:
    """Draw one question of ``kind`` about ``scene``.

    ``opposites`` also asks ``right of`` and ``below``, not only ``left of`` and ``above``.
    """
    digits = scene.digits
    if kind == "count":
        everything = tuple(range(len(digits)))
        return DigitQuestion(kind, "How many digits are there?", str(len(digits)), everything)
    first = int(rng.integers(len(digits)))
    digit = digits[first]
    if kind == "colour":
        return DigitQuestion(kind, f"What color is the {digit.value}?", digit.color, (first,))
    if kind == "identity":
        return DigitQuestion(kind, f"Which digit is {digit.color}?", str(digit.value), (first,))
    second = int((first + rng.integers(1, len(digits))) % len(digits))
    return _position_question(digits, first, second, rng, opposites)


def _position_question(
    digits: tuple[Digit, ...],
    first: int,
    second: int,
    rng: np.random.Generator,
    opposites: bool,
) -> DigitQuestion:
    """``Is the 7 left of the 3?``: on an axis along which the two digits' boxes do not overlap."""
    one, two = digits[first], digits[second]
    gaps = [abs(a - b) for a, b in zip(one.center, two.center, strict=True)]
    clear = [axis for axis in (0, 1) if gaps[axis] >= DIGIT_SIZE]
    axis = int(rng.choice(clear)) if clear else int(np.argmax(gaps))
    before, after = (("left of", "right of"), ("above", "below"))[axis]
    relation = after if rng.random() >= 0.5 and opposites else before  # noqa: PLR2004 - fair coin
    holds = (one.center[axis] < two.center[axis]) == (relation == before)
    text = f"Is the {one.value} {relation} the {two.value}?"
    return DigitQuestion("position", text, "yes" if holds else "no", (first, second))


def questions_for(
    scene: DigitScene, split: Split, index: int, count: int, *, opposites: bool = False
) -> list[DigitQuestion]:
    """The first ``count`` questions of scene ``index``; kinds take turns."""
    rng = np.random.default_rng([11, split == "heldout", index])
    kinds = [KINDS[(index + turn) % len(KINDS)] for turn in range(count)]
    return [ask(scene, kind, rng, opposites=opposites) for kind in kinds]


def vocabulary() -> list[str]:
    """Every word that a question or an answer can contain, lower case, in a fixed order."""
    words = (
        "user assistant what color colour is the which digit how many digits are there left right "
        "of above below yes no ? : ,"
    ).split()
    return [*words, *(str(n) for n in range(10)), *COLOR_NAMES]
