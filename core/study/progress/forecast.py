"""Forecasts of a run: how much is done and how long the rest takes, by what cells really took."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from tokensieve.core.study.plan.records import Costs, PlannedCell
from tokensieve.core.study.store.store import CellResult

Group = tuple[str, str, str]


class Forecast:
    """Work in seconds of one worker: estimated, and measured where cells have ended.

    A group is a model, a task and a kind of cell. Where one of a group has ended, or runs and shows
    its pace, the estimates of the others are scaled by it; elsewhere by all that is known, so that
    only the ratio of guesses counts. How many workers there are shows in the speed. ``elapsed`` is
    everywhere the seconds since the first cell began.
    """

    def __init__(self, pending: Sequence[PlannedCell], costs: Costs) -> None:
        self.cells = {cell.key: cell for cell in pending}
        self.costs = {key: max(costs[key].seconds, 1e-9) for key in self.cells}
        self.groups: dict[str, Group] = {}
        for cell in pending:
            model = json.dumps(cell.config.model.plain(), sort_keys=True)
            self.groups[cell.key] = (model, cell.config.task.name, cell.config.kind)
        self.ticked: dict[str, int] = {}
        self.begun: dict[str, tuple[float, int]] = {}
        self.pace: dict[str, float] = {}
        self.took: dict[str, float] = {}
        self.failed: set[str] = set()

    def tick(self, cell: PlannedCell, samples: int, elapsed: float) -> None:
        """So many more samples of a cell are done; its pace is known from the second time on."""
        key, count = cell.key, self.ticked.get(cell.key, 0) + samples
        self.ticked[key] = count
        start, before = self.begun.setdefault(key, (elapsed, count))
        if count > before and elapsed > start:
            self.pace[key] = (elapsed - start) / (count - before) * cell.samples

    def done(self, cell: PlannedCell, result: CellResult) -> None:
        """A cell has ended; one that failed says nothing about the others."""
        self.took[cell.key] = result.cell.seconds
        if result.status == "failed" or not any(result.lines.values()):
            self.failed.add(cell.key)

    def share(self) -> float:
        """The share of the work that is done."""
        done, left = self._work()
        return done / (done + left) if done + left else 1.0

    def left(self, elapsed: float) -> float | None:
        """Seconds until the end; None if nothing is known.

        At least what the longest of the remaining cells takes, which one worker has to run.
        """
        done, left = self._work()
        if not left:
            return 0.0
        if not done or elapsed <= 0:
            return None
        return max(left * elapsed / done, *self._rests().values())

    def _work(self) -> tuple[float, float]:
        costs, rests = self._costs(), self._rests()
        begun = sum(costs[key] - rest for key, rest in rests.items())
        return sum(self.took.values()) + begun, sum(rests.values())

    def _rests(self) -> dict[str, float]:
        """Seconds that each cell still takes which has not ended."""
        return {
            key: cost * (1 - min(1.0, self.ticked.get(key, 0) / self.cells[key].samples))
            for key, cost in self._costs().items()
            if key not in self.took
        }

    def _costs(self) -> dict[str, float]:
        """The seconds of each whole cell, as far as they are known by now."""
        known = {**self.pace, **self.took}
        told = [key for key in known if key not in self.failed]
        everywhere = _Ratio()
        groups: dict[Group, _Ratio] = {}
        for key in told:
            for ratio in (everywhere, groups.setdefault(self.groups[key], _Ratio())):
                ratio.taken += known[key]
                ratio.guessed += self.costs[key]
        return {
            key: self.pace.get(key, cost * groups.get(self.groups[key], everywhere).value)
            for key, cost in self.costs.items()
        }


@dataclass
class _Ratio:
    """The time that cells took, as a multiple of what was guessed."""

    taken: float = 0.0
    guessed: float = 0.0

    @property
    def value(self) -> float:
        """1 where nothing is known."""
        return self.taken / self.guessed if self.guessed else 1.0
