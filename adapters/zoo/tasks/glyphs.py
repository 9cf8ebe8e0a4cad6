"""Material of the tasks' pictures: scanned digits, letters in real fonts, photographs.

Everything ships inside Python packages. The digits are scikit-learn's ``load_digits``; the letters
are rendered in the 22 faces that matplotlib carries for its own plots (DejaVu, STIX, Computer
Modern); the backgrounds are crops of scikit-learn's two sample photographs.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tokensieve.adapters.zoo.tasks.digit_scenes import COLOR_NAMES, COLORS, DIGIT_SIZE, Split

GLYPH_SIZE = DIGIT_SIZE
PATCH = 8  # pixels of a visual token; glyphs begin on its multiples
LETTERS = tuple("acdefhjklmnprtuvwxyz")
"""Capitals, named in lower case; no B, G, I, O, Q, S, which look like others or like digits."""

LABELS = (*(str(n) for n in range(10)), *LETTERS)
"""Everything that can be read in a picture."""

FACES = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmb10", "cmmi10", "cmr10", "cmss10", "cmti10", "cmtt10"),
)
PHOTOGRAPHS = ("china.jpg", "flower.jpg")
TRAIN_COLUMNS = 432  # of 640: what is to the right is for held-out pictures
DARKEST, BRIGHTEST = 20, 70

Opacity = npt.NDArray[np.float32]


@lru_cache(maxsize=1)
def letter_bank() -> dict[str, Opacity]:
    """Letter -> opacities ``[faces, 16, 16]`` in 0..1, in the order of ``FACES``."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return {
        letter: np.stack([_render(folder / f"{face}.ttf", letter.upper()) for face in FACES])
        for letter in LETTERS
    }


def _render(path: Path, text: str) -> Opacity:
    """One glyph, as large as the cell allows, in its center."""
    from PIL import Image, ImageDraw, ImageFont

    for points in range(20, 6, -1):
        font = ImageFont.truetype(str(path), points)
        left, top, right, bottom = font.getbbox(text)
        if right - left <= GLYPH_SIZE and bottom - top <= GLYPH_SIZE - 2:
            break
    cell = Image.new("L", (GLYPH_SIZE, GLYPH_SIZE))
    place = (GLYPH_SIZE - left - right) / 2, (GLYPH_SIZE - top - bottom) / 2
    ImageDraw.Draw(cell).text(place, text, fill=255, font=font)
    return np.asarray(cell, dtype=np.float32) / np.float32(255)


@lru_cache(maxsize=1)
def _photographs() -> list[npt.NDArray[np.float32]]:
    """The photographs in gray, mean 0 and standard deviation 1."""
    from sklearn.datasets import load_sample_image

    gray = [load_sample_image(name).astype(np.float32).mean(axis=2) for name in PHOTOGRAPHS]
    return [(photo - photo.mean()) / photo.std() for photo in gray]


def background(rng: np.random.Generator, split: Split, side: int) -> npt.NDArray[np.float64]:
    """``[side, side, 3]``: a dark crop of a photograph with some noise; held-out places differ."""
    photo = _photographs()[rng.integers(len(PHOTOGRAPHS))]
    part = photo[:, :TRAIN_COLUMNS] if split == "train" else photo[:, TRAIN_COLUMNS:]
    top, left = (int(rng.integers(length - side + 1)) for length in part.shape)
    crop = part[top : top + side, left : left + side, None]
    if rng.random() < 0.5:  # noqa: PLR2004 - fair coin
        crop = crop[:, ::-1]
    noise = rng.normal(0, rng.uniform(2, 10), (side, side, 3))
    canvas = rng.uniform(DARKEST, BRIGHTEST) + rng.uniform(5, 22) * crop + noise
    return np.clip(canvas, 0, BRIGHTEST + 60)


def paint(
    canvas: npt.NDArray[Any], opacity: Opacity, color: str, corner: tuple[int, int], shade: float
) -> None:
    """Put a glyph in ``color`` at ``corner`` = (left, top)."""
    left, top = corner
    window = canvas[top : top + GLYPH_SIZE, left : left + GLYPH_SIZE]
    ink = np.asarray(COLORS[color]) * shade
    window[:] = window * (1 - opacity[..., None]) + ink * opacity[..., None]


__all__ = ["COLOR_NAMES", "FACES", "GLYPH_SIZE", "LABELS", "LETTERS", "background", "paint"]
