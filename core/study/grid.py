"""The cells of a study: every combination that is run, resolved as far as its result depends on."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tokensieve.core.budgets import Budget, whole
from tokensieve.core.components import Component
from tokensieve.core.errors import StudyError, TaskError
from tokensieve.core.foreign import foreign
from tokensieve.core.loading import load_pipeline
from tokensieve.core.pipeline import Pipeline
from tokensieve.core.plugins import PROJECT, Registry, kind_of
from tokensieve.core.study.classifiers import check_answerable, classes_of
from tokensieve.core.study.identity import model_identity
from tokensieve.core.study.lmms.task import LmmsTask
from tokensieve.core.study.parts import BASELINES
from tokensieve.core.study.spec import PipelineSpec, StudySpec
from tokensieve.core.study.task_spec import TaskSpec
from tokensieve.core.task_files import FileTask
from tokensieve.core.tasks import Example, Task, fingerprint

KEY_LENGTH = 16
DRAW = 0  # all cells of a task answer the same examples, or they could not be paired
VERSIONS = (PROJECT, "torch", "transformers")


@dataclass(frozen=True)
class HowToRun:
    """What a worker has to know besides: none of it changes the result.

    ``model`` is what the model is loaded by and ``dtype`` how that was asked for; ``size`` are its
    bytes on disk (0: not known here); ``file`` is the absolute path of a task without code, or of
    the user's folder of lmms-eval tasks.
    """

    model: str
    device: str
    dtype: str
    batch: int
    size: int = 0
    file: str | None = None
    plugins: tuple[str, ...] = ()


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


def budget_title(budget: dict[str, Any]) -> str:
    """``average=32``."""
    return ", ".join(f"{kind}={value:g}" for kind, value in budget.items())


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
        own = Budget(kind="tokens", value=whole(budget.value))
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


@dataclass(frozen=True)
class KnownTask:
    """The facts about a task that a result depends on, and its questions without pictures."""

    facts: dict[str, Any]
    examples: Sequence[Example]


Tasks = dict[tuple[str, int], KnownTask]
"""By title and number of samples."""


def plan(
    spec: StudySpec, registry: Registry, plugins: Sequence[str | Path] = ()
) -> list[PlannedCell]:
    """All cells, in an order that keeps a model loaded: by model, task, pipeline and budget.

    Raises:
        StudyError: a task has no examples, or is none for a classifier.
    """
    pipelines = _with_baselines(spec, registry)
    paths = tuple(str(Path(plugin).resolve()) for plugin in plugins)
    tasks = _known_tasks(spec, registry)
    cells: dict[str, PlannedCell] = {}
    for model in spec.models:
        identity, classes = model_identity(model, registry), classes_of(model, registry)
        size, versions = identity.pop("bytes"), _versions(classifier=bool(classes))
        for task in (task for task in spec.tasks if model.asked(task.title)):
            known = tasks[task.title, task.samples or spec.samples]
            check_answerable(model, classes, task, known.examples)
            file = task_path(task.task)
            how = HowToRun(model.model, model.device, model.dtype, spec.batch, size, file, paths)
            for facts in [
                *_accuracy(spec, known, pipelines, registry),
                *_anatomy(spec, task, tasks, registry),
            ]:
                config = {"model": identity, **facts, "versions": versions}
                cells[key_of(config)] = PlannedCell(key_of(config), config, how)
    return list(cells.values())


def _known_tasks(spec: StudySpec, registry: Registry) -> Tasks:
    wanted = {(task.title, task.samples or spec.samples): task for task in spec.tasks}
    if spec.anatomy is not None:
        wanted |= {(task.title, spec.anatomy.samples): task for task in spec.tasks}
    return {place: know_task(task, place[1], registry) for place, task in wanted.items()}


def _versions(*, classifier: bool) -> dict[str, str]:
    names = (*VERSIONS, "timm") if classifier else VERSIONS
    return {name: version(name) for name in names}


def _accuracy(
    spec: StudySpec, known: KnownTask, pipelines: Sequence[PipelineSpec], registry: Registry
) -> Iterator[dict[str, Any]]:
    """Every pipeline at every budget with its seeds; what has no stages and no seed, once."""
    for entry in pipelines:
        seeds = spec.seeds if is_random(entry.pipeline) else (0,)
        budgets: Sequence[Budget | None] = spec.budgets if entry.pipeline.stages else (None,)
        for budget in budgets:
            for seed in seeds:
                yield {
                    "kind": "accuracy",
                    "pipeline": pipeline_identity(entry, budget, registry),
                    "budget": None if budget is None else {budget.kind: budget.value},
                    "task": known.facts,
                    "seed": seed,
                    "max_new_tokens": spec.max_new_tokens,
                }


def _anatomy(
    spec: StudySpec, task: TaskSpec, tasks: Tasks, registry: Registry
) -> Iterator[dict[str, Any]]:
    """One cell, if the study wants it."""
    if spec.anatomy is not None:
        code = code_of((term.scorer for term in spec.anatomy.scorers), registry)
        yield {
            "code": code,
            "kind": "anatomy",
            "pipeline": None,
            "budget": None,
            "task": tasks[task.title, spec.anatomy.samples].facts,
            "seed": 0,
            "max_new_tokens": spec.max_new_tokens,
            "anatomy": spec.anatomy.model_dump(mode="json", exclude={"samples"}),
        }


def _with_baselines(spec: StudySpec, registry: Registry) -> list[PipelineSpec]:
    """The baselines that the study does not name itself come first."""
    named = {entry.title for entry in spec.pipelines}
    missing = [name for name in BASELINES if name not in named]
    added = [PipelineSpec(pipeline=load_pipeline(name, registry=registry)) for name in missing]
    return [*added, *spec.pipelines]


def pipeline_identity(
    entry: PipelineSpec, budget: Budget | None, registry: Registry
) -> dict[str, Any]:
    """Name and content of a pipeline at a budget, and who else's code it runs."""
    pipeline = entry.pipeline if budget is None else at_budget(entry.pipeline, budget)
    content = pipeline.to_plain()
    for key in ("description", "source", "about"):  # words for people
        content.pop(key, None)
    return {
        "name": entry.title,
        "resolved": content,
        "code": code_of(pipeline.components(), registry),
    }


def code_of(parts: Iterable[Component | Task], registry: Registry) -> dict[str, str]:
    """What each component's code is: hash of its own file, and version of the plugin it came with.

    So a scorer that is edited is run anew, whether it is a plugin file or lies in a checkout.
    """
    found: dict[str, str] = {}
    for part in parts:
        kind = kind_of(type(part))
        entry = registry.entries.get(kind, {}).get(part.name)
        owner = PROJECT if entry is None else entry.owner
        if Path(owner).is_file():
            found[Path(owner).name] = _hash_of(Path(owner))
            continue
        found[type(part).__module__] = _hash_of(Path(str(inspect.getsourcefile(type(part)))))
        if owner != PROJECT:
            found[owner] = version(owner)
    return dict(sorted(found.items()))


def _hash_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:KEY_LENGTH]


def know_task(spec: TaskSpec, samples: int, registry: Registry) -> KnownTask:
    """Name, parameters and code of a task, how many questions it has, and a hash of all of them."""
    with foreign(TaskError, f"task {spec.title!r}: its questions cannot be used"):
        examples = spec.task.examples(samples, DRAW)
        content = fingerprint(examples)
    if not examples:
        raise StudyError(f"task {spec.title!r} has no examples")
    parameters = spec.task.model_dump(mode="json", exclude_defaults=True)
    if isinstance(spec.task, FileTask):  # wherever the file lies
        parameters = {"file": spec.task.file.name}
    if isinstance(spec.task, LmmsTask):
        parameters = spec.task.identity()
    code = code_of([spec.task], registry)
    facts = {
        "name": spec.title,
        "task": spec.task.name,
        "parameters": parameters,
        "code": code,
        "samples": len(examples),
        "examples": content,
    }
    return KnownTask(facts, [replace(example, images=()) for example in examples])


def task_path(task: Task) -> str | None:
    """Where a task without code lies, or lmms-eval tasks of the user's own."""
    if isinstance(task, FileTask):
        return str(task.file)
    return str(task.include) if isinstance(task, LmmsTask) and task.include else None


def key_of(config: dict[str, Any]) -> str:
    """The name of a cell's directory: the start of the SHA-256 of its configuration."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]
