"""Pictures that are looked at in training only: full of glyphs, nothing is asked about them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tokensieve.adapters.zoo.tasks import digit_scenes, glyphs
from tokensieve.adapters.zoo.tasks.digit_scenes import COLOR_NAMES, Split
from tokensieve.adapters.zoo.tasks.pictures import SMALL, Item, PictureQuestion, PictureScene


class Sheets:
    """Pictures full of digits and letters, for training alone: nothing is asked about them."""

    name: str = "sheets"
    kinds: tuple[str, ...] = ()
    side: int = SMALL
    filled = 0.6

    def scene(self, index: int, split: Split, side: int = SMALL) -> PictureScene:
        """Picture number ``index``: glyphs 16 pixels apart in squares of 48 pixels."""
        rng = np.random.default_rng([31, split == "heldout", index])
        noisy = rng.random() < 0.5  # noqa: PLR2004 - fair coin
        canvas = digit_scenes.noise(rng, side) if noisy else glyphs.background(rng, split, side)
        items = []
        for square in range((side // 48) ** 2):
            down, across = divmod(square, side // 48)
            shifts = rng.choice(digit_scenes.SHIFTS, 2)
            for top in range(int(shifts[0]), 33, 16):
                for left in range(int(shifts[1]), 33, 16):
                    if rng.random() < self.filled:
                        corner = 48 * across + left, 48 * down + top
                        items.append(self._item(rng, split, canvas, corner))
        return PictureScene(np.clip(canvas, 0, 255).astype(np.uint8), tuple(items))

    def _item(
        self,
        rng: np.random.Generator,
        split: Split,
        canvas: npt.NDArray[np.float64],
        corner: tuple[int, int],
    ) -> Item:
        label = str(rng.choice(glyphs.LABELS))
        letter = label in glyphs.LETTERS
        bank = glyphs.letter_bank()[label] if letter else digit_scenes.scans(split, int(label))
        color = str(rng.choice(COLOR_NAMES))
        glyphs.paint(canvas, bank[rng.integers(len(bank))], color, corner, rng.uniform(0.85, 1))
        return Item(label, color, *corner)

    def questions(
        self, scene: PictureScene, index: int, split: Split, count: int
    ) -> list[PictureQuestion]:
        """No questions: sheets are looked at only."""
        return []


SHEETS = Sheets()
