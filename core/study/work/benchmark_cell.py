"""Run a cell whose task is a benchmark: lmms-eval asks and scores, a model of ours answers."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from typing import Any

from tokensieve.core.engine.session import Session
from tokensieve.core.models.loading import Loaded, answering
from tokensieve.core.study.lmms import library
from tokensieve.core.study.lmms.scores import note_of, read_scores
from tokensieve.core.study.lmms.task import LmmsTask
from tokensieve.core.study.plan.records import PlannedCell
from tokensieve.core.study.store.records import SampleRecord, Summary
from tokensieve.core.study.work.answering import Answerer

SHOWN = 2000  # characters of an answer that a record keeps


def run_benchmark(
    cell: PlannedCell,
    loaded: Loaded,
    session: Session | None,
    task: LmmsTask,
    tick: Callable[[int], None],
) -> tuple[list[SampleRecord], Summary]:
    """A record per question, and the part of the summary that is lmms-eval's own: its metrics.

    Whatever lmms-eval, the model or the scorer raises is raised.
    """
    evaluator = library.module("evaluator")
    kind = importlib.import_module("tokensieve.core.study.work.lmms_model").TokensieveModel
    model = kind(
        batch_size=cell.how.batch,
        max_new_tokens=cell.config.max_new_tokens,
        answerer=Answerer(answering(loaded), session),
        tick=tick,
    )
    try:
        with library.quiet():
            results = evaluator.simple_evaluate(
                model=model,
                tasks=[task.source],
                task_manager=library.manager_of(task.include),
                limit=cell.config.task.samples,
                bootstrap_iters=0,
                torch_random_seed=cell.config.seed,
                distributed_executor_backend="torchrun",  # one process, so that none is started
                verbosity="ERROR",
            )
    except Exception as error:
        inner = library.cause(error)
        if inner is error:
            raise
        raise inner from None
    name = task.source.config.task
    scores = read_scores(results["samples"][name], task.metrics())
    records = []
    for number, score in scores.by_document.items():
        logged = scores.logged[number]
        given = logged["filtered_resps"]  # the scored text: after the benchmark's filters
        said = str(given[0] if len(given) == 1 else given)[:SHOWN]
        if given and isinstance(given[0], tuple | list) and not isinstance(given[0][0], str):
            losses = [float(loss) for loss, _ in given]
            said = f"choice {losses.index(min(losses))}"
        own = {
            "id": str(number),
            "answer": said,
            "expected": str(logged["target"])[:SHOWN],
            "score": score,
        }
        records.append(model.record(name, number).model_copy(update=own))
    aggregated = plain_metrics(results["results"][name])
    summary = Summary(metric=", ".join(scores.metrics), metrics=aggregated)
    note = note_of(scores, aggregated)
    if note:
        summary = summary.model_copy(update={"note": note})
    if model.ignored:
        ignored = {"ignored_generation_arguments": sorted(model.ignored)}
        summary = summary.model_copy(update=ignored)
    return records, summary


def plain_metrics(results: Mapping[str, Any]) -> dict[str, float | str]:
    """lmms-eval's aggregated values as ``metric,filter``; no error bars, those are the report's."""
    plain: dict[str, float | str] = {}
    for key, value in results.items():
        if "," not in key or "_stderr" in key:
            continue
        number = value.item() if getattr(value, "size", 0) == 1 else value
        if isinstance(number, int | float):
            plain[key] = float(number) if math.isfinite(number) else str(number)
        else:
            plain[key] = str(number)[:SHOWN]
    return plain
