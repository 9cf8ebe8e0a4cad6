"""The tasks of a study's YAML: registered ones, files of questions, benchmarks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

from pydantic import Field, SerializeAsAny, ValidationError, ValidationInfo, model_validator

from tokensieve.core.contract.tasks import Task
from tokensieve.core.errors import PluginError, TaskError, did_you_mean
from tokensieve.core.pipeline.fields import describe_problem, located, registry_of
from tokensieve.core.strict import MOST_SAMPLES, StrictModel
from tokensieve.core.study.lmms.task import KEYS as BENCHMARK_KEYS
from tokensieve.core.study.lmms.task import LmmsTask, is_benchmark, read_benchmark
from tokensieve.core.study.spec.parts import folder_of
from tokensieve.core.study.spec.task_files import FileTask, data_file, is_task_file

Given = dict[str, object]
KEYS = ("name", "samples")


class TaskSpec(StrictModel):
    """A registered task with its parameters, or a file of questions."""

    task: SerializeAsAny[Task]
    name: str = ""
    samples: int | None = Field(default=None, ge=1, le=MOST_SAMPLES, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _built(cls, value: object, info: ValidationInfo) -> object:
        given: Given = dict(value) if isinstance(value, Mapping) else {"task": value}
        own = {key: given.pop(key) for key in KEYS if key in given}
        name = given.get("task")
        if is_benchmark(name):
            _check_keys(given, {"task", *BENCHMARK_KEYS}, ["task", *KEYS, *BENCHMARK_KEYS])
            try:
                return {**own, "task": read_benchmark(given, folder_of(info))}
            except TaskError as error:
                raise located(str(error), ("task",)) from None
        if isinstance(name, str) and is_task_file(name):
            given["file"] = given.pop("task")
        if "file" not in given:
            return {**own, "task": _registered_task(given, info)}
        _check_keys(given, {"file"}, ["file", *KEYS])
        try:
            place = folder_of(info) / os.path.expanduser(str(given["file"]))
            return {**own, "task": FileTask(file=data_file(Path(os.path.realpath(place))))}
        except TaskError as error:
            raise located(str(error), ("file",)) from None

    @property
    def title(self) -> str:
        """Its name in results."""
        if isinstance(self.task, LmmsTask):
            return self.name or self.task.benchmark
        if self.name or not isinstance(self.task, FileTask):
            return self.name or self.task.name
        file = self.task.file
        return file.parent.name if file.stem == "data" else file.stem


def _check_keys(given: Given, known: Set[str], allowed: Sequence[str]) -> None:
    extra = sorted(set(given) - known)
    if extra:
        hint = did_you_mean(extra[0], allowed)
        raise located(f"unknown key{hint}", (extra[0],), at_key=True)


def _registered_task(given: Given, info: ValidationInfo) -> Task:
    name = given.pop("task", None)
    if isinstance(name, Task):
        return name
    if not isinstance(name, str):
        raise located("a task is a name, a file, or a mapping with the key 'task' or 'file'", ())
    try:
        kind: type[Task] = registry_of(info).get("task", name)
        return kind.model_validate(given, context=info.context)
    except PluginError as error:
        raise located(f"{error}, or a .jsonl or .parquet file", ("task",)) from None
    except ValidationError as error:
        first = error.errors()[0]
        message, unknown = describe_problem(dict(first)), first["type"] == "extra_forbidden"
        if unknown:
            allowed = ["task", "name", "samples", *kind.model_fields]
            hint = did_you_mean(str(first["loc"][-1]), allowed)
            message = f"unknown parameter of {name!r}{hint}"
        inner = (first.get("ctx") or {}).get("path", ())
        raise located(message, (*first["loc"], *inner), at_key=unknown) from None
