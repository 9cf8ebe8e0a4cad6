"""``tokensieve doctor``: does pruning give the pruned model's answers with what is installed?"""

from __future__ import annotations

import platform
from importlib import metadata
from typing import TYPE_CHECKING, Annotated

import typer

from tokensieve.core.cli.exit_codes import FAILED
from tokensieve.core.cli.options import Plugins, open_registry
from tokensieve.core.output.terminal import console

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tokensieve.core.contract.adapter import Adapter
    from tokensieve.core.testing.doctor import Case

PACKAGES = ("tokensieve", "transformers", "torch", "timm")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor")(doctor)


def doctor(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Check this model's own config, shrunk: a built-in model, a local folder or a "
            "Hugging Face id. No weights are read. Without it every family is checked."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1.")] = "cpu",
    attention: Annotated[str, typer.Option(help="Attention backend: sdpa or eager.")] = "sdpa",
    plugins: Plugins = None,
) -> None:
    """Check that pruning is exact with the installed versions. Exit code 1 if it is not.

    Tiny models with random weights go through `generate`, pruned, and are compared with the same
    models with the dropped tokens masked.
    """
    from tokensieve.core.models.devices import find_device
    from tokensieve.core.models.finding import load_config, locate
    from tokensieve.core.models.hub import only_local

    registry = open_registry(plugins)
    if model is not None:
        only_local(locate(model, registry))
    from tokensieve.core.models.backends import check_backend
    from tokensieve.core.models.binding import find_adapter
    from tokensieve.core.output.quiet import quiet_transformers
    from tokensieve.core.testing.doctor import Case, examine, first_line, prepare

    place = str(find_device(device))
    check_backend(attention)
    families: list[tuple[type[Adapter], object]] = [
        (entry.value, None) for entry in registry.all("adapter")
    ]
    if model is not None:
        config = load_config(model, registry)
        adapter = find_adapter(config, registry)
        families = [(adapter, config if adapter.answers_questions else None)]
    out = console()
    out.print(_versions())
    out.print(f"device {place}, attention {attention}, float64")
    count = failed = 0
    with quiet_transformers():
        for adapter, config in families:
            out.print()
            out.print(f"{adapter.name}: {adapter.summary()}")
            cases: Iterable[Case]
            try:
                subject = prepare(adapter, config, device=place, attention=attention)
            except Exception as error:
                cases = [Case(adapter.name, "model", problem=first_line(error))]
            else:
                cases = examine(subject)
                out.print(f"  provides {', '.join(sorted(subject.bound.provides))}")
                lacking = [f"{name} ({why})" for name, why in sorted(subject.bound.missing.items())]
                if lacking:
                    out.print(f"  but not {', '.join(lacking)}")
            for case in cases:
                count, failed = count + 1, failed + (not case.passed)
                verdict = f"FAILED   {case.problem}"
                if case.difference is not None:
                    word = "exact" if case.passed else "DIFFERS"
                    verdict = f"{word}   largest difference {case.difference:.1e}"
                out.print(f"  {case.title:24} {verdict}")
    out.print()
    if failed:
        out.print(
            f"{failed} of {count} cases are not the masked model: do not trust pruning with these "
            "versions; `pip install` a tested set (docs/versions.md), or report it with this output"
        )
        raise typer.Exit(FAILED)
    out.print(f"{count} of {count} cases equal the masked model: pruning is exact here")


def _versions() -> str:
    """The installed versions, and a remark if this one of transformers has not been tried."""
    from packaging.requirements import Requirement

    shown = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    shown = f"{shown}, Python {platform.python_version()}"
    wanted = [Requirement(line) for line in metadata.requires("tokensieve") or ()]
    tried = next((each.specifier for each in wanted if each.name == "transformers"), None)
    if tried is None or tried.contains(metadata.version("transformers"), prereleases=True):
        return shown
    return f"{shown} (tested with transformers {tried})"
