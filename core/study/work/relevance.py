"""Which visual tokens show the part of a picture in which the answer lies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tokensieve.core.contract.panel import Panel
from tokensieve.core.contract.tasks import Box

TOUCHED = 0.25  # of the smaller of patch and box: such a patch shows a relevant part


def relevant_tokens(panels: Sequence[Sequence[Panel]], boxes: Sequence[Sequence[Box]]) -> list[int]:
    """1 for each visual token whose patch shows a relevant part of its picture, else 0.

    Empty if no picture has boxes.
    """
    if not any(boxes):
        return []
    flags: list[int] = []
    for number, group in enumerate(panels):
        own = boxes[number] if number < len(boxes) else ()
        flags += [int(any(_touches(cell, box) for box in own)) for p in group for cell in _cells(p)]
    return flags


def _cells(panel: Panel) -> Iterator[tuple[float, float, float, float]]:
    left, top, right, bottom = panel.box
    width, height = (right - left) / panel.columns, (bottom - top) / panel.rows
    for row in range(panel.rows):
        for column in range(panel.columns):
            x, y = left + column * width, top + row * height
            yield x, y, x + width, y + height


def _touches(cell: tuple[float, float, float, float], box: Box) -> bool:
    left, top, right, bottom = cell
    across = min(right, box.right) - max(left, box.left)
    down = min(bottom, box.bottom) - max(top, box.top)
    smaller = min((right - left) * (bottom - top), (box.right - box.left) * (box.bottom - box.top))
    return across > 0 and down > 0 and across * down >= TOUCHED * smaller * (1 - 1e-9)
