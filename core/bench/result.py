"""The result of a bench, in numbers and in one line."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

FORMAT = 1
CLOSE = 1.05  # time over FLOPs up to which time is said to follow FLOPs


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of repeated measurements."""

    median: float
    low: float
    high: float
    values: list[float]

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of some values; quartiles interpolate, and one value is its own."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0], list(values))
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high, list(values))


def paired(ours: Spread, reference: Spread) -> Spread:
    """Ratios of measurements that were made side by side."""
    return Spread.of([a / b for a, b in zip(ours.values, reference.values, strict=True)])


@dataclass(frozen=True)
class Variant:
    """One variant of the model: untouched, or with a pipeline.

    Times are seconds. ``decode`` is per token (each value the median over the tokens of a run);
    ``peak_bytes`` is the prefill's memory beyond weights and inputs; ``layer_tokens`` are visual
    tokens of the first sample in each decoder layer; ``flops`` the decoder prefill's
    multiply-accumulates, all samples.
    """

    name: str
    prefill: Spread
    decoder: Spread
    decode: Spread
    scoring: Spread | None
    hooks: Spread | None
    peak_bytes: int
    kv_bytes: int
    flops: float
    layer_tokens: list[int]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class VariantComparison:
    """A pipeline against the untouched model; ratios below 1 mean less than untouched."""

    variant: Variant
    prefill: Spread
    decoder: Spread
    decode: Spread
    flops: float
    peak: float
    kv: float

    @classmethod
    def of(cls, variant: Variant, untouched: Variant) -> VariantComparison:
        """Compare times by paired ratios, the rest by plain ones."""
        return cls(
            variant,
            paired(variant.prefill, untouched.prefill),
            paired(variant.decoder, untouched.decoder),
            paired(variant.decode, untouched.decode),
            variant.flops / untouched.flops,
            variant.peak_bytes / untouched.peak_bytes,
            variant.kv_bytes / untouched.kv_bytes,
        )

    @property
    def time_over_flops(self) -> float:
        """Decoder time ratio over FLOPs ratio: 1 if time follows FLOPs, above if it lags."""
        return self.decoder.median / self.flops

    @property
    def verdict(self) -> str:
        """The comparison in one line, for people."""
        prefill, decode, lag = self.prefill, self.decode, self.time_over_flops
        if prefill.low > 1:
            first = f"slower here: prefill takes {prefill.median:.2f}x the time"
        elif prefill.high >= 1:
            times = f"{prefill.median:.2f}x the time"
            first = f"no faster here: prefill takes {times}, within the noise"
        else:
            follows = "as its FLOPs say" if lag <= CLOSE else f"but {lag - 1:.0%} behind its FLOPs"
            first = f"faster: prefill {1 / prefill.median:.2f}x, {follows}"
        if decode.low > 1:
            then = f"decoding is slower, {decode.median:.2f}x the time"
        elif decode.high >= 1:
            then = "decoding as fast as untouched"
        else:
            then = f"decoding {1 / decode.median:.2f}x"
        return f"{first}; {then}"


@dataclass(frozen=True)
class BenchResult:
    """Everything a bench found, and where."""

    environment: dict[str, object]
    options: dict[str, object]
    untouched: Variant
    comparisons: list[VariantComparison]

    def to_plain(self) -> dict[str, object]:
        """Plain data for JSON."""
        pipelines = []
        for comparison in self.comparisons:
            ratios = asdict(comparison)
            variant = ratios.pop("variant")
            ratios["time_over_flops"] = comparison.time_over_flops
            pipelines.append({**variant, "ratios": ratios, "verdict": comparison.verdict})
        return {
            "format": FORMAT,
            "environment": self.environment,
            "options": self.options,
            "untouched": asdict(self.untouched),
            "pipelines": pipelines,
        }
