"""What a report knows of a study: scores by model, task, budget and method, example by example."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from tokensieve.core.report.cells import Record
from tokensieve.core.report.statistics import Floats

UNTOUCHED = "none"
BASELINES = ("random", "uniform", "downsample")


class Place(NamedTuple):
    """Where in the grid a number belongs."""

    model: str
    task: str
    budget: str
    method: str


class Ground(NamedTuple):
    """A model on a task."""

    model: str
    task: str


@dataclass(frozen=True)
class Measured:
    """What one method did at one place of the grid.

    Attributes:
        scores: ``[seeds, examples]`` 0..1.
        agrees: ``[seeds, examples]`` whether the answer is the untouched model's; None if unknown.
        tokens: visual tokens per decoder layer, mean over examples.
        token_share: of the untouched model's.
        flops_share: of the untouched model's prefill.
    """

    scores: Floats
    agrees: Floats | None
    tokens: float
    token_share: float
    flops_share: float


@dataclass
class Results:
    """Everything a report is made of.

    Attributes:
        methods: by falling mean accuracy; baselines and the untouched model are among the others.
        ids: per task the examples that every cell has answered.
        weights: per task the bootstrap's weights, shared by everything measured on it.
        problems: what a reader has to know: unreadable, left out, incomplete.
        pooled: models that sums over models are of: those on which most methods run. Methods that
            run on a classifier as well would else be compared over other models than the rest.
        claimed: methods that a claim is about; figures show them first.
    """

    name: str
    models: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    budgets: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    ids: dict[str, tuple[str, ...]] = field(default_factory=dict)
    weights: dict[str, Floats] = field(default_factory=dict)
    measured: dict[Place, Measured] = field(default_factory=dict)
    untouched: dict[Ground, Measured] = field(default_factory=dict)
    anatomy: dict[Ground, list[Record]] = field(default_factory=dict)
    failed: list[tuple[str, str]] = field(default_factory=list)
    unmet: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    pooled: tuple[str, ...] = ()
    claimed: tuple[str, ...] = ()
    manifest: Record = field(default_factory=dict)

    @property
    def rivals(self) -> tuple[str, ...]:
        """The methods that are no baseline."""
        return tuple(method for method in self.methods if method not in BASELINES)

    @property
    def all_label(self) -> str:
        """What sums over models are called: ``all``, or ``all but tiny-timm-vit``."""
        apart = [model for model in self.models if model not in self.pooled]
        return f"all but {', '.join(apart)}" if apart else "all"

    @property
    def floors(self) -> tuple[str, ...]:
        """The baselines that were measured."""
        return tuple(method for method in BASELINES if method in self.methods)

    def scores(self, place: Place) -> Floats:
        """``[examples]`` mean over seeds."""
        return np.asarray(self.measured[place].scores.mean(axis=0))

    def places(self) -> list[Place]:
        """All places with a result, in reading order."""
        return [
            place
            for model in self.models
            for task in self.tasks
            for budget in self.budgets
            for method in self.methods
            if (place := Place(model, task, budget, method)) in self.measured
        ]
