"""The order of patches in Qwen2.5-VL: groups of a token, windows, and pictures made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tokensieve.adapters.shrinking import resized
from tokensieve.plugin import Grid, torch

if TYPE_CHECKING:
    from torch import Tensor


def resized_patches(patches: Tensor, grid: Sequence[int], to: Grid, config: Any) -> Tensor:
    """Flattened patches of one image or video at another size.

    Args:
        patches: a row holds channels, time, height and width of one patch; patches come in groups
            of those of one token, as the processor makes them.
        grid: frames, rows and columns of patches.
        to: rows and columns of tokens.
        config: of the vision encoder.
    """
    side, time, unit = config.patch_size, config.temporal_patch_size, config.spatial_merge_size
    count, height, width = grid
    shape = (count, height // unit, width // unit, unit, unit, -1, time, side, side)
    pixels = patches.view(shape).permute(0, 6, 5, 1, 3, 7, 2, 4, 8)
    images = pixels.reshape(count * time, -1, height * side, width * side)
    rows, columns = to
    smaller = resized(images, rows * unit * side, columns * unit * side)
    shape = (count, time, -1, rows, unit, side, columns, unit, side)
    return (
        smaller.view(shape)
        .permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
        .reshape(count * rows * columns * unit**2, -1)
    )


def raster_order(visual: Any, grid: Tensor) -> Tensor:
    """For each token in raster order, its place in the encoder's order of windows.

    ``grid`` ``[images, 3]`` are frames, rows and columns of patches.
    """
    from transformers.vision_utils import get_vision_window_index

    window, _ = get_vision_window_index(
        grid,
        spatial_merge_size=visual.config.spatial_merge_size,
        window_size=visual.window_size,
        patch_size=visual.patch_size,
    )
    order: Tensor = torch.argsort(window)
    return order
