"""What a study's YAML says of its tasks: registered ones, files of questions, benchmarks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, SerializeAsAny, ValidationError, ValidationInfo, model_validator

from tokensieve.core.contract.tasks import Task
from tokensieve.core.errors import PluginError, TaskError, did_you_mean
from tokensieve.core.pipeline.fields import first_problem, registry_of
from tokensieve.core.strict import MOST_SAMPLES, error_at
from tokensieve.core.study.lmms.task import KEYS as BENCHMARK_KEYS
from tokensieve.core.study.lmms.task import LmmsTask, is_benchmark, read_benchmark
from tokensieve.core.study.spec.parts import Part, folder_of
from tokensieve.core.study.spec.task_files import FileTask, data_file, is_task_file


class TaskSpec(Part):
    """A registered task with its parameters, or a file of questions."""

    task: SerializeAsAny[Task]
    name: str = ""
    samples: int | None = Field(default=None, ge=1, le=MOST_SAMPLES, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _built(cls, value: Any, info: ValidationInfo) -> Any:
        given = dict(value) if isinstance(value, Mapping) else {"task": value}
        own = {key: given.pop(key) for key in ("name", "samples") if key in given}
        if is_benchmark(given.get("task")):
            return {**own, "task": _benchmark(given, info)}
        if isinstance(given.get("task"), str) and is_task_file(given["task"]):
            given["file"] = given.pop("task")
        task = _file_task(given, info) if "file" in given else _registered_task(given, info)
        return {**own, "task": task}

    @property
    def title(self) -> str:
        """What results call it."""
        if isinstance(self.task, LmmsTask):
            return self.name or self.task.benchmark
        if self.name or not isinstance(self.task, FileTask):
            return self.name or self.task.name
        file = self.task.file
        return file.parent.name if file.stem == "data" else file.stem


def _file_task(given: dict[str, Any], info: ValidationInfo) -> Task:
    extra = sorted(set(given) - {"file"})
    if extra:
        hint = did_you_mean(extra[0], ["file", "name", "samples"])
        raise error_at(f"unknown key{hint}", (extra[0],), at_key=True)
    try:
        file = data_file(Path(os.path.realpath(folder_of(info) / _expanded(given["file"]))))
    except TaskError as error:
        raise error_at(str(error), ("file",)) from None
    return FileTask(file=file)


def _expanded(given: Any) -> str:
    return os.path.expanduser(str(given))


def _benchmark(given: dict[str, Any], info: ValidationInfo) -> Task:
    extra = sorted(set(given) - {"task", *BENCHMARK_KEYS})
    if extra:
        hint = did_you_mean(extra[0], ["task", "name", "samples", *BENCHMARK_KEYS])
        raise error_at(f"unknown key{hint}", (extra[0],), at_key=True)
    try:
        return read_benchmark(given, folder_of(info))
    except TaskError as error:
        raise error_at(str(error), ("task",)) from None


def _registered_task(given: dict[str, Any], info: ValidationInfo) -> Task:
    name = given.pop("task", None)
    if isinstance(name, Task):
        return name
    if not isinstance(name, str):
        raise error_at("a task is a name, a file, or a mapping with the key 'task' or 'file'", ())
    try:
        kind: type[Task] = registry_of(info).get("task", name)
        return kind.model_validate(given, context=info.context)
    except PluginError as error:
        raise error_at(f"{error}, or a .jsonl or .parquet file", ("task",)) from None
    except ValidationError as error:
        known = ["task", "name", "samples", *kind.model_fields]
        raise first_problem(error, given, name, known) from None
