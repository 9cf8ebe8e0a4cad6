"""``tokensieve show``: a pipeline as YAML, or its budgets and costs on a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import typer

from tokensieve.core import units
from tokensieve.core.cli.options import Keep, PipelineArgument, Plugins, number, open_registry
from tokensieve.core.contract.adapted import AdaptedModel
from tokensieve.core.contract.dims import DecoderDims
from tokensieve.core.errors import ModelError
from tokensieve.core.foreign import foreign, shorten
from tokensieve.core.models.binding import find_adapter
from tokensieve.core.models.finding import load_config
from tokensieve.core.models.sizes import SIZES
from tokensieve.core.output.terminal import Rows, console, table
from tokensieve.core.pipeline.loading import dump_yaml, load_pipeline, parse_keep
from tokensieve.core.pipeline.pipeline import end_notes, scaling_notes
from tokensieve.core.pipeline.readings import Readings, read_budgets
from tokensieve.core.plugins.registry import Registry
from tokensieve.core.strict import MOST_TOKENS


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
        int | None,
        number("--tokens", 1, MOST_TOKENS, "Visual tokens of the image; default: the model's."),
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
    described = describe_model(model, registry)
    dims, size = described.dims, tokens or described.visual_tokens
    readings = read_budgets(loaded, dims, size)
    scaled = scaling_notes(loaded, dims.layers, described.layer)
    out = console()
    out.print(
        f"{loaded.name} on {model}: {dims.layers} {described.layer}s of width {dims.dim}, "
        f"an image of {size} visual tokens",
        soft_wrap=True,
    )
    out.print()
    out.print(_budget_table(readings, described, scaled=bool(scaled)))
    ends = end_notes(loaded, dims.layers, described.layer)
    adaptive = sorted({s.select.name for s in loaded.stages if s.select.adaptive_count})
    if adaptive:
        names = ", ".join(adaptive)
        ends.append(f"upper bounds: selector {names} decides by the image how many stay")
    full, full_kv = readings.full_flops, readings.full_kv_bytes
    layer, whole = described.layer.split()[-1], described.whole
    flops = f"{units.flops(readings.flops, full)} ({_of(readings.flops, full, units.flops)})"
    kept = units.size(readings.kv_bytes, full_kv)
    kept = f", KV cache {kept} ({_of(readings.kv_bytes, full_kv, units.size)})"
    footnote = "; KV cache: visual tokens, 2 bytes a number"
    untouched = "prefill" if described.caches else whole
    lines = [
        "",
        f"share: of the image's tokens; average (tokens per {layer}) and FLOPs (share of the "
        f"untouched {untouched}): of the whole {whole}, if later boundaries removed nothing",
        f"whole {whole}: {flops}, average {readings.average:.2f} tokens per {layer}"
        f"{kept if described.caches else ''}",
        f"FLOPs convention: {readings.convention}{footnote if described.caches else ''}",
    ]
    for line in [*lines, *scaled, *ends]:
        out.print(line, soft_wrap=True)


@dataclass(frozen=True)
class Described:
    """Sizes of a model, the usual visual tokens of an image, and what a layer is called."""

    dims: DecoderDims
    visual_tokens: int
    layer: str = AdaptedModel.layer_word

    @property
    def whole(self) -> str:
        """The layers together: ``decoder`` or ``encoder``."""
        return self.layer.split()[0]

    @property
    def caches(self) -> bool:
        """Whether keys and values are kept for later: an encoder runs once."""
        return self.whole == AdaptedModel.engine


def describe_model(name: str, registry: Registry) -> Described:
    """The sizes that costs depend on; reads a config at most."""
    if name in SIZES:
        return Described(SIZES[name].dims, SIZES[name].visual_tokens)
    config = load_config(name, registry, also=SIZES)
    adapter = find_adapter(config, registry)
    with foreign(ModelError, f"model {shorten(name)!r}: its config does not say how large it is"):
        dims, tokens = adapter.describe(config)
    return Described(dims, tokens, adapter.layer_word)


def _budget_table(readings: Readings, described: Described, *, scaled: bool) -> Rows:
    """A row for each run of layers between two boundaries."""
    rows = table(
        "boundary",
        *(["written as"] if scaled else []),
        f"{described.layer.split()[-1]}s",
        "tokens",
        "share",
        "average",
        "FLOPs",
        "FLOPs so far",
        *(["KV so far"] if described.caches else []),
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
            *([units.size(segment.kv_bytes, readings.full_kv_bytes)] if described.caches else []),
        )
    return rows


def _of(value: float, full: float, unit: Callable[[float], str]) -> str:
    return f"{units.percent(value / full)} of {unit(full)}"
