"""The cost of scoring and selection: every pipeline against the untouched prefill, in turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.text import Text

from tokensieve.core.bench.clock import clock_for
from tokensieve.core.bench.measuring import hook_seconds, timed_pass
from tokensieve.core.bench.model import BenchModel
from tokensieve.core.bench.result import FORMAT, Spread, paired
from tokensieve.core.bench.runner import describe
from tokensieve.core.engine.session import attach
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

    environment: dict[str, object]
    size: str
    visual_tokens: int
    text_tokens: int
    runs: int
    prefill: Spread
    rows: list[Overhead]

    def to_plain(self) -> dict[str, object]:
        """Plain data for JSON."""
        return {"format": FORMAT, **asdict(self)}


def measure_overheads(
    measured: BenchModel,
    pipelines: Sequence[Pipeline],
    *,
    runs: int,
    plugins: Sequence[str | Path] = (),
    progress: Callable[[str], None] = lambda _: None,
) -> Overheads:
    """Time ``runs`` rounds of the untouched prefill and each pipeline, after one to warm up."""
    clock = clock_for(measured.setup.device)
    prefill: list[float] = []
    times: dict[str, list[tuple[float, float]]] = {p.name: [] for p in pipelines}
    tokens, refused = dict.fromkeys(times, 0), dict.fromkeys(times, "")
    with torch.no_grad():
        for number in range(runs + 1):
            progress(f"round {number} of {runs}")
            whole = timed_pass(measured, clock, 0).prefill
            if number:
                prefill.append(whole)
            for pipeline in pipelines:
                if refused[pipeline.name]:
                    continue
                try:
                    with attach(measured.model, pipeline, plugins=plugins) as session:
                        seconds = hook_seconds(measured, session, clock)
                        tokens[pipeline.name] = session.trace.per_layer[0][-1]
                except TokensieveError as error:
                    refused[pipeline.name] = str(error)
                    continue
                if number:
                    times[pipeline.name].append(seconds)
    untouched = Spread.of(prefill)
    rows = []
    for name, pairs in times.items():
        if refused[name]:
            rows.append(Overhead(name, refused=refused[name]))
            continue
        scoring = Spread.of([scoring for scoring, _ in pairs])
        hooks = Spread.of([total for _, total in pairs])
        rows.append(Overhead(name, scoring, paired(scoring, untouched), hooks, tokens[name]))
    rows.sort(key=lambda row: row.share.median if row.share else float("inf"))
    size, setup = measured.size, measured.setup
    return Overheads(
        describe(measured), size.name, size.visual_tokens, setup.text_tokens, runs, untouched, rows
    )


HEAD = ("pipeline", "tokens left", "scoring + selection, ms", "of the untouched prefill", "")


def cells(row: Overhead) -> list[str]:
    """The cells of one line of the table."""
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
    """The line above the table: where the numbers come from."""
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
    """The result as a Markdown table."""
    return f"{escaped(heading(result))}\n\n{pipe_table(HEAD, map(cells, result.rows))}\n"
