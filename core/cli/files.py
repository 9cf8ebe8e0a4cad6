"""``tokensieve validate`` and ``tokensieve schema``: pipeline files."""

from __future__ import annotations

from typing import Annotated

import typer

from tokensieve.core.cli.exit_codes import USER_ERROR
from tokensieve.core.cli.options import Plugins, open_registry
from tokensieve.core.errors import PipelineError
from tokensieve.core.output.terminal import complain, say, to_json
from tokensieve.core.pipeline.loading import load_pipeline


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("validate")(validate)
    app.command("schema")(schema)


def validate(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="YAML files or presets.")],
    plugin: Plugins = None,
) -> None:
    """Check pipeline files; errors name file, line and column. Exit code 2 if one is wrong."""
    registry = open_registry(plugin)
    wrong = False
    for file in files:
        try:
            pipeline = load_pipeline(file, registry=registry)
        except PipelineError as error:
            complain(error)
            wrong = True
        else:
            count = len(pipeline.stages)
            say(f"{file}: ok ({pipeline.name}, {count} stage{'' if count == 1 else 's'})")
    if wrong:
        raise typer.Exit(USER_ERROR)


def schema(plugin: Plugins = None) -> None:
    """Print the JSON Schema of a pipeline file, parameters of all plugins included."""
    from tokensieve.core.pipeline.schema import pipeline_schema

    print(to_json(pipeline_schema(open_registry(plugin)), indent=2))
