"""``tokensieve doctor``: does pruning give the pruned model's answers with what is installed?"""

from __future__ import annotations

import platform
from importlib import metadata
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokensieve.core.cli.options import Plugins, open_registry
from tokensieve.core.output.terminal import console

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokensieve.core.output.terminal import Screen
    from tokensieve.core.plugins.registry import Registry
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
    from tokensieve.core.models.finding import locate
    from tokensieve.core.models.hub import only_local

    registry = open_registry(plugins)
    if model is not None:
        only_local(locate(model, registry))
    from tokensieve.core.models.backends import check_backend
    from tokensieve.core.output.quiet import quiet_transformers

    place = str(find_device(device))
    check_backend(attention)
    families = _families(model, registry)
    out = console()
    out.print(_versions())
    out.print(f"device {place}, attention {attention}, float64")
    cases: list[Case] = []
    with quiet_transformers():
        for adapter, config in families:
            out.print()
            out.print(f"{adapter.name}: {adapter.summary()}")
            for case in _cases(adapter, config, place, attention, out):
                cases.append(case)
                out.print(f"  {case.title:24} {_verdict(case)}")
    failed = sum(not case.passed for case in cases)
    out.print()
    out.print(_conclusion(len(cases), failed))
    if failed:
        raise typer.Exit(1)


def _cases(adapter: Any, config: Any, device: str, attention: str, out: Screen) -> Iterator[Case]:
    """What a family provides, and then one case after the other."""
    from tokensieve.core.testing.doctor import Case, examine, first_line, prepare

    try:
        subject = prepare(adapter, config, device=device, attention=attention)
    except Exception as error:
        yield Case(adapter.name, "model", problem=first_line(error))
        return
    bound = subject.bound
    out.print(f"  provides {', '.join(sorted(bound.provides))}")
    lacking = [f"{name} ({why})" for name, why in sorted(bound.missing.items())]
    if lacking:
        out.print(f"  but not {', '.join(lacking)}")
    yield from examine(subject)


def _versions() -> str:
    """What is installed, and whether this version of transformers has been tried."""
    installed = [f"{name} {metadata.version(name)}" for name in PACKAGES]
    return f"{', '.join(installed)}, Python {platform.python_version()}{_untried()}"


def _untried() -> str:
    """A remark if the installed transformers is not among the versions that we ask for."""
    from packaging.requirements import Requirement

    for line in metadata.requires("tokensieve") or ():
        wanted = Requirement(line)
        if wanted.name == "transformers":
            installed = metadata.version("transformers")
            fits = wanted.specifier.contains(installed, prereleases=True)
            return "" if fits else f" (tested with transformers {wanted.specifier})"
    return ""


def _families(model: str | None, registry: Registry) -> list[tuple[Any, Any]]:
    """Adapters to check, each with the user's config or None."""
    if model is None:
        return [(entry.value, None) for entry in registry.all("adapter")]
    from tokensieve.core.models.binding import find_adapter
    from tokensieve.core.models.finding import load_config

    config = load_config(model, registry)
    adapter = find_adapter(config, registry)
    return [(adapter, config if adapter.answers_questions else None)]


def _verdict(case: Case) -> str:
    if case.problem:
        return f"FAILED   {case.problem}"
    assert case.difference is not None
    return f"{'exact' if case.passed else 'DIFFERS'}   largest difference {case.difference:.1e}"


def _conclusion(cases: int, failed: int) -> str:
    if not failed:
        return f"{cases} of {cases} cases equal the masked model: pruning is exact here"
    return (
        f"{failed} of {cases} cases are not the masked model: do not trust pruning with these "
        "versions; `pip install` a tested set (docs/versions.md), or report it with this output"
    )
