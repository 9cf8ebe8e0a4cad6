"""What scoring and selection cost: every pipeline against the untouched prefill, in turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.text import Text

from tokensieve.core.bench.clock import clock_for
from tokensieve.core.bench.measuring import HookTime, hook_seconds, timed_pass
from tokensieve.core.bench.result import FORMAT, Spread, paired
from tokensieve.core.bench.runner import describe
from tokensieve.core.bench.subject import Subject
from tokensieve.core.engine.session import attach_timed
from tokensieve.core.errors import TokensieveError
from tokensieve.core.foreign import plain
from tokensieve.core.output.markdown import escaped, pipe_table
from tokensieve.core.output.terminal import table
from tokensieve.core.pipeline.pipeline import Pipeline

LIMIT = 0.05
"""Share of the untouched prefill that scoring and selection should stay below."""


@dataclass(frozen=True)
class Overhead:
    """One pipeline: seconds of scoring and selection, and their share of the untouched prefill.

    ``hooks`` are the seconds in all of tokensieve's code. ``refused`` says why a pipeline could
    not run; there are no numbers then.
    """

    name: str
    scoring: Spread | None = None
    share: Spread | None = None
    hooks: Spread | None = None
    tokens: int = 0
    refused: str = ""


@dataclass(frozen=True)
class Overheads:
    """All pipelines of one measurement, the cheapest first."""

    environment: dict[str, Any]
    size: str
    visual_tokens: int
    text_tokens: int
    runs: int
    prefill: Spread
    rows: list[Overhead]

    def to_plain(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"format": FORMAT, **asdict(self)}


def measure_overheads(
    subject: Subject,
    pipelines: Sequence[Pipeline],
    *,
    runs: int,
    plugins: Sequence[str | Path] = (),
    progress: Callable[[str], None] = lambda _: None,
) -> Overheads:
    """``runs`` rounds of the untouched prefill and each pipeline, after one that is not counted."""
    clock = clock_for(subject.setup.device)
    prefill: list[float] = []
    times: dict[str, list[tuple[float, float]]] = {p.name: [] for p in pipelines}
    tokens, refused = dict.fromkeys(times, 0), dict.fromkeys(times, "")
    with torch.no_grad():
        for number in range(runs + 1):
            progress(f"round {number} of {runs}")
            whole = timed_pass(subject, clock, 0).prefill
            if number:
                prefill.append(whole)
            for pipeline in pipelines:
                if refused[pipeline.name]:
                    continue
                try:
                    hook_time = HookTime(clock)
                    with attach_timed(
                        subject.model, pipeline, hook_time, plugins=plugins
                    ) as session:
                        measured = hook_seconds(subject, hook_time)
                        tokens[pipeline.name] = session.trace.per_layer[0][-1]
                except TokensieveError as error:
                    refused[pipeline.name] = str(error)
                    continue
                if number:
                    times[pipeline.name].append(measured)
    rows = [
        _row(name, times[name], Spread.of(prefill), tokens[name], refused[name]) for name in times
    ]
    rows.sort(key=lambda row: row.share.median if row.share else float("inf"))
    setup = subject.setup
    size = subject.size
    return Overheads(
        describe(subject), size.name, size.visual_tokens, setup.text_tokens, runs,
        Spread.of(prefill), rows,
    )  # fmt: skip


def _row(
    name: str, times: list[tuple[float, float]], prefill: Spread, tokens: int, refused: str
) -> Overhead:
    if refused:
        return Overhead(name, refused=refused)
    scoring = Spread.of([scoring for scoring, _ in times])
    hooks = Spread.of([total for _, total in times])
    return Overhead(name, scoring, paired(scoring, prefill), hooks, tokens)


HEAD = ("pipeline", "tokens left", "scoring + selection, ms", "of the untouched prefill", "")


def cells(row: Overhead) -> list[str]:
    """One line of the table."""
    if row.scoring is None or row.share is None:
        return [row.name, "-", "-", "-", row.refused]
    low, middle, high = (f"{100 * v:.1f} %" for v in
                         (row.share.low, row.share.median, row.share.high))  # fmt: skip
    return [
        row.name,
        str(row.tokens),
        f"{1000 * row.scoring.median:.1f}",
        f"{middle} ({low} to {high})",
        "" if row.share.median <= LIMIT else f"above {LIMIT:.0%}",
    ]


def heading(result: Overheads) -> str:
    """Where the numbers come from, in one line."""
    where = result.environment
    threads = f"{where['threads']} thread{'' if where['threads'] == 1 else 's'}"
    return (
        f"{result.size}: {result.visual_tokens} visual + {result.text_tokens} text tokens; "
        f"{where['device_name']}, {where['dtype']}, {where['attention']}, {threads}; "
        f"untouched prefill {1000 * result.prefill.median:.0f} ms; medians and quartiles "
        f"of {result.runs} interleaved rounds"
    )


def show_overheads(result: Overheads, console: Console) -> None:
    """Print the table."""
    rows = table(*HEAD, left=(HEAD[0], HEAD[-1]))
    for row in result.rows:
        rows.add_row(*cells(row))
    console.print(Text(plain(heading(result))))
    console.print()
    console.print(rows)


def to_markdown(result: Overheads) -> str:
    """The same as a Markdown table."""
    return f"{escaped(heading(result))}\n\n{pipe_table(HEAD, map(cells, result.rows))}\n"
