"""``tokensieve show``: a pipeline as YAML, or its budgets and costs on a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer
from rich.table import Table

from tokensieve.core import units
from tokensieve.core.cli.options import (
    Keep,
    PipelineArgument,
    Plugins,
    console,
    open_registry,
    parse_keep,
    table,
)
from tokensieve.core.errors import ModelError
from tokensieve.core.flops import DecoderDims
from tokensieve.core.loading import dump_yaml, load_pipeline
from tokensieve.core.models import load_config
from tokensieve.core.pipeline import Pipeline, scaling_notes
from tokensieve.core.plugins import Registry
from tokensieve.core.readings import Readings, read_budgets
from tokensieve.core.session import find_adapter
from tokensieve.core.sizes import SIZES


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("show")(show)


def show(
    pipeline: PipelineArgument,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Show budgets and costs on this model: a size "
            f"({', '.join(SIZES)}), a built-in model, a local folder or a Hugging Face id.",
        ),
    ] = None,
    keep: Keep = None,
    tokens: Annotated[
        int | None, typer.Option(min=1, help="Visual tokens of the image; default: the model's.")
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Print a pipeline as YAML ready to edit, or with --model what it keeps and costs there."""
    registry = open_registry(plugin)
    loaded = load_pipeline(pipeline, keep=parse_keep(keep), registry=registry)
    if model is None:
        if tokens is not None:
            raise ModelError("--tokens says how large the image is for --model: give both")
        print(dump_yaml(loaded), end="")
        return
    dims, usual = describe_model(model, registry)
    readings = read_budgets(loaded, dims, tokens or usual)
    scaled = scaling_notes(loaded, dims.layers)
    out = console()
    out.print(
        f"{loaded.name} on {model}: {dims.layers} decoder layers of width {dims.dim}, "
        f"an image of {tokens or usual} visual tokens\n",
        soft_wrap=True,
    )
    out.print(_budget_table(readings, scaled=bool(scaled)))
    for line in ["", *_totals(readings), *scaled, *_caveats(loaded)]:
        out.print(line, soft_wrap=True)


def describe_model(name: str, registry: Registry) -> tuple[DecoderDims, int]:
    """Decoder sizes and the usual number of visual tokens of an image; reads a config at most."""
    if name in SIZES:
        return SIZES[name].dims, SIZES[name].visual_tokens
    config = load_config(name, registry, also=SIZES)
    described: tuple[DecoderDims, int] = find_adapter(config, registry).describe(config)
    return described


def _budget_table(readings: Readings, *, scaled: bool) -> Table:
    rows = table(
        "boundary",
        *(["written as"] if scaled else []),
        "layers",
        "tokens",
        "share",
        "average",
        "FLOPs",
        "FLOPs so far",
        "KV so far",
    )
    for segment in readings.segments:
        written = "-" if segment.written_boundary is None else str(segment.written_boundary)
        rows.add_row(
            "-" if segment.boundary is None else str(segment.boundary),
            *([written] if scaled else []),
            f"{segment.first}-{segment.last}",
            str(segment.tokens),
            units.percent(segment.share),
            f"{segment.average:.2f}",
            units.percent(segment.flops_share),
            units.flops(segment.flops, readings.full_flops),
            units.size(segment.kv_bytes, readings.full_kv_bytes),
        )
    return rows


def _totals(readings: Readings) -> list[str]:
    full, full_kv = readings.full_flops, readings.full_kv_bytes
    flops = f"{units.flops(readings.flops, full)} ({_of(readings.flops, full, units.flops)})"
    kept = units.size(readings.kv_bytes, full_kv)
    kept = f"{kept} ({_of(readings.kv_bytes, full_kv, units.size)})"
    return [
        "share: of the image's tokens; average (tokens per layer) and FLOPs (share of the "
        "untouched prefill): of the whole decoder, if later boundaries removed nothing",
        f"whole decoder: {flops}, average {readings.average:.2f} tokens per layer, KV cache {kept}",
        f"FLOPs convention: {readings.convention}; KV cache: visual tokens, 2 bytes a number",
    ]


def _of(value: float, full: float, unit: Callable[[float], str]) -> str:
    return f"{units.percent(value / full)} of {unit(full)}"


def _caveats(pipeline: Pipeline) -> list[str]:
    adaptive = sorted({s.select.name for s in pipeline.stages if s.select.adaptive_count})
    if not adaptive:
        return []
    return [f"upper bounds: selector {', '.join(adaptive)} decides by the image how many stay"]
