"""``tokensieve bench``: is a pipeline faster here?"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from tokensieve.core.cli.options import Keep, Plugins, number
from tokensieve.core.errors import TokensieveError
from tokensieve.core.foreign import shorten
from tokensieve.core.models.sizes import SIZES, find_size
from tokensieve.core.pipeline.loading import parse_keep
from tokensieve.core.strict import MOST_NEW_TOKENS

PIPELINES = ("fastv", "transprune", "visionzip", "random")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("bench")(bench)


def bench(  # noqa: PLR0913 - one parameter per option
    size: Annotated[str, typer.Option(help=f"Model size: {', '.join(SIZES)}.")] = "small",
    pipeline: Annotated[
        list[str] | None,
        typer.Option(help=f"Preset or YAML file; repeatable. (default: {', '.join(PIPELINES)})"),
    ] = None,
    keep: Keep = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    dtype: Annotated[
        str | None, typer.Option(help="(default: float32 on cpu, bfloat16 on cuda)")
    ] = None,
    attention: Annotated[str, typer.Option(help="Attention backend of all variants.")] = "sdpa",
    batch: Annotated[int, number("--batch", 1, 1024, "Prompts at once.")] = 1,
    text_tokens: Annotated[
        int,
        number("--text-tokens", 4, MOST_NEW_TOKENS, "Text tokens of a prompt."),
    ] = 64,
    decode_tokens: Annotated[
        int,
        number("--decode-tokens", 1, MOST_NEW_TOKENS, "Tokens to decode."),
    ] = 8,
    runs: Annotated[
        int | None,
        number("--runs", 1, 10_000, "Timed rounds. (default: 5 on cpu, 15 on cuda)"),
    ] = None,
    warmup: Annotated[
        int | None,
        number("--warmup", 0, 10_000, "Rounds before. (default: 2 on cpu, 5 on cuda)"),
    ] = None,
    plugin: Plugins = None,
    json: Annotated[Path | None, typer.Option(help="Write all numbers to this file.")] = None,
    overhead: Annotated[
        bool,
        typer.Option(
            help="Only what scoring and selection cost, as a share of the untouched prefill. "
            "(default: all registered pipelines)"
        ),
    ] = False,
    markdown: Annotated[
        Path | None, typer.Option(help="With --overhead: write the table to this file.")
    ] = None,
) -> None:
    """Time the untouched model against pipelines, in interleaved runs, scoring included.

    The model has random weights: speed does not depend on them. Nothing is downloaded.
    """
    for option, file in (("--json", json), ("--markdown", markdown)):
        if file is not None and (os.path.isdir(file) or not os.path.isdir(file.parent)):
            raise TokensieveError(
                f"{option} {shorten(str(file))}: not a file in an existing folder"
            )
    if markdown is not None and not overhead:
        raise TokensieveError("--markdown writes the table of --overhead: give both")
    chosen = find_size(size)
    budget = parse_keep(keep)
    from tokensieve.core.bench import command  # torch and transformers come with it

    setup = command.make_setup(device, dtype, attention, batch=batch, text_tokens=text_tokens)
    plan = command.make_plan(setup, runs, warmup)
    plan.pipelines, plan.plugins = pipeline or (() if overhead else PIPELINES), plugin or ()
    plan.keep, plan.decode_tokens = budget, decode_tokens
    if overhead:
        command.report_overheads(command.overheads(chosen, setup, plan), json, markdown)
        return
    result = command.measure(chosen, setup, plan)
    command.report(result, json)
