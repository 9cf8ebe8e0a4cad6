"""Run a pipeline with tokensieve and with the slow references, on the same model and prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import tiny_models
import torch
from pydantic import Field
from torch import Tensor

import tokensieve
from references.forward import Choose, Outcome, Rows, Score, run
from references.samples import encode, sequence
from references.vision import Encoded
from tokensieve.core.contract.view import View
from tokensieve.core.pipeline.pipeline import Pipeline
from tokensieve.core.pipeline.stage import ScoreTerm

SIDE, DEEP = 24, 14
"""576 patches, and enough layers for the boundaries 7, 9 and 12 as they are written."""

SAFE = 1e-7
"""Relative gap between kept and dropped that rounding (RMS norms run in float32) cannot close."""

Stages = list[tuple[int, Score, Choose]]
Start = Callable[[Rows, Sequence[Encoded]], Rows]


@cache
def model_of(family: str, **shape: Any) -> Any:
    """A tiny model, built once; sessions leave no trace on it."""
    return tiny_models.build(family, **shape)


def big_llava(family: str = "llava") -> Any:
    """A LLaVA of LLaVA-1.5's token count and enough layers, in tiny widths."""
    return model_of(family, side=SIDE, num_hidden_layers=DEEP)


def big_prompt(seed: int = 0, images: int = 1, before: int = 5, after: int = 8) -> dict[str, Any]:
    """One sample with ``images`` images of 576 visual tokens."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(3, 60, (before + images + after,), generator=generator).tolist()
    ids = [tiny_models.BOS, *text[:before]]
    for image in range(images):
        ids += [tiny_models.IMAGE] * SIDE**2 + text[before + image : before + image + 1]
    ids += text[before + images :]
    pixels = torch.randn(images, 3, SIDE * 4, SIDE * 4, generator=generator, dtype=torch.float64)
    return {
        "input_ids": torch.tensor([ids]),
        "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
        "pixel_values": pixels,
    }


class Recorder(tokensieve.Scorer):
    """Passes another scorer's scores on, and remembers them."""

    name = "recorder"
    inner: Any
    seen: Any = Field(repr=False)  # what a scorer remembers is found again by its repr

    def required(self) -> frozenset[str]:
        return self.inner.required()

    def readable(self) -> frozenset[str]:
        return self.inner.readable()

    def history(self, boundary: int) -> tuple[int, int] | None:
        return self.inner.history(boundary)

    def vision_depths(self) -> frozenset[float]:
        return self.inner.vision_depths()

    def rescaled(self, boundary: Any) -> Recorder:
        return Recorder(inner=self.inner.rescaled(boundary), seen=self.seen)

    def score(self, view: View) -> Tensor:
        scores = self.inner.score(view)
        self.seen.append(
            (
                view.boundary,
                [row[real].tolist() for row, real in zip(scores, view.valid, strict=True)],
            )
        )
        return scores


def recorded(source: Any) -> tuple[Pipeline, list[tuple[int, list[list[float]]]]]:
    """The pipeline with every scorer of its stages wrapped, and what they will return."""
    pipeline, seen = tokensieve.load_pipeline(source), []
    stages = [
        stage.model_copy(
            update={
                "score": tuple(
                    ScoreTerm(
                        scorer=Recorder(inner=term.scorer, seen=seen),
                        weight=term.weight,
                        normalize=term.normalize,
                    )
                    for term in stage.score
                )
            }
        )
        for stage in pipeline.stages
    ]
    name = f"recorded {pipeline.name}"  # another one: `random` and the like are reserved
    return pipeline.model_copy(update={"name": name, "stages": tuple(stages)}), seen


@dataclass
class Both:
    """Ours and theirs: ``kept[stage][sample]``; ``logits[sample]`` of the last prompt token."""

    trace: Any
    logits: list[Tensor]
    entered: Tensor
    scores: list[tuple[int, list[list[float]]]]
    expected: list[Outcome] = field(default_factory=list)

    def assert_same_tokens(self) -> None:
        """Each stage of each sample kept exactly what the formulas say, and that is no accident."""
        for sample, outcome in enumerate(self.expected):
            assert min(outcome.margins) > SAFE, "a near tie: choose another seed"
            ours = [stage.kept[sample].tolist() for stage in self.trace.stages]
            assert ours == outcome.kept

    def assert_same_logits(self, tolerance: float = 1e-6) -> None:
        for logits, outcome in zip(self.logits, self.expected, strict=True):
            torch.testing.assert_close(logits, outcome.logits[-1], rtol=0, atol=tolerance)

    def assert_same_scores(self, tolerance: float = 1e-6) -> None:
        """Score vectors of every image at every stage, relative to their size."""
        assert len(self.scores) == len(self.trace.stages)
        for stage, (_, ours) in enumerate(self.scores):
            theirs = [scores for outcome in self.expected for scores in outcome.scores[stage]]
            for mine, other in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(mine, other, rtol=tolerance, atol=0)


def run_ours(model: Any, inputs: dict[str, Any], source: Any, **options: Any) -> Both:
    """One prefill under the pipeline; ``entered`` is what reached decoder layer 0."""
    pipeline, seen = recorded(source)
    entered: list[Tensor] = []

    def look(_module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        entered.append(args[0] if args else kwargs["hidden_states"])

    with torch.no_grad(), tokensieve.attach(model, pipeline, **options) as session:
        layer = model.model.language_model.layers[0]
        handle = layer.register_forward_pre_hook(look, with_kwargs=True)
        try:
            logits = model(**inputs).logits
        finally:
            handle.remove()
        trace = session.trace
    mask = inputs["attention_mask"]
    last = [int(row.nonzero().max()) for row in mask]
    rows = [logits[sample, row] for sample, row in enumerate(last)]
    return Both(trace, rows, entered[0], seen)


def run_theirs(
    model: Any,
    inputs: dict[str, Any],
    stages: Callable[[Sequence[Encoded]], Stages],
    *,
    reindex: bool,
    start: Start = lambda rows, _images: rows,
) -> Outcome:
    """The same sample, alone and unpadded, through the references."""
    with torch.no_grad():
        images = encode(model, inputs)
        rows = start(sequence(model, inputs, images), images)
        return run(model, rows, stages(images), reindex)
