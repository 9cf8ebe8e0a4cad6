"""Checks that a worker uses what was planned; else there is no result, but a file's name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tokensieve.core.contract.tasks import Example, Task
from tokensieve.core.errors import ModelError, StudyError, TaskError
from tokensieve.core.foreign import shorten, shown
from tokensieve.core.gate.tasks import asked_examples
from tokensieve.core.models.finding import locate
from tokensieve.core.models.loading import Loaded
from tokensieve.core.pipeline.loading import load_pipeline
from tokensieve.core.plugins.registry import Registry
from tokensieve.core.plugins.watching import watched
from tokensieve.core.study.plan.cells import versions_of
from tokensieve.core.study.plan.code import Coded, code_files, code_of, digest_of
from tokensieve.core.study.plan.fingerprints import combined, fingerprint, fingerprint_of
from tokensieve.core.study.plan.identity import (
    file_hash,
    files_hash,
    model_files,
    revision_of,
)
from tokensieve.core.study.plan.known_tasks import (
    DRAW,
    differing,
    read_data,
    task_files,
    task_parameters,
)
from tokensieve.core.study.plan.records import PlannedCell
from tokensieve.core.study.work.token_attribution import read_terms

AGAIN = "has changed since the study was planned: start it again"


def check_plugins(cell: PlannedCell, registry: Registry) -> None:
    """Check the plugin files whose code the cell runs, before anything in them is looked for.

    Raises:
        StudyError: naming the file that is not the one that was planned.
    """
    config = cell.config
    codes = [config.code, config.model.code, config.task.code]
    codes += [config.pipeline.code] if config.pipeline else []
    used = {digest for code in codes for digest in code.values()}
    for file, digest in cell.how.sources.items():
        if digest in used and digest != digest_of(registry.sources.get(file, b"")):
            raise StudyError(f"{file} {AGAIN}")


def check_code(cell: PlannedCell, task: Task, registry: Registry) -> None:
    """Check components, task, adapter, what they import, and the versions of what is installed.

    Raises:
        StudyError: naming the file that is not the one that was planned.
    """
    config = cell.config
    versions = versions_of(classifier="timm" in config.versions)
    for name, planned in config.versions.items():
        if versions.get(name) != planned:
            raise StudyError(f"{name} {versions.get(name)} runs here, not {planned}: {AGAIN}")
    _compare([task], config.task.code, registry)
    if "code" in config.model:
        adapter = registry.get("adapter", config.model.family)
        _compare([adapter], config.model.code, registry)
    if task_parameters(task) != config.task.parameters:  # where definitions are files of a folder
        raise StudyError(f"task {config.task.name!r} ({cell.how.file}) {AGAIN}")
    if config.anatomy is not None:
        terms = read_terms(config.anatomy.scorers, registry)
        _compare([term.scorer for term in terms], config.code, registry)
    if config.pipeline is not None:
        pipeline = load_pipeline(config.pipeline.resolved, registry=registry)
        _compare(list(pipeline.components()), config.pipeline.code, registry)


def check_weights(cell: PlannedCell, registry: Registry) -> None:
    """Check the files that a model is loaded from; those of the Hub are known by their revision.

    Raises:
        StudyError: naming the file.
    """
    planned = cell.config.model.sha256
    if planned is None:
        return
    try:
        found = model_files(Path(locate(cell.how.model, registry)))
    except ModelError:  # the folder is gone
        found = {}
    if files_hash(found) == planned:
        return
    files = {Path(file).name: file for file in [*cell.how.weights, *found]}
    wanted = {Path(file).name: digest for file, digest in cell.how.weights.items()}
    name = _first_changed(wanted, {Path(file).name: digest for file, digest in found.items()})
    where = files.get(str(name), cell.how.model)
    raise StudyError(f"model {cell.config.model.name!r}: {where} {AGAIN}")


def check_loaded(cell: PlannedCell, loaded: Loaded) -> None:
    """Check the revision of a model of the Hub, and whose adapter reads it.

    Raises:
        StudyError: it is another one.
    """
    wanted = cell.config.model
    revision = revision_of(loaded.model.config)
    if wanted.revision not in (None, revision):
        raise StudyError(
            f"model {wanted.name!r}: revision {revision} was loaded, not {wanted.revision}: "
            f"it {AGAIN}"
        )
    if loaded.adapter.name != wanted.family:
        what = f"adapter {loaded.adapter.name!r}, not {wanted.family!r}"
        raise StudyError(f"model {wanted.name!r} is loaded by {what}: its plugin {AGAIN}")


def draw_planned(cell: PlannedCell, task: Task, registry: Registry) -> list[Example]:
    """The very examples that are asked next, if they are those of the plan.

    Raises:
        StudyError: naming the file that changed, and the first example that is another one.
    """
    wanted, files = cell.config.task, cell.how.files
    with watched() as read:
        examples = asked_examples(task, wanted.samples, DRAW)
    prints = [fingerprint_of(example) for example in examples]
    own = read_data(task, read, registry)
    if combined(prints) == wanted.examples:
        if wanted.reads == (files_hash(own) if own else None):
            return examples
        which = "its data"
    else:
        number = differing(cell.how.prints, prints)
        which = f"example {shown(examples[number].id)}" if number < len(examples) else "an example"
    changed = []
    for file, planned in files.items():
        try:
            same = file_hash(Path(file)).startswith(planned)
        except OSError:  # the file is gone
            same = False
        changed += [] if same else [file]
    new = [str(file) for file in [*own, *task_files(task, examples)] if str(file) not in files]
    where = shorten((*changed, *new, *code_files_of_task(cell, task))[0])
    raise StudyError(
        f"task {wanted.name!r}: {which} is not what was planned: {where} "
        + (AGAIN if changed or new else "gives other examples here than where it was planned")
    )


def left_alone(cell: PlannedCell, examples: Sequence[Example]) -> bool:
    """Whether the examples are still those of the plan; a task may write to what it scores."""
    try:
        return fingerprint(examples) == cell.config.task.examples
    except TaskError:
        return False


def code_files_of_task(cell: PlannedCell, task: Task) -> list[str]:
    """The files that an example may come from if no file of data says so."""
    return [str(cell.how.file or type(task).__module__), *cell.how.plugins]


def _compare(parts: Sequence[Coded], planned: Mapping[str, str], registry: Registry) -> None:
    found = code_of(parts, registry)
    name = _first_changed(planned, found)
    if name is None:
        return
    paths = {Path(file).name: file for file in code_files(parts, registry)}
    raise StudyError(f"{paths.get(name.partition(' (')[0], name)} {AGAIN}")


def _first_changed(planned: Mapping[str, str], found: Mapping[str, str]) -> str | None:
    """The first name whose content is another one, is gone, or is new."""
    names = sorted({*planned, *found})
    return next((name for name in names if planned.get(name) != found.get(name)), None)
