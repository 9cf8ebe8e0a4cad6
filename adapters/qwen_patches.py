"""Input and output of Qwen2.5-VL's encoder: patches by token and window, features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tokensieve.adapters.shrinking import resized
from tokensieve.plugin import Grid, SignalError, torch, unknown_release

if TYPE_CHECKING:
    from torch import Tensor

IN_PATCHES = (
    "frames",
    "rows",
    "columns",
    "row in token",
    "column in token",
    "channels",
    "time",
    "y",
    "x",
)
"""Axes as the processor lays them out: patches, those of a token together, and what is in them."""
IN_PICTURES = (
    "frames",
    "time",
    "channels",
    "rows",
    "row in token",
    "y",
    "columns",
    "column in token",
    "x",
)
"""The same axes as those of pictures, rows and all in them by height, columns by width."""


def resized_patches(patches: Tensor, grid: Sequence[int], to: Grid, config: Any) -> Tensor:
    """Flattened patches of one image or video at another size.

    Args:
        patches: a row holds channels, time, height and width of one patch; patches come in groups
            of those of one token, as the processor makes them.
        grid: frames, rows and columns of patches.
        to: rows and columns of tokens.
        config: of the vision encoder.
    """
    side, unit = config.patch_size, config.spatial_merge_size
    (frames, height, width), (rows, columns) = grid, to
    sizes = {
        "frames": frames,
        "time": config.temporal_patch_size,
        "channels": -1,
        "row in token": unit,
        "column in token": unit,
        "y": side,
        "x": side,
    }
    here = {**sizes, "rows": height // unit, "columns": width // unit}
    pixels = reordered(patches, here, IN_PATCHES, IN_PICTURES)
    pictures = pixels.reshape(frames * sizes["time"], -1, height * side, width * side)
    smaller = resized(pictures, rows * unit * side, columns * unit * side)
    there = {**sizes, "rows": rows, "columns": columns}
    cut = reordered(smaller, there, IN_PICTURES, IN_PATCHES)
    return cut.reshape(frames * rows * columns * unit**2, -1)


def reordered(
    values: Tensor, sizes: Mapping[str, int], before: Sequence[str], after: Sequence[str]
) -> Tensor:
    """``values`` as a tensor of the axes ``before``, put in the order ``after``."""
    split = values.reshape([sizes[axis] for axis in before])
    return split.permute([before.index(axis) for axis in after])


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


def encoder_features(output: object) -> Tensor:
    """The features that the encoder gives the decoder.

    Raises:
        SignalError: they are not where this version is known to have them.
    """
    features = getattr(output, "pooler_output", None)
    if not isinstance(features, torch.Tensor):
        raise SignalError(f"the vision encoder gives no pooler_output: {unknown_release()}")
    return features
