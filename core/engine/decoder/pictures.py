"""Pictures on their way to a decoder: made smaller, recorded, and found again in its input."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tokensieve.core.contract.adapter import AdaptedVlm
from tokensieve.core.contract.hooks import Handle
from tokensieve.core.contract.shrinking import Grid
from tokensieve.core.contract.signals import VISION_SIGNALS
from tokensieve.core.contract.vision_record import VisionRecord
from tokensieve.core.engine.call import Call
from tokensieve.core.engine.capture_plan import CapturePlan
from tokensieve.core.engine.decoder.prompt import image_sizes
from tokensieve.core.engine.decoder.shrinker import Shrinker
from tokensieve.core.engine.matched_records import MatchedRecords, find_evidence
from tokensieve.core.engine.rows import Rows
from tokensieve.core.engine.state import ImageKey
from tokensieve.core.gate.vision_records import check_record

if TYPE_CHECKING:
    from torch import Tensor

KEPT_AHEAD = 16
"""Passes of the encoder that are remembered for prompts to come."""


class Pictures:
    """The passes of a model's vision encoder.

    Attributes:
        wanted: whether anybody needs to know of them.
        shrinker: plans smaller pictures; None where they stay as they are.
    """

    def __init__(
        self,
        bound: AdaptedVlm,
        plan: CapturePlan,
        current: Callable[[], Call | None],
        small: Callable[[int], int] | None,
    ) -> None:
        """``small`` says how many tokens a picture of so many is to have; None: as many."""
        self._bound = bound
        self._current = current
        self._small = small
        self._signals = plan.signals & bound.provides & VISION_SIGNALS
        self._depths = plan.depths
        self._ahead: deque[VisionRecord] = deque(maxlen=KEPT_AHEAD)
        self.shrinker = None if small is None else Shrinker()
        self.wanted = bool(self._signals) or self.shrinker is not None

    def shrink(self) -> Sequence[Handle]:
        """Make the encoder see smaller pictures, if they are to be smaller."""
        return [] if self.shrinker is None else self._bound.shrink_images(self._target_grids)

    def record(self) -> Sequence[Handle]:
        """Record what the encoder shows, if it is wanted; to be called after :meth:`shrink`."""
        if not self.wanted:
            return []
        return self._bound.watch_vision(self._signals, self._depths, self._on_vision_record)

    def forget(self) -> None:
        """Drop all records that no call has."""
        self._ahead.clear()

    def find(self, call: Call, rows: Rows, embeds: Tensor) -> MatchedRecords:
        """Whose features went into which rows of ``embeds`` ``[samples, rows, dim]``."""
        ahead = list(self._ahead)
        return find_evidence(rows.layout, embeds, call.records, ahead, rows.separators)

    def _on_vision_record(self, record: VisionRecord) -> None:
        """A pass of the encoder is over: it belongs to the running call, or to one to come."""
        if self.shrinker is not None:
            record = self.shrinker.spread(record)
        check_record(record, self._bound.name)
        call = self._current()
        if call is None:
            self._ahead.append(record)
        else:
            call.records.append(record)

    def _target_grids(self, grids: list[Grid], *, square: bool = False) -> list[Grid]:
        """The grids that the images of this forward are to have."""
        if self.shrinker is None or self._small is None:
            return grids
        call, sizes = self._current(), dict[ImageKey, int]()
        if call is not None and call.state is not None:
            sizes.update(call.state.prompt.image_sizes)
        elif call is not None and call.prompt is not None and not call.forwards:
            sizes = image_sizes(self._bound, call.prompt)
        if not sizes:  # nothing is known of the prompt: every grid is an image
            sizes = {(0, n): rows * columns for n, (rows, columns) in enumerate(grids)}
        targets = {image: self._small(tokens) for image, tokens in sizes.items()}
        return self.shrinker.plan(grids, sizes, targets, square=square)
