"""Scores of a study by model, task, budget and method, example by example."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from tokensieve.core.names import PRUNING_BASELINES
from tokensieve.core.report.findings.cells import StudyFacts, TokenScores
from tokensieve.core.report.statistics.intervals import Floats


class Place(NamedTuple):
    """A number's place in the grid."""

    model: str
    task: str
    budget: str
    method: str

    @property
    def model_task(self) -> ModelTask:
        """The place without budget and method."""
        return ModelTask(self.model, self.task)


class ModelTask(NamedTuple):
    """A model on a task."""

    model: str
    task: str


@dataclass(frozen=True)
class Measured:
    """Results of one method at one place of the grid.

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
        methods: by falling mean accuracy; the baselines are among them.
        ids: per task the examples that every cell has answered.
        weights: per task the bootstrap's weights, shared by everything measured on it.
        problems: what a reader has to know: unreadable, left out, incomplete.
        pooled: models that sums over models are of: those on which most methods run. Methods that
            run on a classifier as well would else be compared over other models than the rest.
        claimed: methods that a claim is about; figures show them first.
    """

    facts: StudyFacts
    models: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    budgets: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    ids: dict[str, tuple[str, ...]] = field(default_factory=dict)
    weights: dict[str, Floats] = field(default_factory=dict)
    measured: dict[Place, Measured] = field(default_factory=dict)
    untouched: dict[ModelTask, Measured] = field(default_factory=dict)
    anatomy: dict[ModelTask, list[TokenScores]] = field(default_factory=dict)
    failed: list[tuple[str, str]] = field(default_factory=list)
    unmet: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    pooled: tuple[str, ...] = ()
    claimed: tuple[str, ...] = ()

    @property
    def candidates(self) -> tuple[str, ...]:
        """The methods that are no baseline."""
        return tuple(method for method in self.methods if method not in PRUNING_BASELINES)

    @property
    def baselines(self) -> tuple[str, ...]:
        """The baselines that were measured, in the order in which reports name them."""
        return tuple(method for method in PRUNING_BASELINES if method in self.methods)

    @property
    def all_label(self) -> str:
        """A name for sums over models: ``all``, or ``all but tiny-timm-vit``."""
        apart = [model for model in self.models if model not in self.pooled]
        return f"all but {', '.join(apart)}" if apart else "all"

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
