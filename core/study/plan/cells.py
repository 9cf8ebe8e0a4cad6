"""The cells of a study: every combination that is run, resolved as far as its result depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tokensieve.core.errors import StudyError
from tokensieve.core.names import BASELINES
from tokensieve.core.pipeline.budgets import Budget, floor_count
from tokensieve.core.pipeline.loading import load_pipeline
from tokensieve.core.pipeline.pipeline import Pipeline
from tokensieve.core.plugins.registry import PROJECT, Registry
from tokensieve.core.study.plan.classifiers import check_answerable, classes_of
from tokensieve.core.study.plan.code import Files, code_of, digest_of
from tokensieve.core.study.plan.identity import model_identity
from tokensieve.core.study.plan.known_tasks import KnownTask, Tasks, known_tasks, task_path
from tokensieve.core.study.spec.parts import budget_title
from tokensieve.core.study.spec.study import PipelineSpec, StudySpec
from tokensieve.core.study.spec.tasks import TaskSpec

KEY_LENGTH = 16
VERSIONS = (PROJECT, "torch", "transformers")


@dataclass(frozen=True)
class HowToRun:
    """What a worker has to know besides: none of it changes the result.

    ``model`` is what the model is loaded by and ``dtype`` how that was asked for; ``size`` are its
    bytes on disk (0: not known here); ``file`` is the absolute path of a task without code, or of
    the user's folder of lmms-eval tasks. ``sources``, ``weights`` and ``files`` are hashes by path
    of the plugin files, of the model's files and of those that the task reads, ``prints`` the
    fingerprints of its examples: what differs from them is named.
    """

    model: str
    device: str
    dtype: str
    batch: int
    size: int = 0
    file: str | None = None
    plugins: tuple[str, ...] = ()
    sources: Files = field(default_factory=dict)
    weights: Files = field(default_factory=dict)
    files: Files = field(default_factory=dict)
    prints: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlannedCell:
    """One cell: ``config`` decides its result and its key."""

    key: str
    config: dict[str, Any]
    how: HowToRun

    @property
    def samples(self) -> int:
        """Questions to be answered."""
        count: int = self.config["task"]["samples"]
        return count

    @property
    def title(self) -> str:
        """``tiny-llava / digits / fastv / average=32 / seed 0``."""
        return title_of(self.config)


def title_of(config: dict[str, Any]) -> str:
    """A cell in words."""
    parts = [config["model"]["name"], config["task"]["name"]]
    if config["kind"] != "accuracy":
        return " / ".join([*parts, config["kind"]])
    parts.append(config["pipeline"]["name"])
    if config["budget"] is not None:
        parts.append(budget_title(config["budget"]))
    return " / ".join([*parts, f"seed {config['seed']}"])


def at_budget(pipeline: Pipeline, budget: Budget) -> Pipeline:
    """The pipeline with ``budget`` as its cost over the whole decoder.

    An average or a share of tokens is that of the decoder's layers, wherever the pipeline cuts:
    one boundary in front of the decoder leaves that many tokens, one behind some layers fewer,
    and several are scaled by one factor.
    """
    if not pipeline.stages:
        return pipeline
    first, *more = pipeline.stages
    if more or len(first.at) > 1:
        return pipeline.model_copy(update={"keep": budget})
    early = first.at[0] <= 0
    if budget.kind == "average" and early:
        own = Budget(kind="tokens", value=floor_count(budget.value))
    elif budget.kind == "share" and not early:  # of the layers; a stage's share is of its tokens
        stages = (first.model_copy(update={"keep": (Budget.model_validate(1.0),)}),)
        return pipeline.model_copy(update={"stages": stages, "keep": budget})
    else:
        own = budget
    stage = first.model_copy(update={"keep": (own,)})
    return pipeline.model_copy(update={"stages": (stage,), "keep": None})


def is_random(pipeline: Pipeline) -> bool:
    """Whether another seed gives other tokens: a component then has a parameter ``seed``."""
    return any("seed" in type(part).model_fields for part in pipeline.components())


def plan(
    spec: StudySpec,
    registry: Registry,
    plugins: Sequence[str | Path] = (),
    *,
    most: int | None = None,
) -> list[PlannedCell]:
    """All cells, in an order that keeps a model loaded: by model, task, pipeline and budget.

    Raises:
        StudyError: there are more cells than ``most``, or a task has no examples, or is none for
            a classifier.
        TaskError: a task draws other examples at every start.
    """
    pipelines = _with_baselines(spec, registry)
    check_count(count_cells(spec, pipelines), most)
    variants = list(_variants(spec, pipelines, registry))
    paths = tuple(str(Path(plugin).resolve()) for plugin in plugins)
    tasks = known_tasks(spec, registry, paths)
    sources = {file: digest_of(source) for file, source in registry.sources.items()}
    keys = _Keys()
    cells: dict[str, PlannedCell] = {}
    for model in spec.models:
        identity, classes = model_identity(model, registry), classes_of(model, registry)
        size, weights = identity.pop("bytes"), identity.pop("files")
        versions = versions_of(classifier=bool(classes))
        how = HowToRun(model.model, model.device, model.dtype, spec.batch, size, None, paths)
        how = replace(how, sources=sources, weights=weights)
        for task in (task for task in spec.tasks if model.asked(task.title)):
            known = tasks[task.title, task.samples or spec.samples]
            check_answerable(model, classes, task, known.examples)
            asked = replace(how, file=task_path(task.task))
            for one, all_facts in [
                (known, _accuracy(spec, known, variants)),
                *_anatomy(spec, task, tasks, registry),
            ]:
                own = replace(asked, files=one.files, prints=one.prints)
                for facts in all_facts:
                    config = {"model": identity, **facts, "versions": versions}
                    key = keys.of(config)
                    cells[key] = PlannedCell(key, config, own)
    return list(cells.values())


def count_cells(spec: StudySpec, pipelines: Sequence[PipelineSpec]) -> int:
    """How many cells a study has at most, from its lists alone: nothing is planned for it."""
    variants = 0
    for entry in pipelines:
        budgets = len(spec.budgets) if entry.pipeline.stages else 1
        variants += budgets * (len(spec.seeds) if is_random(entry.pipeline) else 1)
    asked = sum(model.asked(task.title) for model in spec.models for task in spec.tasks)
    return asked * (variants + (spec.anatomy is not None))


def check_count(cells: int, most: int | None) -> None:
    """Refuse a study that nobody may have meant.

    Raises:
        StudyError: it has more cells than ``most``.
    """
    if most is not None and cells > most:
        raise StudyError(
            f"the study has {cells:,} cells, more than {most:,}: take fewer models, pipelines, "
            "budgets, tasks or seeds, or say --yes if it is meant"
        )


def versions_of(*, classifier: bool) -> dict[str, str]:
    """Of what every cell runs on."""
    names = (*VERSIONS, "timm") if classifier else VERSIONS
    return {name: version(name) for name in names}


def _variants(
    spec: StudySpec, pipelines: Sequence[PipelineSpec], registry: Registry
) -> Iterator[dict[str, Any]]:
    """Every pipeline at every budget with its seeds; what has no stages and no seed, once."""
    for entry in pipelines:
        code = code_of(entry.pipeline.components(), registry)
        seeds = spec.seeds if is_random(entry.pipeline) else (0,)
        budgets: Sequence[Budget | None] = spec.budgets if entry.pipeline.stages else (None,)
        for budget in budgets:
            pipeline = {**pipeline_identity(entry, budget), "code": code}
            title = None if budget is None else {budget.kind: budget.value}
            for seed in seeds:
                yield {"pipeline": pipeline, "budget": title, "seed": seed}


def _accuracy(
    spec: StudySpec, known: KnownTask, variants: Sequence[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """The cells of a model and a task, without the model."""
    for variant in variants:
        yield {
            "kind": "accuracy",
            **variant,
            "task": known.facts,
            "max_new_tokens": spec.max_new_tokens,
        }


def _anatomy(
    spec: StudySpec, task: TaskSpec, tasks: Tasks, registry: Registry
) -> Iterator[tuple[KnownTask, list[dict[str, Any]]]]:
    """One cell, if the study wants it."""
    if spec.anatomy is not None:
        known = tasks[task.title, spec.anatomy.samples]
        facts = {
            "code": code_of((term.scorer for term in spec.anatomy.scorers), registry),
            "kind": "anatomy",
            "pipeline": None,
            "budget": None,
            "task": known.facts,
            "seed": 0,
            "max_new_tokens": spec.max_new_tokens,
            "anatomy": spec.anatomy.model_dump(mode="json", exclude={"samples"}),
        }
        yield known, [facts]


def _with_baselines(spec: StudySpec, registry: Registry) -> list[PipelineSpec]:
    """The baselines that the study does not name itself come first."""
    named = {entry.title for entry in spec.pipelines}
    missing = [name for name in BASELINES if name not in named]
    added = [PipelineSpec(pipeline=load_pipeline(name, registry=registry)) for name in missing]
    return [*added, *spec.pipelines]


def pipeline_identity(entry: PipelineSpec, budget: Budget | None) -> dict[str, Any]:
    """Name and content of a pipeline at a budget."""
    pipeline = entry.pipeline if budget is None else at_budget(entry.pipeline, budget)
    content = pipeline.to_plain()
    for key in ("description", "source", "about"):  # words for people
        content.pop(key, None)
    return {"name": entry.title, "resolved": content}


def key_of(config: dict[str, Any]) -> str:
    """The name of a cell's directory: the start of the SHA-256 of its configuration."""
    return _Keys().of(config)


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


class _Keys:
    """Keys of configurations that share their parts: each part is written down once."""

    def __init__(self) -> None:
        self._written: dict[int, tuple[Any, str]] = {}

    def of(self, config: dict[str, Any]) -> str:
        """The key of one configuration."""
        text = ",".join([f'"{name}":{self._text(config[name])}' for name in sorted(config)])
        return hashlib.sha256(f"{{{text}}}".encode()).hexdigest()[:KEY_LENGTH]

    def _text(self, part: Any) -> str:
        if type(part) is int:
            return str(part)
        if not isinstance(part, dict):
            return _ENCODER.encode(part)
        written = self._written.get(id(part))
        if written is None:  # the part is kept with its text: its number is not given away again
            written = self._written[id(part)] = (part, _ENCODER.encode(part))
        return written[1]
