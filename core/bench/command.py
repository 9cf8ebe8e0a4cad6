"""The work of ``tokensieve bench``, once its options are read."""

from __future__ import annotations

from pathlib import Path

import torch

from tokensieve.core.bench.clock import clock_for
from tokensieve.core.bench.model import Setup, build_model
from tokensieve.core.bench.overhead import (
    Overheads,
    measure_overheads,
    show_overheads,
    to_markdown,
)
from tokensieve.core.bench.result import BenchResult
from tokensieve.core.bench.runner import Bench, Plan
from tokensieve.core.bench.table import show
from tokensieve.core.contract.dims import ModelSize
from tokensieve.core.errors import ModelError, TokensieveError, did_you_mean
from tokensieve.core.files.whole import save
from tokensieve.core.models.devices import find_device
from tokensieve.core.output.terminal import console, steps, to_json
from tokensieve.core.pipeline.loading import load_pipeline
from tokensieve.core.plugins.registry import build_registry

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


def make_setup(
    device: str, dtype: str | None, attention: str, *, batch: int, text_tokens: int
) -> Setup:
    """Read the options of the model; float32 on a CPU and bfloat16 on CUDA by default."""
    place = find_device(device)
    clock_for(place)  # refuses what cannot be timed
    name = dtype or ("bfloat16" if place.type == "cuda" else "float32")
    if name not in DTYPES:
        raise ModelError(f"unknown dtype {name!r}{did_you_mean(name, DTYPES)}")
    return Setup(place, DTYPES[name], attention, batch, text_tokens)


def make_plan(setup: Setup, runs: int | None, warmup: int | None) -> Plan:
    """A plan with the usual rounds: 2 + 5 on a CPU, 5 + 15 on CUDA."""
    usual = (5, 15) if setup.device.type == "cuda" else (2, 5)
    return Plan(warmup=usual[0] if warmup is None else warmup, runs=runs or usual[1])


def measure(size: ModelSize, setup: Setup, plan: Plan) -> BenchResult:
    """Build the model and run the plan, with a progress bar on standard error."""
    with steps() as bar:
        task = bar.add_task(f"building {size.name}", total=None)
        measured = build_model(size, setup)
        bar.update(task, total=plan.steps + 1)
        bench = Bench(measured, plan, lambda text: bar.update(task, advance=1, description=text))
        return bench.run()


def report(result: BenchResult, file: Path | None) -> None:
    """Print the table, and write the numbers to the file, which appears only when it is whole."""
    show(result, console())
    if file is not None:
        save({file: to_json(result.to_plain()) + "\n"}, TokensieveError, "--json")


def overheads(size: ModelSize, setup: Setup, plan: Plan) -> Overheads:
    """Time scoring and selection of each pipeline; by default of all that are registered."""
    registry = build_registry(plan.plugins)
    sources = plan.pipelines or [entry.name for entry in registry.all("pipeline")]
    pipelines = [load_pipeline(source, keep=plan.keep, registry=registry) for source in sources]
    with steps() as bar:
        task = bar.add_task(f"building {size.name}", total=None)
        measured = build_model(size, setup)
        bar.update(task, total=plan.runs + 2)
        return measure_overheads(
            measured,
            [pipeline for pipeline in pipelines if pipeline.stages],
            runs=plan.runs,
            plugins=plan.plugins,
            progress=lambda text: bar.update(task, advance=1, description=text),
        )


def report_overheads(result: Overheads, file: Path | None, markdown: Path | None) -> None:
    """Print the table, and write it to the files."""
    show_overheads(result, console())
    if file is not None:
        save({file: to_json(result.to_plain()) + "\n"}, TokensieveError, "--json")
    if markdown is not None:
        save({markdown: to_markdown(result)}, TokensieveError, "--markdown")
