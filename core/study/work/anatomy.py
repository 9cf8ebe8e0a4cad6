"""Signal anatomy of one question: what scorers say of each token, and what each token is worth.

Scorers look at all visual tokens at one boundary. What a token is worth is measured without any of
them: it alone is dropped in front of the decoder, and the answer's log-likelihood changes.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

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
from tokensieve.core.study.work.relevance import relevant_tokens
from tokensieve.core.study.work.subjects import naming, question_of, subject_of

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

Plugins = Sequence[str | Path]
PICTURE_SIDE = 320  # pixels of the copies that the report draws on
PICTURE_QUALITY = 90


class _Witness(Selector):
    """Keep every token, and write down what scorers say of them."""

    name = "witness"
    adaptive_count: ClassVar[bool] = True

    wanted: tuple[ScoreTerm, ...]
    _seen: list[tuple[Tensor, Tensor]] = PrivateAttr(default_factory=list)

    def reads_scores(self) -> bool:
        """Not those of the stage."""
        return False

    def terms(self) -> list[Any]:
        """The scorers to listen to."""
        return list(self.wanted)

    def select(self, scores: Tensor, available: Tensor, counts: list[int], view: View) -> Tensor:
        """All of them."""
        self._seen[:] = [
            (view.index[available], combined_scores([term], view)[available])
            for term in self.wanted
        ]
        return available

    def said(self) -> list[list[float]]:
        """Per scorer, one number per visual token in the order of the prompt."""
        return [values[index.argsort()].float().tolist() for index, values in self._seen]


class _DropOne(Selector):
    """Drop one token from each sample of a batch: ``tokens[i]`` from sample ``i``."""

    name = "drop-one"
    adaptive_count: ClassVar[bool] = True
    least: ClassVar[int] = 0  # of the single token of an image, nothing is left

    tokens: tuple[Annotated[int, Field(ge=0, le=MOST_TOKENS)], ...]

    def reads_scores(self) -> bool:
        """None."""
        return False

    def select(self, scores: Tensor, available: Tensor, counts: list[int], view: View) -> Tensor:
        """All but the sample's own token."""
        dropped = torch.tensor(self.tokens, device=available.device)
        return available & (view.index != dropped[:, None])


class _DropOneOfAnImage(_DropOne):
    """The same where a sample is one image, whose budget says so: rows are never ragged."""

    name = "drop-one-of-an-image"
    adaptive_count: ClassVar[bool] = False


def read_terms(scorers: Sequence[Any], registry: Registry) -> list[ScoreTerm]:
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
) -> Iterator[dict[str, Any]]:
    """One record per example, plain data: see :func:`examine_one`."""
    able, missing = able_terms(loaded, terms, boundary)
    for example in examples:
        with naming([example]):
            record = examine_one(
                loaded, example, able, boundary, seed=seed, batch=batch, plugins=plugins
            )
        yield {**record, "missing": missing}


def able_terms(
    loaded: Loaded, terms: Sequence[ScoreTerm], boundary: int
) -> tuple[list[ScoreTerm], dict[str, str]]:
    """The scorers that can look at this boundary of this model, and why others cannot."""
    able, missing = [], {}
    for term in terms:
        try:
            check(_pipeline(boundary, _Witness(wanted=(term,))), loaded.bound)
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
) -> dict[str, Any]:
    """Scores, leave-one-out worth and relevance of each visual token of one example.

    ``loo`` is the answer's log-likelihood with all tokens minus that without the token: positive
    if the token helps. ``relevant`` is empty where nobody knows where the answer lies.
    """
    subject = subject_of(loaded)
    question = question_of(example)
    with torch.inference_mode():
        inputs = subject.prepare([question])
        scores = score_tokens(loaded, inputs, terms, boundary, seed, plugins)
        full, worth = leave_one_out(loaded, inputs, example.answer, batch, plugins)
        panels = subject.panels(question, len(worth))
    flat = [panel for group in panels or [] for panel in group]
    return {
        "id": example.id,
        "question": example.question,
        "answer": example.answer,
        "rows": sum(panel.rows for panel in flat) if flat else 1,
        "columns": flat[0].columns if flat else len(worth),
        "panels": [[[p.rows, p.columns, list(p.box)] for p in group] for group in panels or []],
        "pictures": [_encoded(image) for image in question.images],
        "relevant": relevant_tokens(panels, example.boxes) if panels else [],
        "log_likelihood": full,
        "loo": worth,
        "scores": {term_label(term): said for term, said in zip(terms, scores, strict=True)},
        "boundary": boundary,
    }


def score_tokens(
    loaded: Loaded,
    inputs: Any,
    terms: Sequence[ScoreTerm],
    boundary: int,
    seed: int = 0,
    plugins: Plugins = (),
) -> list[list[float]]:
    """What each scorer says of each visual token, while no token has been dropped."""
    witness = _Witness(wanted=tuple(terms))
    with attach(loaded.model, _pipeline(boundary, witness), seed=seed, plugins=plugins):
        subject_of(loaded).look(inputs)
    return witness.said()


def leave_one_out(
    loaded: Loaded, inputs: Any, answer: str, batch: int = 16, plugins: Plugins = ()
) -> tuple[float, list[float]]:
    """Log-likelihood of the answer, and how much of it is lost without each visual token."""
    subject = subject_of(loaded)
    given, target = subject.with_answer(inputs, answer)
    ((count,), _) = subject.tokens(inputs)
    full = float(subject.log_likelihood(given, target)[0])
    worth: list[float] = []
    for start in range(0, count, batch):
        tokens = tuple(range(start, min(start + batch, count)))
        pipeline = _pipeline(0, _DropOne(tokens=tokens), scope="sample")
        if isinstance(loaded, LoadedClassifier) and count > 1:
            pipeline = _pipeline(0, _DropOneOfAnImage(tokens=tokens), keep=count - 1)
        repeated = {name: _repeated(value, len(tokens)) for name, value in given.items()}
        with attach(loaded.model, pipeline, plugins=plugins):
            without = subject.log_likelihood(repeated, target)
        worth += [full - value for value in without.tolist()]
    return full, worth


def _pipeline(boundary: int, selector: Selector, **more: Any) -> Pipeline:
    stage = Stage.model_validate({"at": boundary, "select": selector, **more})
    return Pipeline(name="anatomy", stages=(stage,))


def _repeated(value: Any, times: int) -> Any:
    """The same prompt many times; pictures lie behind each other along the first axis."""
    if not isinstance(value, torch.Tensor):
        return value
    return value.repeat((times, *[1] * (value.ndim - 1)))


def _encoded(image: Image) -> str:
    """A small JPEG in base64, for the report."""
    small = image.copy()
    small.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=PICTURE_QUALITY)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
