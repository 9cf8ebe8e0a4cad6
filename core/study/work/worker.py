"""Run cells: a worker keeps a model and prepared questions, and turns a cell into its result."""

from __future__ import annotations

import json
import platform
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

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
from tokensieve.core.plugins.files import BREAKAGE
from tokensieve.core.plugins.registry import Registry, build_registry
from tokensieve.core.study.lmms.task import LmmsTask
from tokensieve.core.study.plan.records import ModelFacts, PlannedCell
from tokensieve.core.study.spec.task_files import FileTask
from tokensieve.core.study.store.records import (
    ATTRIBUTIONS,
    SAMPLES,
    AttributionRecord,
    CellDocument,
    Environment,
    Outcome,
    SampleRecord,
    Summary,
)
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
from tokensieve.core.study.work.study_models import (
    naming,
    prepare_named,
    question_named,
    study_model,
    untouched,
)
from tokensieve.core.study.work.token_attribution import examine, read_terms

Tick = Callable[[int], None]
Lines = dict[str, Sequence[SampleRecord | AttributionRecord]]
"""The records of each file of a cell."""


class _Refused(Exception):
    """The pipeline cannot run on the model, or not at the budget: the reason."""


class Worker:
    """Runs cells one after the other; ``device`` stands in for the ``cuda`` of a cell."""

    def __init__(self, device: str | None = None) -> None:
        self.device = device
        self._loaded: Loaded | None = None
        self._identity: tuple[str, ModelFacts] | None = None
        self._questions: dict[tuple[str, str], Questions] = {}

    def run(self, cell: PlannedCell, tick: Tick = lambda samples: None) -> CellResult:
        """The cell's result; whatever goes wrong in it becomes a failed (or unmet) cell."""
        start, started = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
        lines: Lines = {}
        try:
            with quiet_transformers():
                lines, summary = self._run(cell, tick)
            unit = "layer" if self._loaded is None else self._loaded.bound.layer_word
            missed = unmet_reason(summary, cell.config.budget, unit)
            outcome = Outcome(
                status="unmet" if missed else "done",
                error=missed,
                traceback=None,
                summary=summary,
            )
        except _Refused as error:
            outcome = Outcome(status="unmet", error=str(error), traceback=None, summary=Summary())
        except BREAKAGE as error:
            outcome = failure(error)
            self._questions.clear()  # nobody knows what it did to them
        document = CellDocument(
            config=cell.config,
            status=outcome.status,
            error=outcome.error,
            traceback=outcome.traceback,
            summary=outcome.summary,
            seconds=time.perf_counter() - start,
            started=started,
            environment=self._environment(cell),
        )
        return CellResult(cell.key, document, lines)

    def _run(self, cell: PlannedCell, tick: Tick) -> tuple[Lines, Summary]:
        """Lines per file, and their summary; there is none of token attribution."""
        config, how = cell.config, cell.how
        registry = build_registry(how.plugins)
        self._check(cell, registry)
        loaded = self._model(cell, registry)
        place = (json.dumps(config.task.plain(), sort_keys=True), str(how.file))
        if place not in self._questions:
            task = _task(cell, registry)
            self._questions[place] = Questions(task, draw_planned(cell, task, registry))
        questions = self._questions[place]
        lines: Lines
        if config.anatomy is None:
            samples, summary = _accuracy(cell, loaded, questions, registry, tick)
            lines = {SAMPLES: samples}
        else:
            terms, boundary = read_terms(config.anatomy.scorers, registry), config.anatomy.boundary
            own: list[AttributionRecord] = []
            for record in examine(
                loaded,
                questions.examples,
                terms,
                boundary,
                seed=config.seed,
                batch=how.batch,
                plugins=how.plugins,
            ):
                tick(1)
                own.append(record)
            lines, summary = {ATTRIBUTIONS: own}, Summary()
        if not left_alone(cell, questions.examples):
            self._questions.clear()  # the next cell draws its own
        self._check(cell, build_registry(how.plugins))  # also what was imported late
        return lines, summary

    def _check(self, cell: PlannedCell, registry: Registry) -> None:
        """Refuse code that is not what was planned."""
        check_plugins(cell, registry)
        check_code(cell, _task(cell, registry), registry)

    def _model(self, cell: PlannedCell, registry: Registry) -> Loaded:
        """The cell's model; the one before is let go of first."""
        wanted, device = cell.config.model, cell.how.device
        identity = (cell.how.model, wanted)
        if self._loaded is None or self._identity != identity:
            self._loaded = None
            self._questions.clear()
            check_weights(cell, registry)
            loaded = load_model(
                cell.how.model,
                registry,
                device=self.device if self.device and device == "cuda" else device,
                dtype=cell.how.dtype,
                attention=None if wanted.attention == "default" else wanted.attention,
            )
            check_weights(cell, registry)  # nothing changed while it was read
            check_loaded(cell, loaded)
            self._loaded, self._identity = loaded, identity
        return self._loaded

    def _environment(self, cell: PlannedCell) -> Environment:
        """The machine, backend and dtype that the cell ran on."""
        if self._loaded is None:
            return Environment(host=platform.node(), batch=cell.how.batch)
        model = self._loaded.model
        device = model.device
        on_gpu = device.type == "cuda"
        return Environment(
            host=platform.node(),
            batch=cell.how.batch,
            device=str(device),
            device_name=torch.cuda.get_device_name(device) if on_gpu else processor_name(),
            dtype=str(model.dtype).removeprefix("torch."),
            attention=str(getattr(model.config, "_attn_implementation", None)),
            threads=torch.get_num_threads(),
        )


def failure(error: BaseException) -> Outcome:
    """The outcome of a cell that an exception ended."""
    text = text_of(error)
    said = shorten(text.splitlines()[0], MESSAGE) if text else "no message"
    first = f"{type(error).__name__}: {said}{question_named(error)}"
    whole = "".join(traceback.format_exception(error))
    return Outcome(status="failed", error=first, traceback=whole, summary=Summary())


def lost_cell(cell: PlannedCell, reason: str) -> CellResult:
    """The result of a cell whose worker died: there is nothing but the reason."""
    document = CellDocument(
        config=cell.config,
        status="failed",
        error=reason,
        traceback=None,
        summary=Summary(),
        seconds=0.0,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        environment=Environment(host=platform.node()),
    )
    return CellResult(cell.key, document)


def _task(cell: PlannedCell, registry: Registry) -> Task:
    wanted = cell.config.task
    if wanted.task == LmmsTask.name:
        own = {key: str(wanted.parameters.get(key, "")) for key in ("benchmark", "metric")}
        return LmmsTask(include=None if cell.how.file is None else Path(cell.how.file), **own)
    if cell.how.file is not None:
        return FileTask(file=Path(cell.how.file))
    kind: type[Task] = registry.get("task", wanted.task)
    return kind.model_validate(wanted.parameters)


def _accuracy(
    cell: PlannedCell, loaded: Loaded, questions: Questions, registry: Registry, tick: Tick
) -> tuple[list[SampleRecord], Summary]:
    """Answers of the model under the cell's pipeline, and their summary.

    Raises:
        _Refused: the pipeline cannot run on this model.
    """
    config, task = cell.config, questions.task
    assert config.pipeline is not None
    try:
        with ExitStack() as stack:
            pipeline = load_pipeline(config.pipeline.resolved, registry=registry)
            session = None
            if pipeline.stages:
                session = stack.enter_context(
                    attach(loaded.model, pipeline, seed=config.seed, plugins=cell.how.plugins)
                )
            if isinstance(task, LmmsTask):
                records, benchmark = run_benchmark(cell, loaded, session, task, tick)
                summary = summarize(records, config.budget)
                return records, summary.model_copy(update=dict(benchmark.items()))
            records = _answers(cell, loaded, session, questions, tick)
            return records, summarize(records, config.budget)
    except AttachError as error:  # the model itself can be pruned: it has been bound before
        raise _Refused(str(error)) from error


def _answers(
    cell: PlannedCell, loaded: Loaded, session: Session | None, questions: Questions, tick: Tick
) -> list[SampleRecord]:
    """A record per question."""
    model = study_model(loaded)

    def asked(batch: Batch) -> list[SampleRecord]:
        examples, inputs = batch
        start = time.perf_counter()
        texts = model.answers(inputs, cell.config.max_new_tokens)
        seconds = (time.perf_counter() - start) / len(examples)
        trace = untouched(loaded, inputs) if session is None else session.trace
        scored = []
        for example, text in zip(examples, texts, strict=True):
            with naming([example]):
                scored.append((example, text, asked_score(questions.task, example, text)))
        return sample_records(scored, trace, loaded.bound.dims, seconds)

    records = []
    with torch.inference_mode():
        for batch in questions.batches(model, cell.how.batch):
            with naming(batch[0]):
                try:
                    records += asked(batch)
                except UnsupportedError:  # some pictures do not fit into one tensor
                    if len(batch[0]) == 1:
                        raise
                    ones = [[example] for example in batch[0]]
                    records += [asked((one, prepare_named(model, one)))[0] for one in ones]
            tick(len(batch[0]))
    return records
