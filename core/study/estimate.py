"""How long cells will take: measured where some have run, estimated from sizes elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from tokensieve.core.errors import TokensieveError
from tokensieve.core.models import load_config
from tokensieve.core.plugins import Registry
from tokensieve.core.session import find_adapter
from tokensieve.core.study.grid import PlannedCell
from tokensieve.core.study.store import Cell

SPEED = {"cpu": 1.5e10, "mps": 2e12, "cuda": 5e13}
"""Multiply-accumulates a second that generation reaches: a rough guess for one core, one GPU."""

PER_SAMPLE = 0.005  # seconds for the processor and for what is around the model
TEXT_TOKENS = 40
ELEMENT_BYTES = {"float32": 4, "float64": 8}  # others: 2
UNKNOWN_SIZE = 14e9  # bytes: a model of seven billion weights, if nothing is known


@dataclass(frozen=True)
class Estimate:
    """Seconds of one worker, and whether such cells have been measured."""

    seconds: float
    measured: bool


def estimate(
    pending: Sequence[PlannedCell], there: Sequence[Cell], registry: Registry
) -> dict[str, Estimate]:
    """For each pending cell by key. Finished cells of the same model and task are a measurement."""
    measured = _measured(there)
    guesses: dict[str, float] = {}
    found = {}
    for cell in pending:
        model, task = cell.config["model"]["name"], cell.config["task"]["name"]
        if cell.config["kind"] == "accuracy" and (model, task) in measured:
            found[cell.key] = Estimate(measured[model, task] * cell.samples, True)
            continue
        if model not in guesses:
            guesses[model] = _guess(cell, registry)
        passes = 1 if cell.config["kind"] == "accuracy" else _tokens(cell, registry)
        found[cell.key] = Estimate(guesses[model] * cell.samples * passes, False)
    return found


def _measured(there: Sequence[Cell]) -> dict[tuple[str, str], float]:
    """Mean seconds of a question, by model and task."""
    seconds: dict[tuple[str, str], list[float]] = {}
    for cell in there:
        if cell.status != "failed" and cell.summary.get("samples"):
            place = cell.config["model"]["name"], cell.config["task"]["name"]
            own = cell.data["seconds"] / cell.summary["samples"]
            seconds.setdefault(place, []).append(own)
    return {place: fmean(values) for place, values in seconds.items()}


def _guess(cell: PlannedCell, registry: Registry) -> float:
    """Weights times tokens of the prompt, at a guessed speed."""
    model = cell.config["model"]
    weights = (cell.how.size or UNKNOWN_SIZE) / ELEMENT_BYTES.get(model["dtype"], 2)
    work = weights * (_tokens(cell, registry) + TEXT_TOKENS)
    return PER_SAMPLE + work / SPEED[model["device"]]


def _tokens(cell: PlannedCell, registry: Registry) -> int:
    """Visual tokens that an image usually has."""
    try:
        config = load_config(cell.how.model, registry)
        return int(find_adapter(config, registry).describe(config)[1])
    except TokensieveError:
        return 0
