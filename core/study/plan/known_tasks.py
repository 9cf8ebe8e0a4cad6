"""The tasks of a study as far as results depend on them: their questions, code and parameters."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokensieve.core.contract.tasks import Example, Task
from tokensieve.core.errors import StudyError, TaskError
from tokensieve.core.foreign import foreign, shown
from tokensieve.core.gate.tasks import asked_examples
from tokensieve.core.plugins.registry import PROJECT, Registry
from tokensieve.core.plugins.watching import watched
from tokensieve.core.study.lmms.task import LmmsTask
from tokensieve.core.study.plan.code import Files, code_of, data_files
from tokensieve.core.study.plan.fingerprints import combined, fingerprint_of
from tokensieve.core.study.plan.identity import file_hash, files_hash
from tokensieve.core.study.plan.records import TaskFacts
from tokensieve.core.study.plan.redraw import Draw, Redraw
from tokensieve.core.study.spec.study import StudySpec
from tokensieve.core.study.spec.task_files import FileTask
from tokensieve.core.study.spec.tasks import TaskSpec

DRAW = 0  # all cells of a task answer the same examples, or they could not be paired


@dataclass(frozen=True)
class KnownTask:
    """A task as it was planned, which a worker has to find again.

    Attributes:
        facts: what a result depends on.
        examples: the questions without their pictures.
        prints: the fingerprint of each example, so that one that differs can be named.
        files: hashes of the files that were read for it, to name the one that changed.
    """

    facts: TaskFacts
    examples: Sequence[Example]
    prints: tuple[str, ...]
    files: Files


Tasks = dict[tuple[str, int], KnownTask]
"""By title and number of samples."""


def known_tasks(spec: StudySpec, registry: Registry, plugins: Sequence[str]) -> Tasks:
    """Every task of a study at each number of samples that it is asked.

    Raises:
        StudyError: a task has no examples.
        TaskError: its examples cannot be used, or are others at every start.
    """
    wanted = {(task.title, task.samples or spec.samples): task for task in spec.tasks}
    if spec.anatomy is not None:
        wanted |= {(task.title, spec.anatomy.samples): task for task in spec.tasks}
    known = {place: know_task(task, place[1], registry) for place, task in wanted.items()}
    _check_draws([(task, known[place]) for place, task in wanted.items()], registry, plugins)
    return known


def know_task(spec: TaskSpec, samples: int, registry: Registry) -> KnownTask:
    """Name, parameters and code of a task, how many questions it has, and a hash of all of them."""
    with foreign(TaskError, f"task {spec.title!r}: its questions cannot be used"):
        with watched() as read:
            examples = asked_examples(spec.task, samples, DRAW)
        try:
            prints = tuple(map(fingerprint_of, examples))
        except TaskError as error:
            raise TaskError(f"task {spec.title!r}: {error}") from None
        named = Counter(str(one.id) for one in examples)  # results are paired by ids
        twice = [name for name, count in named.items() if count > 1]
        if twice:
            raise TaskError(f"task {spec.title!r}: two examples have the id {shown(twice[0])}")
        files = {str(file): file_hash(file) for file in task_files(spec.task, examples)}
        own = read_data(spec.task, read, registry)
    if not examples:
        raise StudyError(f"task {spec.title!r} has no examples")
    facts = TaskFacts(
        name=spec.title,
        task=spec.task.name,
        parameters=task_parameters(spec.task),
        code=code_of([spec.task], registry),
        samples=len(examples),
        examples=combined(prints),
    )
    if own:
        facts = facts.model_copy(update={"reads": files_hash(own)})
    bare = [copy.copy(example) for example in examples]  # with what a subclass has besides
    for example in bare:
        object.__setattr__(example, "images", ())
    return KnownTask(facts, bare, prints, {**files, **own})


def read_data(task: Task, read: Iterable[str], registry: Registry) -> Files:
    """The files that a plugin's task read to draw its examples: it may score answers by them.

    Of a task without code, all that matters is in its examples.
    """
    entry = registry.entries["task"].get(task.name)
    return {} if entry is None or entry.owner == PROJECT else data_files(read)


def task_parameters(task: Task) -> dict[str, object]:
    """The parameters of a task, wherever its files are."""
    if isinstance(task, FileTask):
        return {"file": task.file.name}
    if isinstance(task, LmmsTask):
        return dict(task.identity())
    parameters: dict[str, object] = task.model_dump(mode="json", exclude_defaults=True)
    return parameters


def task_path(task: Task) -> str | None:
    """The path of a task without code, or of the user's folder of lmms-eval tasks."""
    if isinstance(task, FileTask):
        return str(task.file)
    return str(task.include) if isinstance(task, LmmsTask) and task.include else None


def task_files(task: Task, examples: Sequence[Example]) -> list[Path]:
    """The files that the examples of a task without code were read from."""
    return task.files_of(examples) if isinstance(task, FileTask) else []


def _check_draws(
    known: Sequence[tuple[TaskSpec, KnownTask]], registry: Registry, plugins: Sequence[str]
) -> None:
    """Refuse plugins' tasks that draw other examples when they are asked again.

    They are asked again here, which shows what is counted on or random, and in a process of its
    own, which shows what differs at every start. Our own tasks are pure, and tested to be.
    """
    foreign_ones = []
    for task, one in known:
        entry = registry.entries["task"].get(task.task.name)
        if entry is None or entry.owner == PROJECT:
            continue
        samples = one.facts.samples
        again = [fingerprint_of(example) for example in asked_examples(task.task, samples, DRAW)]
        _check_same(task.title, one, again)
        foreign_ones.append((task, one, Draw(task.task.name, one.facts.parameters, samples)))
    if not foreign_ones:
        return
    found = Redraw(tuple(plugins), tuple(draw for *_, draw in foreign_ones), DRAW).run()
    for (task, one, _), prints in zip(foreign_ones, found, strict=True):
        _check_same(task.title, one, prints)


def _check_same(title: str, known: KnownTask, prints: Sequence[str]) -> None:
    if tuple(prints) != known.prints:
        name = differing(known.prints, prints)
        which = f", such as number {name + 1}" if name < len(known.prints) else ""
        raise TaskError(
            f"task {title!r}: its examples are others at every start{which}: let `examples` depend "
            "on `count` and `seed` alone (no clock, no hash(), no unseeded random numbers)"
        )


def differing(planned: Sequence[str], found: Sequence[str]) -> int:
    """The number of the first example that is another one, from 0."""
    pairs = enumerate(zip(planned, found, strict=False))
    return next((n for n, (one, other) in pairs if one != other), min(len(planned), len(found)))
