"""What several commands share: options, the registry, consoles."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from tokensieve.core.errors import TokensieveError
from tokensieve.core.foreign import shown
from tokensieve.core.plugins import Registry, build_registry
from tokensieve.core.yaml_source import parse_yaml

NO_WRAP = 10_000  # columns of output that goes to a file or a pipe: one row is one line

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


def whole(option: str, low: int, high: int) -> Callable[[Any], int]:
    """Reads an option's whole number; ``1_000`` and digits of other scripts are none."""

    def read(value: Any) -> int:
        number = int(value) if re.fullmatch("[+-]?[0-9]{1,19}", str(value), re.ASCII) else None
        if number is None or not low <= number <= high:
            raise TokensieveError(
                f"{option} {shown(value)}: allowed: a whole number from {low} to {high}"
            )
        return number

    return read


def open_registry(plugins: Sequence[Path] | None) -> Registry:
    """The registry; plugins that had to be left out are reported on stderr."""
    registry = build_registry(plugins or ())
    for problem in registry.problems:
        print(problem, file=sys.stderr)
    return registry


def parse_keep(text: str | None) -> Any:
    """``64``, ``0.33``, ``average=192`` or ``{average: 192}``, as YAML would read it."""
    if text is None or not text.strip():
        return text
    kind, equals, value = text.partition("=")
    spelling = f"{{{kind}: {value}}}" if equals else text
    return parse_yaml(spelling, "--keep").data


def console() -> Console:
    """Standard output, text as it is: no markup, no emoji codes, no colouring of numbers."""
    width = None if sys.stdout.isatty() else NO_WRAP
    return Console(width=width, markup=False, emoji=False, highlight=False)


def table(*columns: str, left: Sequence[str] = ()) -> Table:
    """A plain table; columns are flush right but those in ``left``."""
    result = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in columns:
        flush_left = column in left
        result.add_column(
            column,
            justify="left" if flush_left else "right",
            no_wrap=not flush_left,
            overflow="fold",
        )
    return result
