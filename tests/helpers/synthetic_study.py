"""A study's folder whose numbers are known: effects are planted, nothing is run."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tokensieve.core.study.plan.keys import key_of
from tokensieve.core.study.store.records import CellDocument
from tokensieve.core.study.store.store import CellResult, Store

VISUAL = 144
SIDE = 12
BUDGETS = (32, 16)


@dataclass(frozen=True)
class Planted:
    """Chances of a right answer: a level per model and task, and what a method adds to it."""

    models: dict[str, float]
    tasks: dict[str, float]
    methods: dict[str, float | dict[str, float]]
    samples: int = 200
    whole: float = 0.95

    def chance(self, model: str, task: str, method: str, budget: int | None) -> float:
        if budget is None:
            return self.whole
        added = self.methods[method]
        own = added if isinstance(added, float) else added[model]
        lean = 0.08 * (BUDGETS.index(budget))
        return float(np.clip(self.models[model] + self.tasks[task] + own - lean, 0.02, 0.98))


PLANTED = Planted(
    models={"a": 0.6, "b": 0.55, "c": 0.65},
    tasks={"digits": 0.0, "signs": -0.08},
    methods={
        "random": 0.0,
        "uniform": 0.02,
        "downsample": 0.05,
        "good": 0.25,
        "twin": 0.1,
        "double": 0.1,
        "fickle": {"a": 0.22, "b": -0.2, "c": 0.0},
        "poor": -0.2,
    },
)
EQUAL = Planted(
    models={"a": 0.6, "b": 0.6, "c": 0.6},
    tasks={"digits": 0.0, "signs": 0.0},
    methods=dict.fromkeys(("random", "uniform", "downsample", "one", "two", "three"), 0.0),
    samples=150,
    whole=0.62,
)


def write_study(
    folder: Path, planted: Planted = PLANTED, *, anatomy: bool = True, extra: bool = True
) -> Path:
    """Write the cells of ``planted`` and a manifest; ``extra`` adds an unmet and a failed one."""
    store = Store(folder)
    written = [*_accuracy_cells(planted), *(_anatomy_cells(planted) if anatomy else ())]
    if extra:
        written += _cells_without_a_score()
    for result in written:
        store.write(result)
    manifest = {
        "name": folder.name,
        "models": list(planted.models),
        "tasks": list(planted.tasks),
        "cells": [result.key for result in written],
        "seeds": [0, 1, 2],
        "starts": [{"started": "2026-01-01T00:00:00", "command": ["tokensieve", "study"]}],
    }
    store.write_file("manifest.json", json.dumps(manifest))
    return folder


def cell(config: dict[str, Any], status: str = "done", error: str | None = None) -> CellResult:
    facts: dict[str, Any] = {"status": status, "error": error, "summary": {}}
    facts["started"] = "2026-01-01T00:00:00"
    document = CellDocument.model_validate({"config": config, **facts})
    return CellResult(key_of(config), document)


def config(
    model: str, task: str, pipeline: str | None, budget: int | None, seed: int = 0, samples: int = 0
) -> dict[str, Any]:
    return {
        "kind": "anatomy" if pipeline is None else "accuracy",
        "model": {"name": model, "sha256": "0", "family": "llava", "dtype": "float32"},
        "task": {"name": task, "parameters": {}, "samples": samples},
        "pipeline": None if pipeline is None else {"name": pipeline, "resolved": {}},
        "budget": None if budget is None else {"average": budget},
        "seed": seed,
    }


def _accuracy_cells(planted: Planted) -> Iterator[CellResult]:
    for number, task in enumerate(planted.tasks):
        difficulty = np.random.default_rng([1, number]).random(planted.samples)
        for model in planted.models:
            for method in ("none", *planted.methods):
                for budget in BUDGETS if method != "none" else (None,):
                    for seed in range(3) if method == "random" else (0,):
                        place = (model, task, method, budget, seed)
                        yield _answered(planted, difficulty, place)


def _answered(
    planted: Planted, difficulty: np.ndarray, place: tuple[str, str, str, int | None, int]
) -> CellResult:
    """An answer is right if the example is easy enough; half of it is luck of the cell."""
    model, task, method, budget, seed = place
    rng = np.random.default_rng([seed, *f"{model}{task}{method}{budget}".encode()])
    lucky = rng.random(planted.samples)
    hardness = np.where(rng.random(planted.samples) < 0.5, lucky, difficulty)
    right = hardness < planted.chance(model, task, method, budget)
    tokens = VISUAL if budget is None else budget
    result = cell(config(model, task, method, budget, seed, planted.samples))
    lines: dict[str, Any] = result.lines
    lines["samples.jsonl"] = [
        {
            "id": f"{task}-{number:04d}",
            "answer": "right" if ok else f"wrong {method}",
            "expected": "right",
            "score": float(ok),
            "visual_tokens": VISUAL,
            "average_tokens": float(tokens),
            "flops_share": tokens / VISUAL,
        }
        for number, ok in enumerate(right)
    ]
    return result


def _anatomy_cells(planted: Planted) -> Iterator[CellResult]:
    for model in planted.models:
        result = cell(config(model, "digits", None, None, samples=10))
        lines: dict[str, Any] = result.lines
        lines["anatomy.jsonl"] = [_anatomy_record(model, number) for number in range(10)]
        yield result


def _anatomy_record(model: str, number: int) -> dict[str, Any]:
    """``sees`` knows the worth, ``blind`` nothing, ``late`` only the place."""
    rng = np.random.default_rng([*model.encode(), number])
    row, column = rng.integers(0, SIDE - 2, 2)
    grid = np.zeros((SIDE, SIDE))
    grid[row : row + 2, column : column + 2] = 1
    relevant = grid.ravel()
    worth = relevant * rng.uniform(0.5, 1, VISUAL) + rng.normal(0, 0.05, VISUAL)
    return {
        "id": f"digits-{number:04d}",
        "question": "What color is the 7?",
        "answer": "red",
        "rows": SIDE,
        "columns": SIDE,
        "panels": [[[SIDE, SIDE, [0.0, 0.0, 1.0, 1.0]]]],
        "pictures": [_picture(rng, (int(row), int(column)))],
        "relevant": relevant.astype(int).tolist(),
        "log_likelihood": -0.5,
        "loo": worth.tolist(),
        "scores": {
            "sees": (worth + rng.normal(0, 0.05, VISUAL)).tolist(),
            "blind": rng.random(VISUAL).tolist(),
            "late": (np.arange(VISUAL) / VISUAL + rng.normal(0, 0.1, VISUAL)).tolist(),
        },
        "boundary": 4,
        "missing": {},
    }


def _picture(rng: np.random.Generator, corner: Sequence[int]) -> str:
    canvas = rng.integers(20, 90, (SIDE * 8, SIDE * 8, 3)).astype(np.uint8)
    top, left = (8 * place for place in corner)
    canvas[top : top + 16, left : left + 16] = (220, 60, 50)
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, "JPEG", quality=90)
    return base64.b64encode(buffer.getvalue()).decode()


def _cells_without_a_score() -> list[CellResult]:
    unmet = config("a", "digits", "merger", 16, samples=200)
    failed = config("b", "digits", "broken", 16, samples=200)
    return [
        cell(unmet, "unmet", "keeps 48.0 tokens per layer, wanted 16"),
        cell(failed, "failed", "RuntimeError: out of memory"),
    ]
