"""The cells of a study: every combination that is run, resolved as far as its result depends on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from tokensieve.core.errors import StudyError
from tokensieve.core.names import BASELINES
from tokensieve.core.pipeline.budgets import Budget
from tokensieve.core.pipeline.loading import load_pipeline
from tokensieve.core.pipeline.pipeline import Pipeline
from tokensieve.core.plugins.registry import PROJECT, Registry
from tokensieve.core.study.plan.classifiers import check_answerable, classes_of
from tokensieve.core.study.plan.code import code_of, digest_of
from tokensieve.core.study.plan.identity import model_identity
from tokensieve.core.study.plan.keys import Keys
from tokensieve.core.study.plan.known_tasks import known_tasks, task_path
from tokensieve.core.study.plan.records import (
    AttributionFacts,
    CellConfig,
    PipelineFacts,
    PlannedCell,
    RunOptions,
)
from tokensieve.core.study.spec.study import PipelineSpec, StudySpec

VERSIONS = (PROJECT, "torch", "transformers")


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
    keys = Keys()
    cells: dict[str, PlannedCell] = {}
    for model in spec.models:
        found, classes = model_identity(model, registry), classes_of(model, registry)
        versions = versions_of(classifier=bool(classes))
        how = RunOptions(
            model.model,
            model.device,
            model.dtype,
            spec.batch,
            size=found.size,
            plugins=paths,
            sources=sources,
            weights=found.files,
        )
        for task in (task for task in spec.tasks if model.asked(task.title)):
            known = tasks[task.title, task.samples or spec.samples]
            check_answerable(model, classes, task, known.examples)
            asked = replace(how, file=task_path(task.task), files=known.files, prints=known.prints)
            configs = [
                CellConfig(
                    model=found.facts,
                    kind="accuracy",
                    pipeline=variant.pipeline,
                    budget=variant.budget,
                    seed=variant.seed,
                    task=known.facts,
                    max_new_tokens=spec.max_new_tokens,
                    versions=versions,
                )
                for variant in variants
            ]
            planned = [(asked, config) for config in configs]
            if spec.anatomy is not None:
                known = tasks[task.title, spec.anatomy.samples]
                own = spec.anatomy.model_dump(mode="json", exclude={"samples"})
                config = CellConfig(
                    model=found.facts,
                    kind="anatomy",
                    pipeline=None,
                    budget=None,
                    seed=0,
                    task=known.facts,
                    max_new_tokens=spec.max_new_tokens,
                    versions=versions,
                    code=code_of((term.scorer for term in spec.anatomy.scorers), registry),
                    anatomy=AttributionFacts.model_validate(own),
                )
                planned.append((replace(asked, files=known.files, prints=known.prints), config))
            for options, config in planned:
                key = keys.of(config)
                cells[key] = PlannedCell(key, config, options)
    return list(cells.values())


def count_cells(spec: StudySpec, pipelines: Sequence[PipelineSpec]) -> int:
    """The most cells that a study can have, from its lists alone: nothing is planned for it."""
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
    """The versions of what every cell runs on."""
    names = (*VERSIONS, "timm") if classifier else VERSIONS
    return {name: version(name) for name in names}


@dataclass(frozen=True)
class _Variant:
    """A pipeline at a budget, with a seed."""

    pipeline: PipelineFacts
    budget: dict[str, int | float] | None
    seed: int


def _variants(
    spec: StudySpec, pipelines: Sequence[PipelineSpec], registry: Registry
) -> Iterator[_Variant]:
    """Every pipeline at every budget with its seeds; what has no stages and no seed, once."""
    for entry in pipelines:
        code = code_of(entry.pipeline.components(), registry)
        seeds = spec.seeds if is_random(entry.pipeline) else (0,)
        budgets: Sequence[Budget | None] = spec.budgets if entry.pipeline.stages else (None,)
        for budget in budgets:
            pipeline = pipeline_identity(entry, budget, code)
            title: dict[str, int | float] | None = None
            if budget is not None:
                title = {budget.kind: budget.value}
            for seed in seeds:
                yield _Variant(pipeline, title, seed)


def _with_baselines(spec: StudySpec, registry: Registry) -> list[PipelineSpec]:
    """The baselines that the study does not name itself come first."""
    named = {entry.title for entry in spec.pipelines}
    missing = [name for name in BASELINES if name not in named]
    added = [PipelineSpec(pipeline=load_pipeline(name, registry=registry)) for name in missing]
    return [*added, *spec.pipelines]


def pipeline_identity(
    entry: PipelineSpec, budget: Budget | None, code: dict[str, str]
) -> PipelineFacts:
    """Name, content and code of a pipeline at a budget."""
    pipeline = entry.pipeline
    if budget is not None:
        pipeline = pipeline.with_keep(budget, of_decoder=True)
    content = pipeline.to_plain()
    for key in ("description", "source", "about"):  # words for people
        content.pop(key, None)
    return PipelineFacts(name=entry.title, resolved=content, code=code)
