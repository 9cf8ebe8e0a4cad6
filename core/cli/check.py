"""``tokensieve check``: does a plugin file keep the contract?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tokensieve.core.output.terminal import console, table

if TYPE_CHECKING:
    from tokensieve.core.output.terminal import Rows
    from tokensieve.core.testing import CheckResult


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("check")(check)


def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Plugin files.")],
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
) -> None:
    """Check scorers, selectors and mergers of plugin files. Exit code 1 if a check fails."""
    from tokensieve.core.models.devices import find_device
    from tokensieve.core.testing import check_plugin_files

    results = check_plugin_files(files, device=str(find_device(device)))
    for _, group in groupby(results, key=lambda result: (result.kind, result.component)):
        console().print(_table(list(group)), "")
    failed = sum(not result.passed for result in results)
    console().print(f"{len(results)} checks, {failed} failed")
    if failed:
        raise typer.Exit(1)


def _table(results: Sequence[CheckResult]) -> Rows:
    """One component: every check, its result, and what it means or what is wrong."""
    from tokensieve.core.testing import CHECKS

    kind, name = results[0].kind, results[0].component
    checks = CHECKS.get(kind, ())
    meanings = {check.name: check.meaning for check in checks}
    rows = table(f"{kind} {name}", "result", "meaning", left=("meaning",))
    rows.columns[0].justify = rows.columns[1].justify = "left"
    for result in results:
        verdict = "ok" if result.passed else "FAILED"
        rows.add_row(result.check, verdict, result.detail or meanings.get(result.check, ""))
    for check in checks[len(results) :]:
        rows.add_row(check.name, "not run", f"only if {results[-1].check} is ok")
    return rows
