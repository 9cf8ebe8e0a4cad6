"""tiny-timm-vit: a timm classifier of handwritten digits in noisy scenes.

The digits are those of ``zoo.tasks.digit_scenes``, split by scan: a held-out scene
shows only handwriting that the model never saw. One digit a scene, on 2 x 2 of its 64 patches; some
patches hold colored squares instead, so that color alone does not say where to look. A scene is a
pure function of ``(split, index)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tokensieve.adapters.zoo.tasks.digit_scenes import COLORS, DIGIT_SIZE, Split, scans

if TYPE_CHECKING:
    from torch import Tensor

NAME = "tiny-timm-vit"
FOLDER = Path(__file__).parent / "checkpoints" / NAME
CLASSES = 10
SIDE, PATCH = 64, 8
GRID = SIDE // PATCH
ARCHITECTURE = "vit_tiny_patch16_224"
MODEL_ARGS: dict[str, Any] = {
    "img_size": SIDE,
    "patch_size": PATCH,
    "embed_dim": 64,
    "depth": 8,
    "num_heads": 4,
    "mlp_ratio": 3.0,
}
MIN_SQUARES, MAX_SQUARES = 4, 8
SQUARE_SIDES = (5, 12)
_SHADES = np.asarray(list(COLORS.values()), dtype=np.float64)


@dataclass(frozen=True)
class OneDigitScene:
    """A picture ``[64, 64, 3]`` (uint8), its digit, and the ``(left, top)`` pixel of its box."""

    image: npt.NDArray[np.uint8]
    digit: int
    corner: tuple[int, int]

    @property
    def patches(self) -> list[int]:
        """The patches that the digit fills, in raster order."""
        left, top = (place // PATCH for place in self.corner)
        span = range(DIGIT_SIZE // PATCH)
        return [(top + down) * GRID + left + right for down in span for right in span]


def make_scene(split: Split, index: int) -> OneDigitScene:
    """Draw scene ``index`` of ``split``."""
    rng = np.random.default_rng([13, split == "heldout", index])
    coarse = rng.normal(0, 14, (GRID, GRID, 3)).repeat(PATCH, 0).repeat(PATCH, 1)
    canvas = rng.uniform(20, 70) + coarse + rng.normal(0, 12, (SIDE, SIDE, 3))
    left, top = (int(place) * PATCH for place in rng.integers(0, GRID - 1, 2))
    for _ in range(int(rng.integers(MIN_SQUARES, MAX_SQUARES + 1))):
        side = int(rng.integers(*SQUARE_SIDES))
        x, y = (int(place) for place in rng.integers(0, SIDE - side, 2))
        if abs(x + side / 2 - left - 8) < (side + 18) / 2 > abs(y + side / 2 - top - 8):
            continue  # it would cover the digit
        canvas[y : y + side, x : x + side] = _SHADES[rng.integers(len(_SHADES))] * rng.uniform(
            0.6, 1.0
        )
    value = int(rng.integers(CLASSES))
    bank = _bank(split)[value]
    opacity = bank[rng.integers(len(bank)), :, :, None] * rng.uniform(0.75, 1.0)
    if split == "train":
        down, right = rng.integers(0, 3, 2)
        opacity = np.pad(opacity, ((1, 1), (1, 1), (0, 0)))[down:, right:][:DIGIT_SIZE, :DIGIT_SIZE]
    shade = _SHADES[rng.integers(len(_SHADES))] * rng.uniform(0.85, 1.0)
    window = canvas[top : top + DIGIT_SIZE, left : left + DIGIT_SIZE]
    window[:] = window * (1 - opacity) + shade * opacity
    canvas += rng.normal(0, 8, canvas.shape)
    return OneDigitScene(np.clip(canvas, 0, 255).astype(np.uint8), value, (left, top))


@lru_cache(maxsize=2)
def _bank(split: Split) -> list[npt.NDArray[np.float32]]:
    return [scans(split, value) for value in range(CLASSES)]


def pixels(images: list[npt.NDArray[np.uint8]]) -> Tensor:
    """``[pictures, 3, 64, 64]`` in -1 .. 1, as the model takes them."""
    import torch

    values = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    return values / 127.5 - 1


def build_model() -> Any:
    """The architecture with random weights: timm's own VisionTransformer."""
    import timm

    return timm.create_model(ARCHITECTURE, num_classes=CLASSES, **MODEL_ARGS)


def load_model(folder: str | Path = FOLDER) -> Any:
    """The trained classifier in eval mode; the folder is one that timm itself can load."""
    import timm

    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
