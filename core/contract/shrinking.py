"""Making images smaller: their size, and the places of the fewer tokens on the larger grid."""

from __future__ import annotations

import math
from typing import Protocol

Grid = tuple[int, int]
"""Rows and columns of visual tokens."""


class ShrinkPlan(Protocol):
    """From the token grids of all images (or tiles) of a call to the smaller ones they get."""

    def __call__(self, grids: list[Grid], *, square: bool = False) -> list[Grid]:
        """One grid for each; ``square`` for encoders that take nothing else."""


def small_grid(grid: Grid, tokens: float, *, square: bool = False) -> Grid:
    """The grid of at most ``tokens`` tokens with about the shape of ``grid``.

    Of the row counts next to the exact proportion the one that leaves fewer tokens unused; at
    least one token, and never more rows or columns than there are.
    """
    rows, columns = grid
    if tokens >= rows * columns:
        return grid
    if square:
        side = max(1, math.isqrt(int(tokens)))
        return (side, side)
    exact = math.sqrt(tokens * rows / columns)
    most = max(1, min(rows, math.floor(tokens)))
    options = []
    for count in {min(most, max(1, side)) for side in (math.floor(exact), math.ceil(exact))}:
        in_shape = math.ceil(count * columns / rows)
        across = max(1, min(columns, in_shape + 1, math.floor(tokens / count)))
        distortion = abs(across * rows - count * columns)
        if across * count <= max(1, tokens):
            options.append((across * count, -distortion, count, across))
    _, _, count, across = max(options)
    return (count, across)


def spread_places(grid: Grid, small: Grid) -> list[int]:
    """Places on ``grid``, raster order, of the tokens of ``small``: cell centers."""
    lines, across = (
        [(2 * place + 1) * size // (2 * count) for place in range(count)]
        for size, count in zip(grid, small, strict=True)
    )
    return [row * grid[1] + column for row in lines for column in across]
