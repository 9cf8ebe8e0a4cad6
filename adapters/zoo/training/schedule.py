"""Recipes of the zoo's families, step by step: every number that decides the result."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tokensieve.adapters.zoo.families import Family
from tokensieve.adapters.zoo.tasks.pictures import LARGE, TASKS
from tokensieve.adapters.zoo.training.packing import Portion
from tokensieve.adapters.zoo.training.sheets import SHEETS


@dataclass(frozen=True)
class FamilyRecipe:
    """Everything that decides the result; sizes are (batch, tokens of a sequence).

    ``turns`` are the tasks in turn, ``first_turns`` those until step ``first_until``; their number
    has no divisor in common with the four of :func:`portion`, or some task would never be seen
    whole.
    """

    seed: int = 0
    sight_steps: int = 600
    steps: int = 3200
    decay_steps: int = 700
    large_from: int = 2000
    sight_rate: float = 2e-3
    learning_rate: float = 1e-3
    warmup_steps: int = 60
    weight_decay: float = 0.02
    teacher: str = "tiny-llava"
    decoder: str = "tiny-llava"
    encoder: str = ""
    turns: tuple[str, ...] = ("digits", "signs", "signs", "needle", "signs")
    first_turns: tuple[str, ...] = ()
    first_until: int = 0
    sparse: tuple[int, int] = (32, 192)
    whole: tuple[int, int] = (20, 272)
    large: tuple[int, int] = (6, 704)


_SECOND: dict[str, Any] = {
    "sight_steps": 400,
    "decay_steps": 500,
    "large_from": 700,
    "teacher": "tiny-internvl",
    "decoder": "tiny-internvl",
    "first_turns": ("digits", "signs", "digits", "needle", "digits"),
}
RECIPES = {
    "tiny-internvl": FamilyRecipe(),
    "tiny-qwen2.5-vl": FamilyRecipe(**_SECOND, steps=2100, first_until=1450),
    "tiny-llava-hd": FamilyRecipe(**_SECOND, steps=1500, first_until=650, encoder="tiny-llava"),
}
"""How the shipped models were trained, one after the other: a later one starts from an earlier."""


def portion(recipe: FamilyRecipe, family: Family, step: int) -> Portion:
    """What step number ``step`` takes: sheets to look at in every second one."""
    number, odd = divmod(step, 2)
    batch, length = recipe.sparse[0] // family.fewer, recipe.sparse[1]
    turns = recipe.first_turns if step < recipe.first_until else recipe.turns
    task = TASKS[turns[number % len(turns)]]
    side = family.side_of(task)
    if odd:
        return Portion(SHEETS, family.sheet_side, batch, 0, 0)
    if step < recipe.sight_steps or number % 4 != 3:  # noqa: PLR2004 - every fourth is whole
        kept = (48, 72, 100)[int(np.random.default_rng([29, step]).integers(3))]
        return Portion(task, side, batch, length, kept, step >= recipe.large_from)
    if step >= recipe.large_from and number % 8 == 7:  # noqa: PLR2004 - every eighth is large
        return Portion(TASKS["needle"], LARGE, *recipe.large, 10**6)
    return Portion(task, side, *(recipe.whole if family.fewer == 1 else recipe.large), 10**6)


def rate_at(recipe: FamilyRecipe, step: int) -> float:
    """Warm-up in each phase; cosine in the first, constant and a linear end in the second."""
    if step < recipe.sight_steps:
        warm = min(1.0, (step + 1) / recipe.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * step / recipe.sight_steps))
        return recipe.sight_rate * warm * (0.1 + 0.9 * cosine)
    warm = min(1.0, (step - recipe.sight_steps + 1) / recipe.warmup_steps)
    return recipe.learning_rate * warm * min(1.0, (recipe.steps - step) / recipe.decay_steps)
