"""One pass through the model: its time, the time of tokensieve's own code, its cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import wraps
from itertools import pairwise
from typing import Any, cast

from tokensieve.core.bench.clock import Clock
from tokensieve.core.bench.model import BenchModel
from tokensieve.core.engine.timing import Hook, Timer


@dataclass(frozen=True)
class Pass:
    """Seconds of one pass.

    Attributes:
        prefill: the whole forward: vision encoder, projector, decoder.
        decoder: the text model alone, everything that happens at its boundaries included.
        decode: one number per generated token.
    """

    prefill: float
    decoder: float
    decode: list[float]


def timed_pass(subject: BenchModel, clock: Clock, decode_tokens: int) -> Pass:
    """Prefill and ``decode_tokens`` greedy steps with whatever is attached to the model."""
    inside: list[Any] = []
    decoder = subject.bound.decoder

    def mark(*_: Any) -> None:
        inside.append(clock.mark())

    handles = [decoder.register_forward_pre_hook(mark), decoder.register_forward_hook(mark)]
    try:
        clock.settle()
        start = clock.mark()
        output = subject.prefill()
        end = clock.mark()
    finally:
        for handle in handles:
            handle.remove()
    clock.settle()
    steps = [clock.mark()]
    for _ in range(decode_tokens):
        output = subject.step(output)
        steps.append(clock.mark())
    clock.settle()
    decode = [clock.seconds(a, b) for a, b in pairwise(steps)]
    return Pass(clock.seconds(start, end), clock.seconds(*inside), decode)


class HookTime(Timer):
    """Time inside tokensieve's own code during a prefill.

    ``scoring``: capturing signals (module transitions, vision records), scoring, selecting,
    merging. ``total``: all hooks, so also reading the prompt, gathering the surviving rows, masks
    and rotary embeddings.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._scoring: list[tuple[Any, Any]] = []
        self._total: list[tuple[Any, Any]] = []

    def hook(self, call: Hook, *, captures: bool) -> Hook:
        """A hook whose time is written down; one that captures does nothing but scoring."""

        @wraps(call)
        def timed(*args: object, **kwargs: object) -> object:
            with self._written(self._total), self.measured() if captures else nullcontext():
                return call(*args, **kwargs)

        return cast(Hook, timed)

    def measured(self) -> AbstractContextManager[None]:
        """A block that is scoring."""
        return self._written(self._scoring)

    @contextmanager
    def _written(self, spans: list[tuple[Any, Any]]) -> Iterator[None]:
        start = self.clock.mark()
        try:
            yield
        finally:
            spans.append((start, self.clock.mark()))

    @property
    def scoring(self) -> float:
        """Seconds; to be asked after the clock has settled."""
        return sum(self.clock.seconds(*span) for span in self._scoring)

    @property
    def total(self) -> float:
        """Seconds; to be asked after the clock has settled."""
        return sum(self.clock.seconds(*span) for span in self._total)


def hook_seconds(subject: BenchModel, times: HookTime) -> tuple[float, float]:
    """``(scoring, total)`` seconds of one prefill, with a session attached that tells ``times``."""
    times.clock.settle()
    subject.prefill()
    times.clock.settle()
    return times.scoring, times.total


def cache_bytes(cache: Any) -> int:
    """Bytes that the KV cache really holds."""
    return sum(
        states.numel() * states.element_size()
        for layer in cache.layers
        for states in (layer.keys, layer.values)
    )
