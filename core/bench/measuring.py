"""One pass through the model: its time, the time of tokensieve's own code, its cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from torch.utils.hooks import RemovableHandle

from tokensieve.core.bench.clock import Clock
from tokensieve.core.bench.model import BenchModel
from tokensieve.core.engine import transitions as transitions_module
from tokensieve.core.engine.decoder import engine as engine_module
from tokensieve.core.engine.session import Session

ENGINE_PACKAGE = engine_module.__name__.rpartition(".")[0]


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


@dataclass
class HookTime:
    """Time inside tokensieve's own code during a prefill.

    ``scoring``: capturing signals (module transitions, vision records), scoring, selecting,
    merging. ``total``: all hooks, so also reading the prompt, gathering the surviving rows, masks
    and rotary embeddings.
    """

    clock: Clock
    _scoring: list[tuple[Any, Any]] = field(default_factory=list)
    _total: list[tuple[Any, Any]] = field(default_factory=list)

    def around(self, call: Callable[..., Any], *, scoring: bool, hook: bool) -> Callable[..., Any]:
        """``call``, with its time written down."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = self.clock.mark()
            try:
                return call(*args, **kwargs)
            finally:
                span = (start, self.clock.mark())
                if scoring:
                    self._scoring.append(span)
                if hook:
                    self._total.append(span)

        return timed

    @property
    def scoring(self) -> float:
        """Seconds; to be asked after the clock has settled."""
        return sum(self.clock.seconds(*span) for span in self._scoring)

    @property
    def total(self) -> float:
        """Seconds; to be asked after the clock has settled."""
        return sum(self.clock.seconds(*span) for span in self._total)


@contextmanager
def timed_hooks(session: Session, clock: Clock) -> Iterator[HookTime]:
    """Time every hook of ``session``; nothing of this is on the model's path outside the block."""
    times = HookTime(clock)
    for handle in session._engine._handles:
        if not isinstance(handle, RemovableHandle):
            continue  # keeps outputs, and computes nothing
        hooks: Any = handle.hooks_dict_ref()
        own = hooks[handle.id].__module__.startswith(ENGINE_PACKAGE)
        # hooks that an adapter put on the vision encoder do nothing but capture signals
        hooks[handle.id] = times.around(hooks[handle.id], scoring=not own, hook=True)
    inner: list[tuple[Any, str, Any]] = [
        (module, name, getattr(module, name))
        for module, name in ((engine_module, "decide"), (transitions_module, "change"))
    ]
    for module, name, call in inner:
        setattr(module, name, times.around(call, scoring=True, hook=False))
    try:
        yield times
    finally:
        for module, name, call in inner:
            setattr(module, name, call)


def hook_seconds(subject: BenchModel, session: Session, clock: Clock) -> tuple[float, float]:
    """``(scoring, total)`` seconds of one prefill; ``session`` has to be detached afterwards."""
    with timed_hooks(session, clock) as times:
        clock.settle()
        subject.prefill()
        clock.settle()
    return times.scoring, times.total


def cache_bytes(cache: Any) -> int:
    """Bytes that the KV cache really holds."""
    return sum(
        states.numel() * states.element_size()
        for layer in cache.layers
        for states in (layer.keys, layer.values)
    )
