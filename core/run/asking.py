"""Ask a model a question with and without pruning, and measure both in the same run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tokensieve.core.contract.dims import DecoderDims
from tokensieve.core.engine.session import attach
from tokensieve.core.engine.trace import Trace
from tokensieve.core.errors import GuardError, ModelError
from tokensieve.core.foreign import foreign
from tokensieve.core.lazy import torch
from tokensieve.core.models.loading import LoadedModel
from tokensieve.core.pipeline.fit import check
from tokensieve.core.pipeline.flops import PAPER, Convention, decoder_flops, kv_bytes
from tokensieve.core.pipeline.pipeline import Pipeline

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Answer:
    """An answer of the model, and its times.

    Attributes:
        text: the answer.
        tokens: generated tokens, the end marker included.
        first_token: seconds from the call to the first token: vision encoder, prefill, scoring.
        seconds: seconds from the call to the end.
    """

    text: str
    tokens: int
    first_token: float
    seconds: float

    @property
    def per_token(self) -> float | None:
        """Seconds per further token; None if there is only one."""
        return (self.seconds - self.first_token) / (self.tokens - 1) if self.tokens > 1 else None


@dataclass(frozen=True)
class Cost:
    """The same quantity of the untouched model and of the pruned one."""

    untouched: float
    pruned: float

    @property
    def share(self) -> float:
        """The pruned quantity over the untouched one."""
        return self.pruned / self.untouched


@dataclass(frozen=True)
class AnswerComparison:
    """One question, answered by the untouched and by the pruned model.

    Times are medians over ``repeats`` interleaved runs after one warm-up run each.
    """

    untouched: Answer
    pruned: Answer
    trace: Trace
    dims: DecoderDims
    visual_tokens: int
    text_tokens: int
    element_bytes: int
    attention: str
    repeats: int

    @property
    def per_layer(self) -> list[int]:
        """Visual tokens in each decoder layer of the pruned prefill."""
        return self.trace.per_layer[0]

    def flops(self, convention: Convention = PAPER) -> Cost:
        """FLOPs of the decoder's prefill."""
        return self._cost(partial(decoder_flops, convention=convention))

    def kv_bytes(self) -> Cost:
        """Bytes of the KV cache after the prefill, text tokens included."""
        return self._cost(partial(kv_bytes, element_bytes=self.element_bytes))

    def _cost(self, count: Callable[..., float]) -> Cost:
        """Count for all visual tokens in every layer, and for those of the pruned prefill."""
        full = [self.visual_tokens] * self.dims.layers
        untouched, pruned = (
            count(layers, self.dims, text_tokens=self.text_tokens)
            for layers in (full, self.per_layer)
        )
        return Cost(untouched, pruned)


def compare(
    loaded: LoadedModel,
    pipeline: Pipeline,
    inputs: Mapping[str, Tensor],
    *,
    plugins: Sequence[str | Path] = (),
    seed: int = 0,
    max_new_tokens: int = 32,
    repeats: int = 3,
) -> AnswerComparison:
    """Answer greedily without and with ``pipeline``, in turns; the first turn is not timed."""
    bound = loaded.bound
    check(pipeline, bound)
    untouched: list[Answer] = []
    pruned: list[Answer] = []
    trace = Trace()
    ids = inputs["input_ids"]
    for _ in range(repeats + 1):
        untouched.append(answer(loaded, inputs, max_new_tokens))
        with attach(loaded.model, pipeline, seed=seed, plugins=plugins) as session:
            pruned.append(answer(loaded, inputs, max_new_tokens))
            trace = session.trace
    placeholders = torch.tensor(bound.placeholder_ids, device=ids.device)
    visual = int(torch.isin(ids, placeholders).sum())
    if not pipeline.stages:  # the model was left alone, so nobody watched it
        trace = Trace([visual], [], [[visual] * bound.dims.layers])
    elif trace.visual_tokens != [visual]:
        raise GuardError(
            f"the prompt has {visual} visual tokens, but {trace.visual_tokens} were pruned"
        )
    return AnswerComparison(
        untouched=_median(untouched),
        pruned=_median(pruned),
        trace=trace,
        dims=bound.dims,
        visual_tokens=visual,
        text_tokens=ids.shape[1] - visual,
        element_bytes=loaded.model.dtype.itemsize,
        attention=str(loaded.model.config._attn_implementation),
        repeats=repeats,
    )


def answer(loaded: LoadedModel, inputs: Mapping[str, Tensor], max_new_tokens: int) -> Answer:
    """Generate greedily, on the clock."""
    clock = _Clock()
    start = time.perf_counter()
    with foreign(ModelError, f"model {loaded.name!r} cannot answer"):  # its config may be broken
        output = loaded.model.generate(
            **inputs,
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
            streamer=clock,
        )
    end = time.perf_counter()
    new = output[0, inputs["input_ids"].shape[1] :]
    text = loaded.processor.decode(new, skip_special_tokens=True).strip()
    return Answer(text, len(new), clock.stamps[1] - start, end - start)


class _Clock:
    """A streamer that writes down when tokens arrive: the prompt, then each new one."""

    def __init__(self) -> None:
        self.stamps: list[float] = []

    def put(self, value: object) -> None:
        """Note the time: the tokens are on the host, so the device is done with them."""
        self.stamps.append(time.perf_counter())

    def end(self) -> None:
        """Do nothing: no more tokens arrive."""


def _median(answers: Sequence[Answer]) -> Answer:
    """The answer, with the median of its times; the first one was the warm-up."""
    timed = answers[1:]
    return Answer(
        answers[0].text,
        answers[0].tokens,
        statistics.median(one.first_token for one in timed),
        statistics.median(one.seconds for one in timed),
    )
