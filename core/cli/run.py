"""``tokensieve run``: one question, with and without pruning."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from tokensieve.core.cli.options import Keep, Plugins, number, open_registry
from tokensieve.core.cli.run_report import as_json, drawable_panels, print_report, save_overlay
from tokensieve.core.errors import ModelError, TokensieveError
from tokensieve.core.files.pictures import open_image
from tokensieve.core.models.finding import locate
from tokensieve.core.models.hub import only_local
from tokensieve.core.models.loading import DTYPES, answering, load_model
from tokensieve.core.output.terminal import console, to_json, waiting, warn
from tokensieve.core.output.unforeseen import unforeseen
from tokensieve.core.pipeline.loading import load_pipeline, parse_keep
from tokensieve.core.plugins.registry import Example, Registry
from tokensieve.core.run.asking import compare
from tokensieve.core.run.prompts import VisualQuestion, check_question, prepare
from tokensieve.core.strict import MOST_NEW_TOKENS, MOST_SEED

DEFAULT_MODEL = "tiny-llava"
DEFAULT_EXAMPLE = "scene"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("run")(run)


def run(  # noqa: PLR0913 - one parameter per option
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Built-in model, local folder, or Hugging Face id (owner/name)."
        ),
    ] = DEFAULT_MODEL,
    image: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Picture; may be repeated. Default: the example scene."),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Question; default: the example scene's.")
    ] = None,
    pipeline: Annotated[str, typer.Option(help="A preset's name or a YAML file.")] = "transprune",
    keep: Keep = None,
    seed: Annotated[
        int,
        number("--seed", 0, MOST_SEED, "For scorers that draw random numbers."),
    ] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
    dtype: Annotated[
        str, typer.Option(help=f"{', '.join(DTYPES)} (auto: the checkpoint's own).")
    ] = "auto",
    max_new_tokens: Annotated[
        int,
        number("--max-new-tokens", 1, MOST_NEW_TOKENS, "Length of the answer at most."),
    ] = 64,
    repeats: Annotated[
        int,
        number("--repeats", 1, 1000, "Timed runs of each, interleaved."),
    ] = 3,
    overlay: Annotated[
        Path | None,
        typer.Option(metavar="PNG", help="Where to draw what survives; default: named by picture."),
    ] = None,
    plugin: Plugins = None,
    as_data: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Answer a question with and without pruning; count, time and draw the difference.

    Exit code 1 if only the picture cannot be written.
    """
    registry = open_registry(plugin)
    chosen = load_pipeline(pipeline, keep=parse_keep(keep), registry=registry)
    files, text = _question(image, prompt, registry)
    only_local(locate(model, registry))
    target = _overlay_path(overlay, files, chosen.name)
    question = VisualQuestion(text, tuple(open_image(file) for file in files))

    from tokensieve.core.output.quiet import quiet_transformers

    with quiet_transformers():
        with waiting(f"loading {model} (the first use of a Hugging Face id downloads it)"):
            loaded = answering(load_model(model, registry, device=device, dtype=dtype))
        with waiting("answering with and without pruning"):
            inputs = prepare(loaded, question)
            result = compare(
                loaded,
                chosen,
                inputs,
                plugins=plugin or (),
                seed=seed,
                max_new_tokens=max_new_tokens,
                repeats=repeats,
            )
        panels = drawable_panels(loaded, question, result)
    drawn = None if panels is None else target
    if as_data:
        print(to_json(as_json(loaded, chosen.name, files, question, result, drawn), indent=2))
    else:
        print_report(loaded, chosen.name, question, result)
    sys.stdout.flush()
    if panels is None:
        warn(f"no overlay: adapter {loaded.bound.name} cannot place the tokens on this")
        return
    try:
        save_overlay(target, loaded, chosen.name, question, result, panels)
    except Exception as error:
        ours = isinstance(error, TokensieveError)
        warn(error if ours else f"no overlay: {unforeseen(error)}")
        raise typer.Exit(1) from None
    if not as_data:
        console().print(f"overlay: {target}", soft_wrap=True)


def _question(
    images: Sequence[Path] | None, prompt: str | None, registry: Registry
) -> tuple[list[Path], str]:
    """Pictures and question; without ``--image`` those of the example."""
    check_question(prompt or "", "--prompt")
    if images:
        if prompt is None:
            raise ModelError("--prompt is missing: the question about --image")
        return list(images), prompt
    known = registry.entries["example"]
    if DEFAULT_EXAMPLE not in known:
        raise ModelError("no example picture is installed: give --image FILE and --prompt TEXT")
    example: Example = known[DEFAULT_EXAMPLE].value
    return [example.image], example.question if prompt is None else prompt


def _overlay_path(wanted: Path | None, images: Sequence[Path], pipeline: str) -> Path:
    """Where the overlay goes; refused before any work if it cannot go there."""
    plain = re.sub(r"[^\w.+-]+", "-", pipeline)
    path = wanted or Path(f"{images[0].stem}-{plain}.png")
    if path.suffix.lower() != ".png":
        raise ModelError(f"overlay {path}: the name must end in .png")
    if not os.path.isdir(path.parent):
        raise ModelError(f"overlay {path}: there is no folder {path.parent}")
    if os.path.isdir(path):
        raise ModelError(f"overlay {path}: is a folder")
    if os.path.realpath(path) in map(os.path.realpath, images):
        raise ModelError(f"overlay {path}: would overwrite the picture itself")
    return path
