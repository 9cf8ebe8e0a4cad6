"""A bench result for people: one column per variant, one line of verdict per pipeline."""

from __future__ import annotations

import math
from collections.abc import Callable

from rich.console import Console
from rich.text import Text

from tokensieve.core.bench.result import BenchResult, Spread, Variant, VariantComparison
from tokensieve.core.foreign import plain
from tokensieve.core.output.terminal import table

MIB = 2**20


def show(result: BenchResult, console: Console) -> None:
    """Print the table, the verdicts, and what a reader should know."""
    options, where = result.options, result.environment
    heading = (
        f"{options['size']}: {options['visual_tokens']} visual + {options['text_tokens']} text "
        f"tokens, batch {options['batch']}; {where['device_name']}, {where['dtype']}, "
        f"{where['attention']}, {where['threads']} threads; median and quartiles of "
        f"{options['runs']} interleaved runs after {options['warmup']} warm-up"
    )
    variants = [result.untouched, *(comparison.variant for comparison in result.comparisons)]
    rows = table("", *(variant.name for variant in variants), left=[""])
    for label, cell in _MEASURED:
        rows.add_row(label, *(cell(variant) for variant in variants))
    rows.add_section()
    for label, ratio in _RATIOS:
        rows.add_row(label, "", *(ratio(comparison) for comparison in result.comparisons))
    notes = [
        f"FLOPs: {options['flops']}. Peak memory beyond weights: {options['peak_memory']}.",
        "Times include scoring and selection; 'all hooks' also gathers the rows that stay. Ratios "
        "of times are medians of paired ratios; time / FLOPs is decoder time over decoder FLOPs.",
        *(f"{variant.name}: {note}" for variant in variants[1:] for note in variant.notes),
    ]
    console.print(Text(plain(heading)))
    console.print()
    console.print(rows)
    console.print()
    for comparison in result.comparisons:
        name = (plain(comparison.variant.name), "bold")
        console.print(Text.assemble(name, f": {plain(comparison.verdict)}"))
    for note in notes:
        console.print(Text(plain(note), "dim"))


def _ms(spread: Spread | None) -> Text:
    """Median milliseconds, and the quartiles below."""
    if spread is None:
        return Text("-")
    digits = max(0, 2 - int(math.log10(max(spread.median * 1e3, 1))))  # three figures
    low, median, high = (
        f"{value * 1e3:.{digits}f}" for value in (spread.low, spread.median, spread.high)
    )
    return Text.assemble(f"{median}\n", (f"{low}-{high}", "dim"))


def _mib(size: int) -> str:
    return f"{size / MIB:.1f}"


_MEASURED: list[tuple[str, Callable[[Variant], str | Text]]] = [
    ("prefill, ms", lambda v: _ms(v.prefill)),
    ("- decoder, ms", lambda v: _ms(v.decoder)),
    ("- scoring, ms", lambda v: _ms(v.scoring)),
    ("- all hooks, ms", lambda v: _ms(v.hooks)),
    ("decode, ms/token", lambda v: _ms(v.decode)),
    ("peak memory, MiB", lambda v: _mib(v.peak_bytes)),
    ("KV cache, MiB", lambda v: _mib(v.kv_bytes)),
    ("tokens, last layer", lambda v: str(v.layer_tokens[-1])),
]
_RATIOS: list[tuple[str, Callable[[VariantComparison], str]]] = [
    ("prefill time ratio", lambda c: f"{c.prefill.median:.3f}"),
    ("decoder time ratio", lambda c: f"{c.decoder.median:.3f}"),
    ("decoder FLOPs ratio", lambda c: f"{c.flops:.3f}"),
    ("time / FLOPs", lambda c: f"{c.time_over_flops:.3f}"),
    ("decode time ratio", lambda c: f"{c.decode.median:.3f}"),
    ("peak memory ratio", lambda c: f"{c.peak:.3f}"),
    ("KV cache ratio", lambda c: f"{c.kv:.3f}"),
]
