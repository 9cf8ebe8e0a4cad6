"""``tokensieve report``: the findings of a study, as one file to read and to show."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tokensieve.core.errors import StudyError
from tokensieve.core.output.terminal import say
from tokensieve.core.study.spec.claims import read_claim


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report")(report)


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a study.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Where to write it. (default: DIR/report.html)"),
    ] = None,
    claim: Annotated[
        list[str] | None,
        typer.Option(
            metavar="'A > B'",
            help="Judge whether pipeline (or scorer) A beats B; repeatable. "
            "(default: the study's `claims`, else all pairs, or the best with each)",
        ),
    ] = None,
) -> None:
    """Turn a study into verdicts, figures and tables: HTML, with Markdown and CSV beside it."""
    try:
        pairs = [read_claim(text) for text in claim] if claim else None
    except StudyError as error:
        raise StudyError(f"--claim {error}") from None
    from tokensieve.core.report.page import write_report
    from tokensieve.core.report.sections import verdict_section
    from tokensieve.core.report.verdicts.verdict import KINDS

    files, found = write_report(folder, out, claims=pairs)
    for problem in found.results.problems:
        print(problem, file=sys.stderr)
    for verdict in verdict_section(found).verdicts:
        say(f"{verdict.topic} [{KINDS[verdict.kind]}] {verdict.text}")
    for file in files:
        say(file)
