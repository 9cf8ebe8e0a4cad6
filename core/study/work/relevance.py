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
                    shows = False
                    for box in own:
                        across = min(x + width, box.right) - max(x, box.left)
                        down = min(y + height, box.bottom) - max(y, box.top)
                        area = (box.right - box.left) * (box.bottom - box.top)
                        needed = TOUCHED * min(width * height, area) * (1 - 1e-9)
                        shows |= across > 0 and down > 0 and across * down >= needed
                    flags.append(int(shows))
    return flags
