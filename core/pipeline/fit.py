"""The check whether a pipeline can run on a model: signals, depth, and what its adapter refuses."""

from __future__ import annotations

from itertools import pairwise

from tokensieve.core.contract.adapted import IMAGE, AdaptedModel, Demands
from tokensieve.core.contract.components import Component
from tokensieve.core.contract.signals import NEXT_LAYER_SIGNALS
from tokensieve.core.errors import AttachError
from tokensieve.core.gate.declarations import check_declared
from tokensieve.core.pipeline.pipeline import Pipeline, PlacedStage


def check(pipeline: Pipeline, bound: AdaptedModel) -> None:
    """Refuse a pipeline that this model cannot run; say which stage, signal and adapter."""
    check_depth(pipeline, bound.dims.layers, bound.layer_word)
    for placed in pipeline.placed_stages(bound.dims.layers):
        where = _place(pipeline, placed)
        stage = placed.stage
        components = tuple(stage.components())
        for component in components:
            check_declared(component, placed.at, where)
            _check_component(where, component, placed.at, bound)
        refusal = bound.refusal(Demands(placed.at, components, stage.select, stage.merge))
        if refusal is not None:
            raise AttachError(f"{where}: adapter {bound.name}: {refusal}")


def check_depth(pipeline: Pipeline, depth: int, unit: str = "decoder layer") -> None:
    """Refuse a pipeline whose boundaries do not fit a model of ``depth`` layers."""
    stages = pipeline.placed_stages(depth)
    places, scaled = [stage.at for stage in stages], pipeline.scales(depth)
    for stage in stages:
        if stage.at > depth and not scaled:
            raise AttachError(
                f"{_place(pipeline, stage)}: the model has {depth} {unit}s, allowed: 0 to {depth}"
                f"{_DEPTH_HINT if pipeline.depth is None else ''}"
            )
    ends = [stage.at >= depth and stage.written_at != pipeline.depth for stage in stages]
    if (scaled and any(ends)) or any(later <= earlier for earlier, later in pairwise(places)):
        written = [stage.written_at for stage in stages]
        raise AttachError(
            f"{pipeline.name}: {depth} {unit}s are too few for boundaries {written}, which are "
            f"tuned for {pipeline.depth} and scaled to {places}"
        )


_DEPTH_HINT = " (or give the pipeline the `depth` it was tuned for, to have it scaled)"


def _place(pipeline: Pipeline, placed: PlacedStage) -> str:
    where = "image" if placed.at == IMAGE else f"boundary {placed.written_at}"
    return f"stage {placed.number + 1} ({pipeline.name}) at {where}"


def _check_component(where: str, component: Component, at: int, bound: AdaptedModel) -> None:
    missing = sorted(component.required() - bound.provides)
    if missing:
        signal = missing[0]
        why = bound.missing.get(signal, "no such signal")
        alternatives = ", ".join(sorted(bound.provides))
        raise AttachError(
            f"{where}: {component.name!r} needs {signal}; adapter {bound.name} provides none "
            f"({why}): use another scorer or drop the stage (available: {alternatives})"
        )
    coming = component.required() & NEXT_LAYER_SIGNALS
    if coming and at == bound.dims.layers:
        raise AttachError(
            f"{where}: {component.name!r} needs {min(coming)}, but no {bound.layer_word} runs "
            f"behind this boundary: use boundary {at - 1} or earlier, or another scorer"
        )
    history = component.required() & bound.history
    if not history:
        return
    if at == 0:
        raise AttachError(
            f"{where}: {component.name!r} needs {sorted(history)[0]}, but no {bound.layer_word} "
            "has run yet: use boundary 1 or later"
        )
    span = component.history(at)
    if span is None or span[0] >= at:
        raise AttachError(
            f"{where}: {component.name!r} reads layers from {span[0] if span else '-'} on, but "
            f"only layers 0 to {at - 1} have run: start earlier or prune later"
        )
