"""The commands, put together."""

from __future__ import annotations

from typing import Annotated

import typer

from tokensieve.core.cli import bench, catalog, check, doctor, files, report, run, show, study
from tokensieve.core.output.terminal import say

app = typer.Typer(
    name="tokensieve",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from tokensieve import __version__

        say(f"tokensieve {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Make vision-language models cheaper by removing the visual tokens that do no work."""


for module in (catalog, show, files, run, study, report, bench, check, doctor):
    module.register(app)
