"""Options that several commands share, and their registry."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from typer.models import OptionInfo

from tokensieve.core.errors import TokensieveError
from tokensieve.core.foreign import shown
from tokensieve.core.output.terminal import warn
from tokensieve.core.pipeline.loading import BUDGETS
from tokensieve.core.plugins.discovery import build_registry
from tokensieve.core.plugins.registry import Registry

Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugin", metavar="FILE", help="Plugin file to load; may be repeated."),
]
PipelineArgument = Annotated[str, typer.Argument(help="A preset's name or a YAML file.")]
Keep = Annotated[
    str | None,
    typer.Option(
        metavar="BUDGET",
        help=f"Replaces the pipeline's budget: {BUDGETS}.",
    ),
]


def whole(option: str, low: int, high: int) -> Callable[[object], int]:
    """Reads an option's whole number; ``1_000`` and digits of other scripts are none."""

    def read(value: object) -> int:
        number = int(str(value)) if re.fullmatch("[+-]?[0-9]{1,19}", str(value), re.ASCII) else None
        if number is None or not low <= number <= high:
            raise TokensieveError(
                f"{option} {shown(value)}: allowed: a whole number from {low} to {high}"
            )
        return number

    return read


def number(option: str, low: int, high: int, text: str) -> OptionInfo:
    """An option that takes a whole number within bounds; ``text`` is its help."""
    made: OptionInfo = typer.Option(metavar="N", parser=whole(option, low, high), help=text)
    return made


def open_registry(plugins: Sequence[Path] | None) -> Registry:
    """The registry; plugins that had to be left out are named on stderr."""
    registry = build_registry(plugins or ())
    for problem in registry.problems:
        warn(problem)
    return registry
