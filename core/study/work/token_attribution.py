"""Token attribution of a question: what scorers say of each token, and what each token is worth.

Scorers rate all visual tokens at one boundary. What a token is worth is measured without any of
them: it alone is dropped before the decoder, and the answer's log-likelihood changes.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, PrivateAttr, TypeAdapter

from tokensieve.core.contract.components import Selector
from tokensieve.core.contract.tasks import Example
from tokensieve.core.contract.view import View
from tokensieve.core.engine.session import attach
from tokensieve.core.errors import AttachError
from tokensieve.core.lazy import torch
from tokensieve.core.models.loading import Loaded, LoadedClassifier
from tokensieve.core.pipeline.fit import check
from tokensieve.core.pipeline.pipeline import Pipeline
from tokensieve.core.pipeline.scoring import combined_scores
from tokensieve.core.pipeline.stage import AScoreTerm, ScoreTerm, Stage
from tokensieve.core.plugins.registry import Registry
from tokensieve.core.strict import MOST_TOKENS
from tokensieve.core.study.spec.parts import term_label
from tokensieve.core.study.store.records import AttributionRecord
from tokensieve.core.study.work.relevance import relevant_tokens
from tokensieve.core.study.work.study_models import Inputs, naming, question_of, study_model

if TYPE_CHECKING:
    from torch import Tensor

Plugins = Sequence[str | Path]
PICTURE_SIDE = 320  # pixels of the copies that the report draws on
PICTURE_QUALITY = 90


class _ScoreRecorder(Selector):
    """Keep every token, and record what scorers say of them."""

    name = "score-recorder"
    adaptive_count: ClassVar[bool] = True

    wanted: tuple[ScoreTerm, ...]
    _seen: list[tuple[Tensor, Tensor]] = PrivateAttr(default_factory=list)

    def reads_scores(self) -> bool:
        """The scores of the stage are not read."""
        return False

    def terms(self) -> list[ScoreTerm]:
        """The scorers whose scores are recorded."""
        return list(self.wanted)

    def select(self, scores: Tensor, available: Tensor, counts: list[int], view: View) -> Tensor:
        """Keep all tokens."""
        self._seen[:] = [
            (view.index[available], combined_scores([term], view)[available])
            for term in self.wanted
        ]
        return available

    def recorded(self) -> list[list[float]]:
        """Recorded scores: per scorer, one number per visual token in the order of the prompt."""
        return [values[index.argsort()].float().tolist() for index, values in self._seen]


class _DropOne(Selector):
    """Drop one token from each sample of a batch: ``tokens[i]`` from sample ``i``."""

    name = "drop-one"
    adaptive_count: ClassVar[bool] = True
    least: ClassVar[int] = 0  # of the single token of an image, nothing is left

    tokens: tuple[Annotated[int, Field(ge=0, le=MOST_TOKENS)], ...]

    def reads_scores(self) -> bool:
        """No scores are read."""
        return False

    def select(self, scores: Tensor, available: Tensor, counts: list[int], view: View) -> Tensor:
        """Keep all but the sample's own token."""
        dropped = torch.tensor(self.tokens, device=available.device)
        return available & (view.index != dropped[:, None])


class _DropOneOfAnImage(_DropOne):
    """The same where a sample is one image, whose budget says so: rows are never ragged."""

    name = "drop-one-of-an-image"
    adaptive_count: ClassVar[bool] = False


def read_terms(scorers: Sequence[object], registry: Registry) -> list[ScoreTerm]:
    """Scorers as YAML spells them: a name, or ``{scorer: name, **parameters}``."""
    reader: TypeAdapter[ScoreTerm] = TypeAdapter(AScoreTerm)
    return [reader.validate_python(scorer, context={"registry": registry}) for scorer in scorers]


def examine(
    loaded: Loaded,
    examples: Sequence[Example],
    terms: Sequence[ScoreTerm],
    boundary: int,
    *,
    seed: int = 0,
    batch: int = 16,
    plugins: Plugins = (),
) -> Iterator[AttributionRecord]:
    """One record per example: see :func:`examine_one`."""
    able, missing = able_terms(loaded, terms, boundary)
    for example in examples:
        with naming([example]):
            record = examine_one(
                loaded, example, able, boundary, seed=seed, batch=batch, plugins=plugins
            )
        yield record.model_copy(update={"missing": missing})


def able_terms(
    loaded: Loaded, terms: Sequence[ScoreTerm], boundary: int
) -> tuple[list[ScoreTerm], dict[str, str]]:
    """The scorers that can rate tokens at this boundary of this model, and why others cannot."""
    able, missing = [], {}
    for term in terms:
        try:
            check(_pipeline(boundary, _ScoreRecorder(wanted=(term,))), loaded.bound)
        except AttachError as error:
            missing[term_label(term)] = str(error)
        else:
            able.append(term)
    return able, missing


def examine_one(
    loaded: Loaded,
    example: Example,
    terms: Sequence[ScoreTerm],
    boundary: int,
    *,
    seed: int = 0,
    batch: int = 16,
    plugins: Plugins = (),
) -> AttributionRecord:
    """Scores, leave-one-out worth and relevance of each visual token of one example."""
    model = study_model(loaded)
    question = question_of(example)
    with torch.inference_mode():
        inputs = model.prepare([question])
        scores = score_tokens(loaded, inputs, terms, boundary, seed, plugins)
        full, worth = leave_one_out(loaded, inputs, example.answer, batch, plugins)
        panels = model.panels(question, len(worth))
    flat = [panel for group in panels or [] for panel in group]
    pictures = []
    for image in question.images:
        small = image.copy()
        small.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=PICTURE_QUALITY)
        pictures.append(base64.b64encode(buffer.getvalue()).decode("ascii"))
    return AttributionRecord(
        id=example.id,
        question=example.question,
        answer=example.answer,
        rows=sum(panel.rows for panel in flat) if flat else 1,
        columns=flat[0].columns if flat else len(worth),
        panels=[[[p.rows, p.columns, list(p.box)] for p in group] for group in panels or []],
        pictures=pictures,
        relevant=relevant_tokens(panels, example.boxes) if panels else [],
        log_likelihood=full,
        loo=worth,
        scores={term_label(term): own for term, own in zip(terms, scores, strict=True)},
        boundary=boundary,
    )


def score_tokens(
    loaded: Loaded,
    inputs: Inputs,
    terms: Sequence[ScoreTerm],
    boundary: int,
    seed: int = 0,
    plugins: Plugins = (),
) -> list[list[float]]:
    """The scores that each scorer gives each visual token, while no token has been dropped."""
    recorder = _ScoreRecorder(wanted=tuple(terms))
    with attach(loaded.model, _pipeline(boundary, recorder), seed=seed, plugins=plugins):
        study_model(loaded).forward(inputs)
    return recorder.recorded()


def leave_one_out(
    loaded: Loaded, inputs: Inputs, answer: str, batch: int = 16, plugins: Plugins = ()
) -> tuple[float, list[float]]:
    """Log-likelihood of the answer, and how much of it is lost without each visual token."""
    model = study_model(loaded)
    given, target = model.with_answer(inputs, answer)
    ((count,), _) = model.tokens(inputs)
    full = float(model.log_likelihood(given, target)[0])
    worth: list[float] = []
    for start in range(0, count, batch):
        tokens = tuple(range(start, min(start + batch, count)))
        pipeline = _pipeline(0, _DropOne(tokens=tokens), scope="sample")
        if isinstance(loaded, LoadedClassifier) and count > 1:
            pipeline = _pipeline(0, _DropOneOfAnImage(tokens=tokens), keep=count - 1)
        repeated = {  # the same prompt many times; pictures follow each other on the first axis
            name: value.repeat((len(tokens), *[1] * (value.ndim - 1)))
            if isinstance(value, torch.Tensor)
            else value
            for name, value in given.items()
        }
        with attach(loaded.model, pipeline, plugins=plugins):
            without = model.log_likelihood(repeated, target)
        worth += [full - value for value in without.tolist()]
    return full, worth


def _pipeline(
    boundary: int,
    selector: Selector,
    *,
    keep: int | None = None,
    scope: Literal["image", "sample"] = "image",
) -> Pipeline:
    own = {} if keep is None else {"keep": keep}
    stage = Stage.model_validate({"at": boundary, "select": selector, "scope": scope, **own})
    return Pipeline(name="anatomy", stages=(stage,))
