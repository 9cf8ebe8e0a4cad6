"""Time left and cost: right though cells differ, and though the guesses are wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from study_helpers import study_of

from tokensieve.core.plugins.discovery import build_registry
from tokensieve.core.study.executors import Queue
from tokensieve.core.study.plan.keys import key_of
from tokensieve.core.study.plan.records import CellConfig, Estimate, PlannedCell
from tokensieve.core.study.progress.estimate import estimate
from tokensieve.core.study.progress.forecast import Forecast
from tokensieve.core.study.store.records import CellDocument
from tokensieve.core.study.store.store import Cell, CellResult

SAMPLES = 6


def planned(**changes: Any) -> list[PlannedCell]:
    return list(study_of(**changes).cells)


def two_models() -> list[PlannedCell]:
    return planned(models=["tiny-llava", {"model": "tiny-llava", "name": "slow"}])


def is_slow(cell: PlannedCell) -> bool:
    return bool(cell.config["model"]["name"] == "slow")


def result(cell: PlannedCell, seconds: float, status: str = "done") -> CellResult:
    lines: dict[str, Any] = {} if status == "failed" else {"samples.jsonl": [{}]}
    document = CellDocument.model_validate(
        {"config": cell.config, "status": status, "seconds": seconds}
    )
    return CellResult(cell.key, document, lines)


def equal_guesses(cells: Sequence[PlannedCell]) -> dict[str, Estimate]:
    return {cell.key: Estimate(3.0, False) for cell in cells}


def replay(cells: Sequence[PlannedCell], truth: dict[str, float]) -> list[tuple[float, float]]:
    """Two workers; after each cell the share of the time that has passed, and left / truth."""
    forecast, queue = Forecast(cells, equal_guesses(cells)), Queue(cells)
    running: list[tuple[float, PlannedCell]] = []
    clock, seen = 0.0, []
    while queue.waiting or running:
        while queue.waiting and len(running) < 2:
            held = [cell for _, cell in running]
            last = forecast.cells[next(reversed(forecast.took))] if forecast.took else None
            cell = queue.take(last, held)
            running.append((clock + truth[cell.key], cell))
        running.sort(key=lambda entry: entry[0])
        clock, cell = running.pop(0)
        for end, other in running:
            done = round(SAMPLES * (1 - (end - clock) / truth[other.key]))
            forecast.tick(other, done - forecast.ticked.get(other.key, 0), clock)
        forecast.tick(cell, SAMPLES - forecast.ticked.get(cell.key, 0), clock)
        forecast.done(cell, result(cell, truth[cell.key]))
        left = forecast.left(clock)
        assert left is not None
        seen.append((clock, left))
    return [(at / clock, left / (clock - at)) for at, left in seen if at < clock]


def test_time_left_is_right_though_one_model_takes_a_hundred_times_longer() -> None:
    """As soon as a cell of each model has ended; the guesses said that all take the same."""
    cells = two_models()
    truth = {cell.key: 100.0 if is_slow(cell) else 1.0 for cell in cells}
    known = [ratio for share, ratio in replay(cells, truth) if share > 0.26]
    assert len(known) >= 4
    assert all(0.6 < ratio < 1.6 for ratio in known)


def test_guesses_count_only_by_their_ratio() -> None:
    cells = planned()
    forecast = Forecast(cells, equal_guesses(cells))
    assert forecast.left(10.0) is None
    assert forecast.share() == 0
    forecast.tick(cells[0], SAMPLES // 2, 10.0)
    assert forecast.left(10.0) == pytest.approx(10.0 * (2 * len(cells) - 1))
    forecast.done(cells[0], result(cells[0], 40.0))
    assert forecast.share() == pytest.approx(1 / len(cells))
    assert forecast.left(20.0) == pytest.approx(20.0 * (len(cells) - 1))


def test_a_long_cell_shows_its_pace_before_it_ends() -> None:
    """Of six samples, two every fifty seconds: the first two give the time, the others the pace."""
    cells = two_models()
    forecast = Forecast(cells, equal_guesses(cells))
    fast, slow = (next(c for c in cells if is_slow(c) == wanted) for wanted in (False, True))
    forecast.done(fast, result(fast, 1.0))
    for clock in (50.0, 100.0):
        forecast.tick(slow, 2, clock)
    others = len(cells) // 2 - 1
    assert sum(forecast._rests().values()) == pytest.approx(50 + 150 * others + 1 * others)


def test_a_failed_cell_says_nothing_about_the_others() -> None:
    cells = planned()
    forecast = Forecast(cells, equal_guesses(cells))
    forecast.done(cells[0], result(cells[0], 12.0))
    before = sum(forecast._rests().values())
    forecast.done(cells[1], result(cells[1], 0.001, "failed"))
    assert sum(forecast._rests().values()) == pytest.approx(before - 12.0)


def test_the_longest_cell_is_the_least_that_is_left() -> None:
    """Ten workers do not make a single cell shorter."""
    cells = planned()[:2]
    costs = {cells[0].key: Estimate(1.0, True), cells[1].key: Estimate(100.0, True)}
    forecast = Forecast(cells, costs)
    forecast.done(cells[0], result(cells[0], 1.0))
    assert forecast.left(0.1) == pytest.approx(100.0)


def test_in_the_end_nothing_is_left() -> None:
    cells = planned()
    forecast = Forecast(cells, equal_guesses(cells))
    for cell in cells:
        forecast.done(cell, result(cell, 1.0))
    assert (forecast.left(5.0), forecast.share()) == (0.0, 1.0)
    assert Forecast([], {}).share() == 1.0


# ---------------------------------------------------------------------- estimates


def on_disk(cell: PlannedCell, seconds: float, status: str = "done") -> Cell:
    summary = {"samples": SAMPLES, "accuracy": 1.0} if status == "done" else {}
    data = {"config": cell.config, "seconds": seconds, "status": status, "summary": summary}
    return Cell(Path(cell.key), CellDocument.model_validate(data))


def named(cells: Sequence[PlannedCell], pipeline: str) -> PlannedCell:
    return next(cell for cell in cells if cell.config["pipeline"]["name"] == pipeline)


def test_the_closest_measurement_is_taken() -> None:
    cells = planned(pipelines=["fastv", "visionzip"])
    fastv, visionzip, none = (named(cells, name) for name in ("fastv", "visionzip", "none"))
    twice = {**fastv.config.plain(), "task": {**fastv.config["task"], "samples": 2 * SAMPLES}}
    longer = replace(fastv, key=key_of(twice), config=CellConfig.model_validate(twice))
    known = [on_disk(fastv, 6.0), on_disk(none, 60.0), on_disk(visionzip, 0.1, "failed")]
    found = estimate([longer, visionzip], known, build_registry())
    assert found[longer.key] == Estimate(12.0, True)
    assert found[visionzip.key] == Estimate(33.0, True)  # what is usual for model and task


def test_other_models_and_kinds_are_guessed() -> None:
    cells = planned(anatomy={"samples": SAMPLES, "scorers": ["random"], "boundary": 2})
    (anatomy,) = [cell for cell in cells if cell.config["kind"] == "anatomy"]
    none = named([cell for cell in cells if cell is not anatomy], "none")
    found = estimate([anatomy, none], [], build_registry())
    assert not found[none.key].measured
    assert found[anatomy.key].seconds == pytest.approx(144 * found[none.key].seconds)
    found = estimate([anatomy], [on_disk(none, 6.0)], build_registry())
    assert not found[anatomy.key].measured
