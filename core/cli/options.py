"""What several commands share: options and the registry."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from tokensieve.core.plugins import Registry, build_registry
from tokensieve.core.terminal import warn
from tokensieve.core.yaml_source import parse_yaml

Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugin", metavar="FILE", help="Plugin file to load; may be repeated."),
]
PipelineArgument = Annotated[str, typer.Argument(help="A preset's name or a YAML file.")]
Keep = Annotated[
    str | None,
    typer.Option(
        metavar="BUDGET",
        help="Replaces the pipeline's budget: 64 (tokens), 0.33 (share), average=192, flops=0.4.",
    ),
]


def open_registry(plugins: Sequence[Path] | None) -> Registry:
    """The registry; plugins that had to be left out are reported on stderr."""
    registry = build_registry(plugins or ())
    for problem in registry.problems:
        warn(problem)
    return registry


def parse_keep(text: str | None) -> Any:
    """``64``, ``0.33``, ``average=192`` or ``{average: 192}``, as YAML would read it."""
    if text is None or not text.strip():
        return text
    kind, equals, value = text.partition("=")
    spelling = f"{{{kind}: {value}}}" if equals else text
    return parse_yaml(spelling, "--keep").data
