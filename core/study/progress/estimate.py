"""How long cells will take: measured where such cells have run, guessed from sizes elsewhere."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

from tokensieve.core.errors import TokensieveError
from tokensieve.core.models.binding import find_adapter
from tokensieve.core.models.checkpoints import CONFIG, read_config
from tokensieve.core.models.finding import load_config, locate
from tokensieve.core.plugins.registry import Registry
from tokensieve.core.study.plan.cells import PlannedCell
from tokensieve.core.study.store.store import Cell

SPEED = {"cpu": 1.5e10, "mps": 2e12, "cuda": 5e13}
"""Multiply-accumulates a second that generation reaches: a rough guess for one core, one GPU."""

PER_SAMPLE = 0.005  # seconds for the processor and for what is around the model
TEXT_TOKENS = 40
ELEMENT_BYTES = {"float32": 4, "float64": 8}  # others: 2
USUAL_TOKENS = 196  # of an image, if its model does not say
UNKNOWN_SIZE = 14e9  # bytes: a model of seven billion weights, if nothing is known


@dataclass(frozen=True)
class Estimate:
    """Seconds of one worker, and whether such cells have been measured."""

    seconds: float
    measured: bool


def estimate(
    pending: Sequence[PlannedCell], known: Sequence[Cell], registry: Registry
) -> dict[str, Estimate]:
    """For each pending cell by key.

    ``known`` are finished cells of whatever study; those of the same model and task are a
    measurement, best those of the same pipeline and budget.
    """
    measured, guesses = _measured(known), _Guesses(registry)
    found = {}
    for cell in pending:
        own = next((measured[like] for like in _likenesses(cell.config) if like in measured), None)
        seconds = guesses.of(cell) if own is None else own
        found[cell.key] = Estimate(seconds * cell.samples, own is not None)
    return found


def _measured(cells: Sequence[Cell]) -> dict[Hashable, float]:
    """Seconds of a question, by likeness; the median, as a first cell also loads its model."""
    seconds: dict[Hashable, list[float]] = {}
    for cell in cells:
        samples = cell.config["task"]["samples"]
        if cell.status == "failed" or not (cell.summary or cell.config["kind"] != "accuracy"):
            continue  # nothing was answered
        for like in _likenesses(cell.config):
            seconds.setdefault(like, []).append(cell.data["seconds"] / samples)
    return {like: median(values) for like, values in seconds.items()}


def _likenesses(config: dict[str, Any]) -> Iterator[Hashable]:
    """What cells of about the same cost have in common, the closest likeness first."""
    place = (
        json.dumps(config["model"], sort_keys=True), config["task"]["name"], config["kind"],
        config["max_new_tokens"],
    )  # fmt: skip
    pipeline = (config["pipeline"] or {}).get("name")
    yield (*place, pipeline, json.dumps(config["budget"]))
    yield (*place, pipeline)
    yield place


class _Guesses:
    """Weights times tokens of the prompt, at a guessed speed."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._tokens: dict[str, int] = {}

    def of(self, cell: PlannedCell) -> float:
        """Seconds of a question."""
        model, tokens = cell.config["model"], self.tokens(cell.how.model)
        weights = (cell.how.size or UNKNOWN_SIZE) / ELEMENT_BYTES.get(model["dtype"], 2)
        once = PER_SAMPLE + weights * (tokens + TEXT_TOKENS) / SPEED[model["device"]]
        return once if cell.config["kind"] == "accuracy" else once * max(tokens, 1)

    def tokens(self, model: str) -> int:
        """Visual tokens that an image usually has."""
        if model not in self._tokens:
            self._tokens[model] = _usual_tokens(model, self.registry)
        return self._tokens[model]


def _usual_tokens(model: str, registry: Registry) -> int:
    """A folder is read without transformers, whose import takes seconds."""
    try:
        folder = Path(locate(model, registry))
        config = _nested_config(folder) if folder.is_dir() else load_config(model, registry)
        return int(find_adapter(config, registry).describe(config)[1])
    except (OSError, ValueError, TypeError, AttributeError, TokensieveError):
        return USUAL_TOKENS


def _nested_config(folder: Path) -> Any:
    text = json.dumps(read_config(folder / CONFIG))
    return json.loads(text, object_hook=lambda values: SimpleNamespace(**values))
