"""Interleaved runs: untouched, first pipeline, second pipeline, ..., untouched, ..."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tokensieve.core.bench.clock import clock_for
from tokensieve.core.bench.measuring import Pass, cache_bytes, hook_seconds, timed_pass
from tokensieve.core.bench.memory import MEASURES, peak_bytes
from tokensieve.core.bench.model import BenchModel, memory_errors
from tokensieve.core.bench.result import BenchResult, Spread, Variant, VariantComparison
from tokensieve.core.engine.decoder.cache import find_cache
from tokensieve.core.engine.session import Session, attach
from tokensieve.core.errors import AttachError
from tokensieve.core.models.host import processor_name
from tokensieve.core.pipeline.fit import check
from tokensieve.core.pipeline.flops import COMPUTE, decoder_flops
from tokensieve.core.pipeline.loading import load_pipeline
from tokensieve.core.pipeline.pipeline import Pipeline
from tokensieve.core.plugins.registry import build_registry

UNTOUCHED = "untouched"
HOOK_RUNS = 3
Progress = Callable[[str], None]


@dataclass
class Plan:
    """The pipelines to run, and how often.

    ``warmup`` and ``runs`` count rounds; a round runs every variant once. ``keep`` replaces the
    pipelines' own budgets.
    """

    pipelines: Sequence[str] = ()
    runs: int = 5
    warmup: int = 2
    decode_tokens: int = 8
    keep: Any = None
    plugins: Sequence[str | Path] = ()

    @property
    def steps(self) -> int:
        """The number of times that progress is reported."""
        return (len(self.pipelines) + 1) * (self.warmup + self.runs + 1)


@dataclass
class _Entry:
    """One variant on the way to its :class:`Variant`."""

    name: str
    pipeline: Pipeline | None
    passes: list[Pass] = field(default_factory=list)


class Bench:
    """Measures a model untouched and with each pipeline of a plan.

    A pipeline that cannot run fails here, before anything is timed.
    """

    def __init__(
        self, measured: BenchModel, plan: Plan, progress: Progress = lambda _: None
    ) -> None:
        self.measured = measured
        self.plan = plan
        self.progress = progress
        self.clock = clock_for(measured.setup.device)
        registry = build_registry(plan.plugins)
        pipelines = [
            load_pipeline(source, keep=plan.keep, registry=registry) for source in plan.pipelines
        ]
        for pipeline in pipelines:
            check(pipeline, measured.bound)
            schedule = pipeline.schedule(measured.bound.dims)
            try:
                schedule.counts(measured.size.visual_tokens)
            except AttachError as error:
                raise AttachError(f"pipeline {pipeline.name!r}: {error}") from None
        self.entries = [_Entry(UNTOUCHED, None)]
        self.entries += [_Entry(pipeline.name, pipeline) for pipeline in pipelines]

    def run(self) -> BenchResult:
        """Warm up, time, then look at hooks and memory in passes of their own."""
        size, setup, plan = self.measured.size, self.measured.setup, self.plan
        started = _load()
        with torch.no_grad(), memory_errors(setup.device):
            for number in range(plan.warmup + plan.runs):
                counts = number >= plan.warmup
                for entry in self.entries:
                    self.progress(f"{'run' if counts else 'warm-up'}: {entry.name}")
                    with self._attached(entry):
                        timed = timed_pass(self.measured, self.clock, plan.decode_tokens)
                    if counts:
                        entry.passes.append(timed)
            untouched, *variants = [self._variant(entry) for entry in self.entries]
        comparisons = [VariantComparison.of(variant, untouched) for variant in variants]
        environment = {**describe(self.measured), "load_average": [started, _load()]}
        options = {
            "size": size.name,
            "batch": setup.batch,
            "visual_tokens": size.visual_tokens,
            "text_tokens": setup.text_tokens,
            "decode_tokens": plan.decode_tokens,
            "runs": plan.runs,
            "warmup": plan.warmup,
            "keep": plan.keep,
            "flops": str(COMPUTE),
            "peak_memory": MEASURES[setup.device.type],
        }
        return BenchResult(environment, options, untouched, comparisons)

    def _attached(self, entry: _Entry) -> AbstractContextManager[Session | None]:
        if entry.pipeline is None:
            return nullcontext()
        return attach(self.measured.model, entry.pipeline, plugins=self.plan.plugins)

    def _variant(self, entry: _Entry) -> Variant:
        """The numbers of an entry whose passes are timed: hooks and memory are looked at now."""
        measured, passes = self.measured, entry.passes
        dims, text = measured.bound.dims, measured.setup.text_tokens
        self.progress(f"memory and overhead: {entry.name}")
        scoring: Spread | None = None
        hooks: Spread | None = None
        if entry.pipeline is not None and entry.pipeline.stages:
            pairs = []
            for _ in range(HOOK_RUNS):
                with attach(measured.model, entry.pipeline, plugins=self.plan.plugins) as watched:
                    pairs.append(hook_seconds(measured, watched, self.clock))
            scoring, hooks = (Spread.of(seconds) for seconds in zip(*pairs, strict=True))
        per_layer = [[measured.size.visual_tokens] * dims.layers] * measured.setup.batch
        notes: list[str] = []
        with self._attached(entry) as session:
            peak = peak_bytes(measured.prefill, measured.setup.device)
            cache = find_cache(measured.prefill())
            if session is not None and session.pipeline.stages:
                per_layer, notes = session.trace.per_layer, session.trace.notes
        return Variant(
            entry.name,
            prefill=Spread.of([timed.prefill for timed in passes]),
            decoder=Spread.of([timed.decoder for timed in passes]),
            decode=Spread.of([statistics.median(timed.decode) for timed in passes]),
            scoring=scoring,
            hooks=hooks,
            peak_bytes=peak,
            kv_bytes=cache_bytes(cache),
            flops=sum(decoder_flops(row, dims, COMPUTE, text_tokens=text) for row in per_layer),
            layer_tokens=per_layer[0],
            notes=notes,
        )


def describe(measured: BenchModel) -> dict[str, object]:
    """The machine, the versions and the settings that the numbers come from."""
    device = measured.setup.device
    cuda = device.type == "cuda"
    return {
        "device": str(device),
        "device_name": str(torch.cuda.get_device_name(device)) if cuda else processor_name(),
        "dtype": str(measured.setup.dtype).removeprefix("torch."),
        "attention": measured.setup.attention,
        "threads": torch.get_num_threads(),
        "weight_bytes": measured.weight_bytes,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: version(name) for name in ("tokensieve", "transformers")},
        "torch": str(torch.__version__),  # with the build: +cpu, +cu...
        "cuda": torch.version.cuda,
    }


def _load() -> float | None:
    """Processes that want to run, mean of the last minute: above the cores, times are noisy."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
