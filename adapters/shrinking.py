"""Smaller images for a vision encoder."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from tokensieve.plugin import (
    Grid,
    UnsupportedError,
    at_least_float32,
    on_device,
    spread_places,
    torch,
)

if TYPE_CHECKING:
    from torch import Tensor


def resized(pixels: Tensor, height: int, width: int) -> Tensor:
    """``[images, channels, height, width]`` at another size, bicubic with antialiasing."""
    if pixels.shape[-2:] == (height, width):
        return pixels
    smaller: Tensor = torch.nn.functional.interpolate(
        at_least_float32(pixels), size=(height, width), mode="bicubic", antialias=True
    )
    return smaller.to(pixels.dtype)


def one_grid(grids: Sequence[Grid], family: str) -> Grid:
    """The grid that all images or tiles of a call share, for encoders that take one tensor."""
    if len(set(grids)) > 1:
        raise UnsupportedError(
            f"adapter {family}: the images of this batch would shrink to different sizes "
            f"({', '.join(f'{r} x {c}' for r, c in sorted(set(grids)))} tokens): give the budget "
            "as a share, or run them one by one"
        )
    return grids[0]


def spread_features(features: Tensor, grids: Sequence[Grid], small: Sequence[Grid]) -> Tensor:
    """``[tokens of the small images, n]`` -> ``[tokens of the full images, n]``, zero between."""
    sizes = [rows * columns for rows, columns in grids]
    starts = [0, *accumulate(sizes)]
    places = [
        start + place
        for start, grid, less in zip(starts, grids, small, strict=False)
        for place in spread_places(grid, less)
    ]
    full = features.new_zeros(starts[-1], *features.shape[1:])
    return full.index_copy(0, on_device(places, features.device), features)
