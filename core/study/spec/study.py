"""A study's YAML file, validated: models x pipelines x budgets x tasks x seeds."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from tokensieve.core.errors import (
    ModelError,
    PipelineError,
    StudyError,
    UnsupportedError,
    did_you_mean,
)
from tokensieve.core.files.yaml_source import Source, read_yaml
from tokensieve.core.foreign import shown
from tokensieve.core.models.backends import check_backend
from tokensieve.core.models.finding import locate
from tokensieve.core.models.loading import DTYPES
from tokensieve.core.names import BASELINES, taken_for
from tokensieve.core.pipeline.budgets import Budget
from tokensieve.core.pipeline.fields import as_list, located, registry_of
from tokensieve.core.pipeline.loading import Place, load_pipeline, problem_lines
from tokensieve.core.pipeline.pipeline import Pipeline
from tokensieve.core.pipeline.reserved import misnamed
from tokensieve.core.pipeline.stage import ScoreTerms, Stage
from tokensieve.core.plugins.registry import Registry
from tokensieve.core.strict import (
    MOST_BATCH,
    MOST_LAYERS,
    MOST_NEW_TOKENS,
    MOST_SAMPLES,
    Seed,
    StrictModel,
)
from tokensieve.core.study.spec.claims import check_claim
from tokensieve.core.study.spec.parts import budget_title, folder_of, term_label
from tokensieve.core.study.spec.slurm_options import OPTIONS, read_slurm
from tokensieve.core.study.spec.tasks import TaskSpec

LEAST_SEEDS = 3  # fewer draws say nothing about the spread of random pruning
DEVICE = re.compile(r"cpu|mps|cuda(:(0|[1-9][0-9]{0,2}))?")


def _some(value: object) -> object:
    """A list that is not empty; a single value stands for a list of one."""
    if not as_list(value):
        raise ValueError("needs at least one entry")
    return as_list(value)


def _listed(value: object) -> object:
    """As :func:`_some`, but None is allowed."""
    return None if value is None else _some(value)


def _inline(key: str) -> Callable[[object], object]:
    """``NAME`` stands for ``{key: NAME}``."""
    return lambda value: value if isinstance(value, dict) else {key: value}


class ModelSpec(StrictModel):
    """A model and how it runs."""

    model: str
    name: str = ""
    dtype: str = "auto"
    device: str = "cpu"
    attention: str | None = None
    tasks: Annotated[tuple[str, ...] | None, BeforeValidator(_listed)] = None

    @model_validator(mode="after")
    def _known(self, info: ValidationInfo) -> ModelSpec:
        if self.dtype not in DTYPES:
            raise located(f"unknown dtype {self.dtype!r}{did_you_mean(self.dtype, DTYPES)}", ())
        if not DEVICE.fullmatch(self.device):
            raise located(f"unknown device {self.device!r}, allowed: cpu, cuda, cuda:0, mps", ())
        try:
            if self.attention is not None:
                check_backend(self.attention)
        except UnsupportedError as error:
            raise located(str(error), ("attention",)) from None
        try:
            locate(self.model, registry_of(info))
        except ModelError as error:
            raise located(str(error), ("model",)) from None
        return self

    def asked(self, task: str) -> bool:
        """Whether the task of that title is for this model."""
        return self.tasks is None or task in self.tasks

    @property
    def title(self) -> str:
        """Its name in results."""
        return self.name or Path(self.model).name


class PipelineSpec(StrictModel):
    """A preset, a file or a pipeline written in place, and another name for it."""

    pipeline: Pipeline
    name: str = ""

    @field_validator("pipeline", mode="before")
    @classmethod
    def _load(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, dict | Pipeline):
            return value
        if not isinstance(value, str):
            raise ValueError(f"a pipeline is a preset, a file or a mapping, not {shown(value)}")
        beside = folder_of(info) / value
        source = beside if beside.suffix in (".yaml", ".yml") and os.path.isfile(beside) else value
        try:
            return load_pipeline(source, registry=registry_of(info))
        except PipelineError as error:
            first, *more = str(error).splitlines()
            raise located(first + (f" (and {len(more)} more)" if more else ""), ()) from None

    @property
    def title(self) -> str:
        """Its name in results."""
        return self.name or self.pipeline.name


def _whole_decoder(value: object) -> object:
    """A number of tokens means the average over decoder layers."""
    if isinstance(value, int) and not isinstance(value, bool):
        return {"average": value}
    if isinstance(value, dict) and ("tokens" in value or value.get("of", "original") != "original"):
        raise ValueError(_BUDGETS)
    return value


_BUDGETS = (
    "a study's budget holds for the whole decoder: {average: 32} (visual tokens per layer), 0.22 "
    "(the same as share of the image's tokens) or {flops: 0.4}"
)
StudyBudget = Annotated[Budget, BeforeValidator(_whole_decoder)]


class AttributionSpec(StrictModel):
    """Token attribution: scores of single tokens beside what dropping them does to the answer."""

    samples: int = Field(default=8, ge=1, le=MOST_SAMPLES, strict=True)
    scorers: Annotated[ScoreTerms, BeforeValidator(_some)]
    boundary: int = Field(default=4, ge=0, lt=MOST_LAYERS, strict=True)


AModel = Annotated[ModelSpec, BeforeValidator(_inline("model"))]
APipeline = Annotated[PipelineSpec, BeforeValidator(_inline("pipeline"))]


class StudySpec(StrictModel):
    """A study. Baselines are added by themselves; see :mod:`tokensieve.core.study.plan.cells`."""

    name: str = Field(default="study", min_length=1)
    description: str = ""
    models: Annotated[tuple[AModel, ...], BeforeValidator(_some)]
    pipelines: Annotated[tuple[APipeline, ...], BeforeValidator(as_list)] = ()
    budgets: Annotated[tuple[StudyBudget, ...], BeforeValidator(_some)]
    tasks: Annotated[tuple[TaskSpec, ...], BeforeValidator(_some)]
    samples: int = Field(default=200, ge=1, le=MOST_SAMPLES, strict=True)
    seeds: tuple[Seed, ...] = (0, 1, 2)
    anatomy: AttributionSpec | None = None
    claims: Annotated[tuple[str, ...], BeforeValidator(as_list)] = ()
    max_new_tokens: int = Field(default=16, ge=1, le=MOST_NEW_TOKENS, strict=True)
    batch: int = Field(default=16, ge=1, le=MOST_BATCH, strict=True)
    slurm: Annotated[dict[str, int | str], BeforeValidator(read_slurm)] = Field(
        default_factory=dict
    )

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if name.strip() in {"", ".", ".."} or any(sign in name for sign in "/\\\0"):
            raise ValueError("results go to a folder of this name: no '/', '\\', '.' or '..'")
        return name

    @field_validator("seeds")
    @classmethod
    def _enough(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < max(LEAST_SEEDS, len(seeds)):
            raise ValueError(f"random pruning needs {LEAST_SEEDS} different seeds at least")
        return seeds

    @model_validator(mode="after")
    def _told_apart(self) -> StudySpec:
        for key in ("models", "pipelines", "tasks"):
            titles = [entry.title for entry in getattr(self, key)]
            twice = [title for title, count in Counter(titles).items() if count > 1]
            if twice:
                place = len(titles) - 1 - titles[::-1].index(twice[0])
                raise located(f"{twice[0]!r} is there twice: give one a `name`", (key, place))
            alike = taken_for(titles)
            if alike:
                one, other = map(repr, alike)
                message = f"{one} and {other} differ in case or Unicode form only: rename one"
                raise located(message, (key, titles.index(alike[0])))
        titles = [task.title for task in self.tasks]
        for number, model in enumerate(self.models):
            for place, name in enumerate(model.tasks or ()):
                if name not in titles:
                    message = f"the study has no task {name!r}{did_you_mean(name, titles)}"
                    raise located(message, ("models", number, "tasks", place))
        counts = Counter(budget_title({budget.kind: budget.value}) for budget in self.budgets)
        doubled = [b for b in self.budgets if counts[budget_title({b.kind: b.value})] > 1]
        if doubled:
            raise located(f"{doubled[0]} is there twice", ("budgets",))
        return self

    @model_validator(mode="after")
    def _named_truly(self, info: ValidationInfo) -> StudySpec:
        for number, entry in enumerate(self.pipelines):
            for name in (entry.title, entry.pipeline.name):
                problem = misnamed(name, entry.pipeline, registry_of(info))
                if problem:
                    key = ("name",) if entry.name else ()
                    raise located(problem, ("pipelines", number, *key))
        return self

    @model_validator(mode="after")
    def _claims_known(self) -> StudySpec:
        pipelines = {*BASELINES, *(entry.title for entry in self.pipelines)} - {"none"}
        scorers = {term_label(term) for term in self.anatomy.scorers} if self.anatomy else set()
        for number, text in enumerate(self.claims):
            try:
                check_claim(text, sorted(pipelines), sorted(scorers))
            except StudyError as error:
                raise located(str(error), ("claims", number)) from None
        return self


_KEYS: dict[str, type[BaseModel]] = {
    "models": ModelSpec,
    "pipelines": PipelineSpec,
    "anatomy": AttributionSpec,
}
_DEEP = 2  # ("pipelines", number, "pipeline", ...)


def _known_keys(path: Place) -> Sequence[str]:
    if len(path) == 1:
        return list(StudySpec.model_fields)
    if path[0] == "slurm":
        return list(OPTIONS)
    if path[0] == "pipelines" and len(path) > _DEEP + 1:
        return list(Stage.model_fields if "stages" in path else Pipeline.model_fields)
    return list(_KEYS.get(str(path[0]), StudySpec).model_fields)


def load_study(path: Path, registry: Registry) -> StudySpec:
    """Read and validate a study's file.

    Raises:
        PipelineError: with ``FILE:LINE:COL: where: what, what is allowed``.
    """
    source = read_yaml(path)
    if isinstance(source.data, dict):
        source.data.setdefault("name", path.stem)
    return read_study(source, registry, path.parent)


def read_study(source: Source, registry: Registry, folder: Path) -> StudySpec:
    """Validate plain data; relative paths start at ``folder``."""
    if not isinstance(source.data, dict):
        raise PipelineError(f"{source.where(())}: a study is a mapping with the key 'models'")
    try:
        return StudySpec.model_validate(
            source.data, context={"registry": registry, "folder": folder}
        )
    except ValidationError as error:
        raise PipelineError(*problem_lines(error, source, _known_keys, "study")) from None
