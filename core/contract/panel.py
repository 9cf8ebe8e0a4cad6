"""Panels: the places of visual tokens on a picture."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Panel:
    """A rectangle of the picture that consecutive visual tokens cover, row by row.

    Attributes:
        rows: rows of visual tokens; ``columns`` tokens in each.
        box: ``(left, top, right, bottom)`` as shares of the picture's width and height.
    """

    rows: int
    columns: int
    box: tuple[float, float, float, float]
