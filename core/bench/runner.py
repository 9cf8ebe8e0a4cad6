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
from tokensieve.core.bench.result import BenchResult, Comparison, Spread, Variant
from tokensieve.core.bench.subject import Subject, memory_errors
from tokensieve.core.engine.decoder.cache import find_cache
from tokensieve.core.engine.session import Session, attach
from tokensieve.core.errors import AttachError
from tokensieve.core.pipeline.fit import check
from tokensieve.core.pipeline.flops import COMPUTE, decoder_flops
from tokensieve.core.pipeline.loading import load_pipeline
from tokensieve.core.pipeline.pipeline import Pipeline
from tokensieve.core.plugins.discovery import build_registry

UNTOUCHED = "untouched"
HOOK_RUNS = 3
Progress = Callable[[str], None]


@dataclass
class Plan:
    """What to run.

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
        """How often progress is reported."""
        return (len(self.pipelines) + 1) * (self.warmup + self.runs + 1)


@dataclass
class _Entry:
    """One variant on the way to its :class:`Variant`."""

    name: str
    pipeline: Pipeline | None
    passes: list[Pass] = field(default_factory=list)


class Bench:
    """Measures a subject untouched and with each pipeline of a plan."""

    def __init__(self, subject: Subject, plan: Plan, progress: Progress = lambda _: None) -> None:
        self.subject = subject
        self.plan = plan
        self.progress = progress
        self.clock = clock_for(subject.setup.device)
        registry = build_registry(plan.plugins)
        self.entries = [_Entry(UNTOUCHED, None)]
        for source in plan.pipelines:
            pipeline = load_pipeline(source, keep=plan.keep, registry=registry)
            self.entries.append(_Entry(pipeline.name, pipeline))
        for entry in self.entries:
            self._check(entry)

    def run(self) -> BenchResult:
        """Warm up, time, then look at hooks and memory in passes of their own."""
        started = _load()
        with torch.no_grad(), memory_errors(self.subject.setup.device):
            for number in range(self.plan.warmup + self.plan.runs):
                for entry in self.entries:
                    self._round(entry, keep=number >= self.plan.warmup)
            untouched, *variants = [self._variant(entry) for entry in self.entries]
        comparisons = [Comparison.of(variant, untouched) for variant in variants]
        environment = {**describe(self.subject), "load_average": [started, _load()]}
        return BenchResult(environment, self._options(), untouched, comparisons)

    def _check(self, entry: _Entry) -> None:
        """What cannot run should fail before anything is timed."""
        if entry.pipeline is None:
            return
        check(entry.pipeline, self.subject.bound)
        schedule = entry.pipeline.schedule(self.subject.bound.dims)
        try:
            schedule.counts(self.subject.size.visual_tokens)
        except AttachError as error:
            raise AttachError(f"pipeline {entry.name!r}: {error}") from None

    def _attached(self, entry: _Entry) -> AbstractContextManager[Session | None]:
        if entry.pipeline is None:
            return nullcontext()
        return attach(self.subject.model, entry.pipeline, plugins=self.plan.plugins)

    def _round(self, entry: _Entry, *, keep: bool) -> None:
        self.progress(f"{'run' if keep else 'warm-up'}: {entry.name}")
        with self._attached(entry):
            timed = timed_pass(self.subject, self.clock, self.plan.decode_tokens)
        if keep:
            entry.passes.append(timed)

    def _variant(self, entry: _Entry) -> Variant:
        self.progress(f"memory and overhead: {entry.name}")
        scoring, hooks = self._overhead(entry)
        with self._attached(entry) as session:
            peak = peak_bytes(self.subject.prefill, self.subject.setup.device)
            cache = find_cache(self.subject.prefill())
            per_layer, notes = self._layers(session)
        passes = entry.passes
        return Variant(
            entry.name,
            prefill=Spread.of([timed.prefill for timed in passes]),
            decoder=Spread.of([timed.decoder for timed in passes]),
            decode=Spread.of([statistics.median(timed.decode) for timed in passes]),
            scoring=scoring,
            hooks=hooks,
            peak_bytes=peak,
            kv_bytes=cache_bytes(cache),
            flops=self._flops(per_layer),
            layer_tokens=per_layer[0],
            notes=notes,
        )

    def _overhead(self, entry: _Entry) -> tuple[Spread | None, Spread | None]:
        if entry.pipeline is None or not entry.pipeline.stages:
            return None, None
        pairs = []
        for _ in range(HOOK_RUNS):
            with attach(self.subject.model, entry.pipeline, plugins=self.plan.plugins) as session:
                pairs.append(hook_seconds(self.subject, session, self.clock))
        scoring, hooks = zip(*pairs, strict=True)
        return Spread.of(scoring), Spread.of(hooks)

    def _layers(self, session: Session | None) -> tuple[list[list[int]], list[str]]:
        """Visual tokens per sample and layer of the last prefill, and the trace's notes."""
        if session is not None and session.pipeline.stages:
            return session.trace.per_layer, session.trace.notes
        whole = [self.subject.size.visual_tokens] * self.subject.bound.dims.layers
        return [whole] * self.subject.setup.batch, []

    def _flops(self, per_layer: list[list[int]]) -> float:
        dims, text = self.subject.bound.dims, self.subject.setup.text_tokens
        return sum(decoder_flops(row, dims, COMPUTE, text_tokens=text) for row in per_layer)

    def _options(self) -> dict[str, Any]:
        size, setup, plan = self.subject.size, self.subject.setup, self.plan
        return {
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


def describe(subject: Subject) -> dict[str, Any]:
    """Where the numbers come from."""
    device = subject.setup.device
    return {
        "device": str(device),
        "device_name": _device_name(device),
        "dtype": str(subject.setup.dtype).removeprefix("torch."),
        "attention": subject.setup.attention,
        "threads": torch.get_num_threads(),
        "weight_bytes": subject.weight_bytes,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: version(name) for name in ("tokensieve", "transformers")},
        "torch": str(torch.__version__),  # with the build: +cpu, +cu...
        "cuda": torch.version.cuda,
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _load() -> float | None:
    """Processes that want to run, mean of the last minute: above the cores, times are noisy."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
