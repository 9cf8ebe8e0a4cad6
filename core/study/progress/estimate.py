"""Estimates of how long cells take: measured where such cells have run, else guessed by size."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from statistics import median
from types import SimpleNamespace

from tokensieve.core.errors import TokensieveError
from tokensieve.core.models.binding import find_adapter
from tokensieve.core.models.checkpoints import CONFIG, read_config
from tokensieve.core.models.finding import load_config, locate
from tokensieve.core.plugins.registry import Registry
from tokensieve.core.study.plan.records import CellConfig, Estimate, PlannedCell
from tokensieve.core.study.store.store import Cell

SPEED = {"cpu": 1.5e10, "mps": 2e12, "cuda": 5e13}
"""Multiply-accumulates a second that generation reaches: a rough guess for one core, one GPU."""

PER_SAMPLE = 0.005  # seconds for the processor and for what is around the model
TEXT_TOKENS = 40
ELEMENT_BYTES = {"float32": 4, "float64": 8}  # others: 2
USUAL_TOKENS = 196  # of an image, if its model does not say
UNKNOWN_SIZE = 14e9  # bytes: a model of seven billion weights, if nothing is known


def estimate(
    pending: Sequence[PlannedCell], known: Sequence[Cell], registry: Registry
) -> dict[str, Estimate]:
    """For each pending cell by key.

    ``known`` are finished cells of whatever study; those of the same model and task are a
    measurement, best those of the same pipeline and budget.
    """
    seconds: dict[Hashable, list[float]] = {}
    for old in known:
        config = old.config
        if old.status == "failed" or not (old.summary.samples or config.kind != "accuracy"):
            continue  # nothing was answered
        for like in _likenesses(config):
            seconds.setdefault(like, []).append(old.data.seconds / config.task.samples)
    # of a question; the median, as a first cell also loads its model
    measured = {like: median(values) for like, values in seconds.items()}
    guesses, found = _Guesses(registry), {}
    for cell in pending:
        own = next((measured[like] for like in _likenesses(cell.config) if like in measured), None)
        question = guesses.of(cell) if own is None else own
        found[cell.key] = Estimate(question * cell.samples, own is not None)
    return found


def _likenesses(config: CellConfig) -> Iterator[Hashable]:
    """Places that cells of about the same cost share, the closest likeness first."""
    model = json.dumps(config.model.plain(), sort_keys=True)
    place = (model, config.task.name, config.kind, config.max_new_tokens)
    yield (*place, config.pipeline_name, json.dumps(config.budget))
    yield (*place, config.pipeline_name)
    yield place


class _Guesses:
    """Weights times tokens of the prompt, at a guessed speed."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._tokens: dict[str, int] = {}

    def of(self, cell: PlannedCell) -> float:
        """Seconds of a question."""
        model, tokens = cell.config.model, self.tokens(cell.how.model)
        weights = (cell.how.size or UNKNOWN_SIZE) / ELEMENT_BYTES.get(model.dtype, 2)
        once = PER_SAMPLE + weights * (tokens + TEXT_TOKENS) / SPEED[model.device]
        return once if cell.config.kind == "accuracy" else once * max(tokens, 1)

    def tokens(self, model: str) -> int:
        """Visual tokens that an image usually has.

        A folder is read without transformers, whose import takes seconds.
        """
        if model in self._tokens:
            return self._tokens[model]
        self._tokens[model] = USUAL_TOKENS
        try:
            folder = Path(locate(model, self.registry))
            if folder.is_dir():
                text = json.dumps(read_config(folder / CONFIG))
                config = json.loads(text, object_hook=lambda values: SimpleNamespace(**values))
            else:
                config = load_config(model, self.registry)
            described = find_adapter(config, self.registry).describe(config)
            self._tokens[model] = int(described[1])
        except (OSError, ValueError, TypeError, AttributeError, TokensieveError):
            pass
        return self._tokens[model]
