"""Run cells: a worker keeps a model and prepared questions, and turns a cell into its result."""

from __future__ import annotations

import json
import platform
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tokensieve.core.contract.tasks import Task
from tokensieve.core.engine.session import Session, attach
from tokensieve.core.errors import AttachError, UnsupportedError
from tokensieve.core.foreign import shorten, text_of
from tokensieve.core.gate.tasks import asked_score
from tokensieve.core.lazy import torch
from tokensieve.core.models.host import processor_name
from tokensieve.core.models.loading import Loaded, load_model
from tokensieve.core.output.quiet import quiet_transformers
from tokensieve.core.pipeline.loading import MESSAGE, load_pipeline
from tokensieve.core.plugins.discovery import build_registry
from tokensieve.core.plugins.files import BREAKAGE
from tokensieve.core.plugins.registry import Registry
from tokensieve.core.study.lmms.task import LmmsTask
from tokensieve.core.study.plan.cells import PlannedCell
from tokensieve.core.study.spec.task_files import FileTask
from tokensieve.core.study.store.store import CellResult
from tokensieve.core.study.work.agreement import (
    check_code,
    check_loaded,
    check_plugins,
    check_weights,
    draw_planned,
    left_alone,
)
from tokensieve.core.study.work.benchmark_cell import run_benchmark
from tokensieve.core.study.work.measures import sample_records, summarize, unmet_reason
from tokensieve.core.study.work.questions import Batch, Questions
from tokensieve.core.study.work.subjects import (
    naming,
    prepare_named,
    question_named,
    subject_of,
    untouched,
)

Tick = Callable[[int], None]
Records = dict[str, list[dict[str, Any]]]


class _Refused(Exception):
    """The pipeline cannot run on the model, or not at the budget: the reason."""


class Worker:
    """Runs cells one after the other; ``device`` stands in for the ``cuda`` of a cell."""

    def __init__(self, device: str | None = None) -> None:
        self.device = device
        self._loaded: tuple[Any, Loaded] | None = None
        self._questions: dict[tuple[str, ...], Questions] = {}

    def run(self, cell: PlannedCell, tick: Tick = lambda samples: None) -> CellResult:
        """The cell's result; whatever goes wrong in it becomes a failed (or unmet) cell."""
        start, started = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
        facts: dict[str, Any] = {"status": "done", "error": None, "traceback": None, "summary": {}}
        lines: Records = {}
        try:
            with quiet_transformers():
                lines, more = self._run(cell, tick)
            if cell.config["kind"] == "accuracy":
                found = summarize(lines["samples.jsonl"], cell.config["budget"])
                facts["summary"] = {**found, **more}
                unit = "layer" if self._loaded is None else self._loaded[1].bound.layer_word
                reason = unmet_reason(facts["summary"], cell.config["budget"], unit)
                if reason:
                    facts |= {"status": "unmet", "error": reason}
        except _Refused as error:
            facts |= {"status": "unmet", "error": str(error)}
        except BREAKAGE as error:
            facts |= failure(error)
            self._questions.clear()  # nobody knows what it did to them
        facts |= {"seconds": time.perf_counter() - start, "started": started}
        facts["environment"] = self._environment(cell)
        return CellResult(cell.key, {"config": cell.config, **facts}, lines)

    def _run(self, cell: PlannedCell, tick: Tick) -> tuple[Records, dict[str, Any]]:
        """Lines per file, and what the summary says besides."""
        registry = build_registry(cell.how.plugins)
        self._check(cell, registry)
        loaded = self._model(cell, registry)
        questions = self._examples(cell, registry)
        found = self._asked(cell, loaded, questions, registry, tick)
        if not left_alone(cell, questions.examples):
            self._questions.clear()  # the next cell draws its own
        self._check(cell, build_registry(cell.how.plugins))  # also what was imported late
        return found

    def _check(self, cell: PlannedCell, registry: Registry) -> None:
        """The code is what was planned."""
        check_plugins(cell, registry)
        check_code(cell, _task(cell, registry), registry)

    def _asked(
        self,
        cell: PlannedCell,
        loaded: Loaded,
        questions: Questions,
        registry: Registry,
        tick: Tick,
    ) -> tuple[Records, dict[str, Any]]:
        if cell.config["kind"] == "anatomy":
            return {"anatomy.jsonl": list(_anatomy(cell, loaded, questions, registry, tick))}, {}
        try:
            with _pruned(cell, loaded, registry) as session:
                if isinstance(questions.task, LmmsTask):
                    found, more = run_benchmark(cell, loaded, session, questions.task, tick)
                else:
                    found, more = _answers(cell, loaded, session, questions, tick), {}
        except AttachError as error:  # the model itself can be pruned: it has been bound before
            raise _Refused(str(error)) from error
        return {"samples.jsonl": found}, more

    def _model(self, cell: PlannedCell, registry: Registry) -> Loaded:
        """The cell's model; the one before is let go of first."""
        identity = (cell.how.model, *sorted(cell.config["model"].items()))
        if self._loaded is None or self._loaded[0] != identity:
            self._loaded = None
            self._questions.clear()
            wanted, device = cell.config["model"], cell.how.device
            check_weights(cell, registry)
            loaded = load_model(
                cell.how.model,
                registry,
                device=self.device if self.device and device == "cuda" else device,
                dtype=cell.how.dtype,
                attention=None if wanted["attention"] == "default" else wanted["attention"],
            )
            check_weights(cell, registry)  # nothing changed while it was read
            check_loaded(cell, loaded)
            self._loaded = (identity, loaded)
        return self._loaded[1]

    def _examples(self, cell: PlannedCell, registry: Registry) -> Questions:
        task = cell.config["task"]
        place = (json.dumps(task, sort_keys=True), str(cell.how.file))
        if place not in self._questions:
            chosen = _task(cell, registry)
            examples = draw_planned(cell, chosen, registry)
            self._questions[place] = Questions(chosen, examples)
        return self._questions[place]

    def _environment(self, cell: PlannedCell) -> dict[str, Any]:
        """What the cell ran on; nothing of it is meant to change a result."""
        facts: dict[str, Any] = {"host": platform.node(), "batch": cell.how.batch}
        if self._loaded is None:
            return facts
        model = self._loaded[1].model
        device = model.device
        on_gpu = device.type == "cuda"
        return {
            **facts,
            "device": str(device),
            "device_name": torch.cuda.get_device_name(device) if on_gpu else processor_name(),
            "dtype": str(model.dtype).removeprefix("torch."),
            "attention": str(getattr(model.config, "_attn_implementation", None)),
            "threads": torch.get_num_threads(),
        }


def failure(error: BaseException) -> dict[str, Any]:
    """What is written down of an exception."""
    text = text_of(error)
    said = shorten(text.splitlines()[0], MESSAGE) if text else "no message"
    first = f"{type(error).__name__}: {said}{question_named(error)}"
    whole = "".join(traceback.format_exception(error))
    return {"status": "failed", "error": first, "traceback": whole, "summary": {}}


def lost_cell(cell: PlannedCell, reason: str) -> CellResult:
    """The result of a cell whose worker died: there is nothing but the reason."""
    facts: dict[str, Any] = {"status": "failed", "error": reason, "traceback": None, "summary": {}}
    when = datetime.now(UTC).isoformat(timespec="seconds")
    more = {"seconds": 0.0, "started": when, "environment": {"host": platform.node()}}
    return CellResult(cell.key, {"config": cell.config, **facts, **more})


def _task(cell: PlannedCell, registry: Registry) -> Task:
    wanted = cell.config["task"]
    if wanted["task"] == LmmsTask.name:
        own = {key: wanted["parameters"].get(key, "") for key in ("benchmark", "metric")}
        return LmmsTask(include=None if cell.how.file is None else Path(cell.how.file), **own)
    if cell.how.file is not None:
        return FileTask(file=Path(cell.how.file))
    kind: type[Task] = registry.get("task", wanted["task"])
    return kind.model_validate(wanted["parameters"])


@contextmanager
def _pruned(cell: PlannedCell, loaded: Loaded, registry: Registry) -> Iterator[Session | None]:
    """The cell's pipeline on the model; None if it has no stages."""
    pipeline = load_pipeline(cell.config["pipeline"]["resolved"], registry=registry)
    if not pipeline.stages:
        yield None
        return
    seed, plugins = cell.config["seed"], cell.how.plugins
    with attach(loaded.model, pipeline, seed=seed, plugins=plugins) as session:
        yield session


def _answers(
    cell: PlannedCell, loaded: Loaded, session: Session | None, questions: Questions, tick: Tick
) -> list[dict[str, Any]]:
    """A record per question."""
    subject = subject_of(loaded)

    def asked(batch: Batch) -> list[dict[str, Any]]:
        examples, inputs = batch
        start = time.perf_counter()
        texts = subject.answers(inputs, cell.config["max_new_tokens"])
        seconds = (time.perf_counter() - start) / len(examples)
        trace = untouched(loaded, inputs) if session is None else session.trace
        scored = []
        for example, text in zip(examples, texts, strict=True):
            with naming([example]):
                scored.append((example, text, asked_score(questions.task, example, text)))
        return sample_records(scored, trace, loaded.bound.dims, seconds)

    records = []
    with torch.inference_mode():
        for batch in questions.batches(subject, cell.how.batch):
            with naming(batch[0]):
                try:
                    records += asked(batch)
                except UnsupportedError:  # some pictures do not fit into one tensor
                    if len(batch[0]) == 1:
                        raise
                    ones = [[example] for example in batch[0]]
                    records += [asked((one, prepare_named(subject, one)))[0] for one in ones]
            tick(len(batch[0]))
    return records


def _anatomy(
    cell: PlannedCell, loaded: Loaded, questions: Questions, registry: Registry, tick: Tick
) -> Iterator[dict[str, Any]]:
    """A record per picture."""
    from tokensieve.core.study.work.anatomy import examine, read_terms

    wanted = cell.config["anatomy"]
    terms = read_terms(wanted["scorers"], registry)
    records = examine(
        loaded,
        questions.examples,
        terms,
        wanted["boundary"],
        seed=cell.config["seed"],
        batch=cell.how.batch,
        plugins=cell.how.plugins,
    )
    for record in records:
        tick(1)
        yield record
