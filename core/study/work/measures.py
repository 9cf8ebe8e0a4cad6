"""Records of answers, their summary, and whether a cell met its budget."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from statistics import fmean

from tokensieve.core.contract.dims import DecoderDims
from tokensieve.core.contract.tasks import Example
from tokensieve.core.engine.trace import Trace
from tokensieve.core.pipeline.flops import decoder_flops
from tokensieve.core.study.store.records import SampleRecord, Summary

ABOVE, BELOW = 0.02, 0.15  # how far a cell may be off its budget


def sample_records(
    scored: Sequence[tuple[Example, str, float]],
    trace: Trace,
    dims: DecoderDims,
    seconds: float,
) -> list[SampleRecord]:
    """One record per example of a batch: answer, score, tokens in each layer, cost."""
    records = []
    for sample, (example, text, score) in enumerate(scored):
        visual, layers = trace.visual_tokens[sample], trace.per_layer[sample]
        full = decoder_flops([visual] * dims.layers, dims)
        records.append(
            SampleRecord(
                id=example.id,
                answer=text,
                expected=example.answer,
                score=float(score),
                images=len(example.images),
                visual_tokens=visual,
                per_layer=layers,
                average_tokens=sum(layers) / len(layers),
                flops_share=decoder_flops(layers, dims) / full if full else 1.0,
                text_tokens=trace.text_tokens[sample],
                kept_hash=kept_hash(trace, sample),
                seconds=seconds,
            )
        )
    return records


def kept_hash(trace: Trace, sample: int) -> str:
    """A hash of the tokens that are left at each boundary; equal hashes, equal choice."""
    digest = hashlib.sha256()
    for stage in trace.stages:
        digest.update(f"{stage.boundary}:".encode())
        digest.update(",".join(map(str, stage.kept[sample].tolist())).encode())
    return digest.hexdigest()[:16]


def summarize(records: Sequence[SampleRecord], budget: Mapping[str, float] | None) -> Summary:
    """Means over samples; ``reached`` and ``wanted`` are in the budget's own currency."""
    summary = Summary(
        samples=len(records),
        accuracy=fmean(record.score for record in records),
        average_tokens=fmean(record.average_tokens for record in records),
        visual_tokens=fmean(record.visual_tokens for record in records),
        flops_share=fmean(record.flops_share for record in records),
    )
    if budget is None:
        return summary
    if "flops" in budget:
        wanted, reached = [budget["flops"]], summary.flops_share
    else:  # an image with fewer tokens keeps what it has
        reached = summary.average_tokens
        wanted = [
            max(budget["share"] * record.visual_tokens, 1.0)
            if "share" in budget
            else min(budget["average"] * record.images, float(record.visual_tokens))
            for record in records
        ]
    return summary.model_copy(update={"wanted": fmean(wanted), "reached": reached})


def unmet_reason(
    summary: Summary, budget: Mapping[str, float] | None, layer: str = "decoder layer"
) -> str | None:
    """Why the cell missed its budget, or None."""
    if budget is None or not summary.wanted or summary.reached is None:
        return None
    off = summary.reached / summary.wanted - 1
    if -BELOW <= off <= ABOVE:
        return None
    unit = "of the FLOPs" if "flops" in budget else f"visual tokens per {layer}"
    return (
        f"reaches {summary.reached:.4g} {unit} where {summary.wanted:.4g} were asked for "
        f"({off:+.1%})"
    )
