"""The visual tokens that show the part of a picture that has the answer."""

from __future__ import annotations

from collections.abc import Sequence

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
        for panel in group:
            left, top, right, bottom = panel.box
            width, height = (right - left) / panel.columns, (bottom - top) / panel.rows
            for row in range(panel.rows):
                for column in range(panel.columns):
                    x, y = left + column * width, top + row * height
                    patch = Box(x, y, x + width, y + height)
                    flags.append(int(any(_touch(patch, box) for box in own)))
    return flags


def _touch(patch: Box, box: Box) -> bool:
    """Whether the patch and the box overlap so much that the patch shows it."""
    left, top, right, bottom = patch.left, patch.top, patch.right, patch.bottom
    across = min(right, box.right) - max(left, box.left)
    down = min(bottom, box.bottom) - max(top, box.top)
    smaller = min((right - left) * (bottom - top), (box.right - box.left) * (box.bottom - box.top))
    return across > 0 and down > 0 and across * down >= TOUCHED * smaller * (1 - 1e-9)
