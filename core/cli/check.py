"""``tokensieve check``: does a plugin file keep the contract?"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer

from tokensieve.core.cli.exit_codes import FAILED
from tokensieve.core.output.terminal import console, table


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("check")(check)


def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Plugin files.")],
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
) -> None:
    """Check scorers, selectors and mergers of plugin files. Exit code 1 if a check fails."""
    from tokensieve.core.models.devices import find_device
    from tokensieve.core.testing import CHECKS, check_plugin_files

    results = check_plugin_files(files, device=str(find_device(device)))
    for (kind, name), group in groupby(results, key=lambda result: (result.kind, result.component)):
        checks = CHECKS.get(kind, ())
        meanings = {check.name: check.meaning for check in checks}
        rows = table(f"{kind} {name}", "result", "meaning", left=("meaning",))
        rows.columns[0].justify = rows.columns[1].justify = "left"
        done = list(group)
        for result in done:
            verdict = "ok" if result.passed else "FAILED"
            rows.add_row(result.check, verdict, result.detail or meanings.get(result.check, ""))
        for check in checks[len(done) :]:
            rows.add_row(check.name, "not run", f"only if {done[-1].check} is ok")
        console().print(rows, "")
    failed = sum(not result.passed for result in results)
    console().print(f"{len(results)} checks, {failed} failed")
    if failed:
        raise typer.Exit(FAILED)
