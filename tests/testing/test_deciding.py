"""What the suite asks of a component is what the engine does with it: the same tokens stay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import tokensieve
from tokensieve.core.contract.boundary_log import settle
from tokensieve.core.contract.ranking import top_counts
from tokensieve.core.contract.view import View
from tokensieve.core.engine.decision import decide
from tokensieve.core.engine.reduction import Reduction
from tokensieve.core.pipeline.budgets import Budget
from tokensieve.core.pipeline.pipeline import PlacedStage
from tokensieve.core.pipeline.stage import ScoreTerm, Stage
from tokensieve.core.plugins.discovery import build_registry
from tokensieve.core.plugins.registry import Entry
from tokensieve.core.testing import SyntheticBatch, synthetic_batch
from tokensieve.core.testing.calls import selected, sizes, splits
from tokensieve.core.testing.trials import ComponentUnderTest, Trial

SHARE = 0.5
TRIALS = {
    kind: [(e, t) for e in build_registry().all(kind) for t in ComponentUnderTest(e.value).trials]
    for kind in ("scorer", "selector", "merger")
}


def each(kind: str) -> pytest.MarkDecorator:
    names = [f"{entry.name}{trial.suffix}" for entry, trial in TRIALS[kind]]
    return pytest.mark.parametrize(("entry", "trial"), TRIALS[kind], ids=names)


class Given(tokensieve.Scorer):
    """The scores that the suite gives selectors and mergers."""

    name = "given"
    scores: Any

    def score(self, view: View) -> Tensor:
        scores: Tensor = self.scores
        return scores


def decided(trial: Trial, batch: SyntheticBatch, **parts: Any) -> Reduction:
    """The reduction of a stage that leaves half of every image, or one token of one."""
    scorer = parts.pop("scorer", None) or Given(scores=batch.tensors["scores"])
    score = (ScoreTerm(scorer=scorer),)
    stage = Stage.model_validate({"at": batch.boundary, "score": score, "keep": SHARE, **parts})
    budget = Budget(kind="share", value=SHARE)
    targets = {(n, 0): count for n, count in enumerate(halves(batch))}
    decision = decide(PlacedStage(stage, 0, batch.boundary, 0, budget), batch.tokens(), targets)
    settle(decision.later_checks)
    assert decision.reduction is not None
    return decision.reduction


def halves(batch: SyntheticBatch) -> list[int]:
    return [max(1, int(SHARE * size)) for size in sizes(batch)]


def kept_by(reduction: Reduction, batch: SyntheticBatch) -> Tensor:
    """``[batch, tokens]`` bool, the tokens whose rows stay."""
    tokens = batch.tokens()
    there = torch.zeros(len(batch.keys), tokens.layout.length, dtype=torch.bool)
    real = torch.ones_like(reduction.order).bool() if reduction.valid is None else reduction.valid
    return tokens.groups.take(there.scatter(1, reduction.order, real)) & batch.valid


@each("scorer")
def test_the_best_tokens_of_a_scorer_stay(entry: Entry, trial: Trial) -> None:
    for scene in trial.scenes()[:-1]:
        batch = synthetic_batch(scene)
        scores = trial.component.score(batch.view())
        expected = top_counts(scores, batch.valid, halves(batch))
        reduction = decided(trial, batch, scorer=trial.component)
        assert torch.equal(kept_by(reduction, batch), expected)


@each("selector")
def test_what_a_selector_takes_stays(entry: Entry, trial: Trial) -> None:
    for scene in trial.scenes()[:-1]:
        batch = synthetic_batch(scene)
        scores, view = batch.tensors["scores"], batch.view()
        taken = trial.component.select(scores, batch.valid, halves(batch), view)
        reduction = decided(trial, batch, select=trial.component)
        assert torch.equal(kept_by(reduction, batch), taken & batch.valid)


@each("merger")
def test_what_a_merger_makes_is_written(entry: Entry, trial: Trial) -> None:
    for scene in trial.scenes()[:-1]:
        batch = synthetic_batch(scene)
        divided = splits(trial.component, batch, SHARE, True)
        kept = selected(batch, divided)
        view = batch.view().after(kept, batch.tensors["scores"])
        made = trial.component.apply(kept, [split.merged for split in divided], view)
        reduction = decided(trial, batch, merge=trial.component)
        assert reduction.layout.visual_tokens() == halves(batch)
        assert reduction.written is not None
        samples, rows, vectors = reduction.written
        own = int(made.targets.sum())
        assert len(rows) == own + sum(split.extra for split in divided)
        if trial.component.space == "decoder":
            assert torch.equal(vectors[:own], made.vectors[made.targets])
        assert torch.equal(rows[:own], batch.tokens().groups.rows[made.targets])
        assert samples[:own].tolist() == made.targets.nonzero()[:, 0].tolist()
