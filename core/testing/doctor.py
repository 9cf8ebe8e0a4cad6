"""Does pruning work here? Tiny random models of each family against the masked oracle.

It checks the installed transformers, torch and device, not the user's weights: a model of four
narrow layers goes through ``generate`` with a pipeline that reads the vision encoder, module
transitions and attention, and every logit has to be that of the same model with the dropped tokens
masked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from tokensieve.core.engine.session import attach
from tokensieve.core.errors import AttachError, TokensieveError
from tokensieve.core.lazy import torch
from tokensieve.core.models.binding import bind
from tokensieve.core.testing.oracle import Conversation, oracle_classes, oracle_logits, turn_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tokensieve.core.contract.adapted import AdaptedEncoder
    from tokensieve.core.contract.adapter import AdaptedVlm, Adapter
    from tokensieve.core.contract.dims import ModelSize
    from tokensieve.core.engine.session import Session

SEED = 20630
SPREAD = 0.15  # of random weights: large enough that every mistake shows
CLOSE = 1e-5  # models are in float64, but eager attention takes its softmax in float32
STEPS = 3
POLICIES = ("keep", "reindex")
BATCHES: dict[str, tuple[tuple[tuple[int, int], ...], ...]] = {
    "one image": (((3, 5),),),
    "two images": (((4, 3), (2, 5)),),
    "padded batch": (((3, 5),), ((6, 2), (3, 4))),
}
"""Samples of a batch; a sample is a row of images with the text tokens before and after each."""


@dataclass(frozen=True)
class Case:
    """A batch that was tried under one policy.

    ``difference`` is the largest one between a logit and the oracle's; None if ``problem`` says
    why there is none.
    """

    family: str
    title: str
    difference: float | None = None
    problem: str = ""

    @property
    def passed(self) -> bool:
        """Whether the pruned model equals the masked one."""
        return self.difference is not None and self.difference <= CLOSE


@dataclass(frozen=True)
class Prompt:
    """A sample, as the family's processor would have made it.

    ``per_token`` are inputs with an entry per token, ``vision`` all others.
    """

    per_token: dict[str, Tensor]
    vision: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class TinyVlm:
    """A tiny model that answers questions: every policy on every batch."""

    adapter: type[Adapter]
    bound: AdaptedVlm
    config: object
    size: ModelSize

    def tries(self) -> Iterator[tuple[str, Callable[[], float]]]:
        """Titles, and functions that give the largest difference to the oracle."""
        for policy in POLICIES:
            for title, samples in BATCHES.items():
                # transformers' own eager masks turn padding into NaN in float64
                if self.bound.attention_backend == "sdpa" or len(samples) == 1:
                    yield f"{policy}, {title}", partial(self._difference, samples, policy)

    def _difference(self, samples: Sequence[Sequence[tuple[int, int]]], policy: str) -> float:
        prompts = [_prompt(self.adapter, self.config, self.size, images) for images in samples]
        return compare(self.bound, prompts, policy)


@dataclass(frozen=True)
class TinyClassifier:
    """A tiny classifier and a batch of pictures: there are no positions and no decoding."""

    adapter: type[Adapter]
    bound: AdaptedEncoder
    pictures: Tensor

    def tries(self) -> Iterator[tuple[str, Callable[[], float]]]:
        """Titles, and functions that give the largest difference to the oracle."""
        yield "batch of pictures", self._difference

    def _difference(self) -> float:
        stages = [{"at": [1, 2], "score": {"scorer": "ttv", "layers": [0, 1]}, "keep": [0.6, 0.4]}]
        model = self.bound.model
        with attach(model, {"name": "doctor", "stages": stages}) as session, torch.no_grad():
            actual = model(self.pictures)
        _check_pruned(session)
        worst = 0.0
        for sample, picture in enumerate(self.pictures):
            kept = {stage.boundary: stage.kept[sample].tolist() for stage in session.trace.stages}
            expected = oracle_classes(self.bound, picture[None], kept)
            worst = max(worst, float((actual[sample] - expected).abs().max()))
        return worst


TinyModel = TinyVlm | TinyClassifier


def prepare(
    adapter: type[Adapter],
    config: object | None = None,
    *,
    device: str = "cpu",
    attention: str = "sdpa",
) -> TinyModel:
    """A family's tiny model, or one of a user's ``config``, shrunk; ready to be tried."""
    if not adapter.answers_questions:
        model, pictures = adapter.check_classifier()
        seen: Any = bind(model.to(device))
        return TinyClassifier(adapter, seen, pictures.to(device))
    size: ModelSize | None = adapter.check_size
    if config is not None:
        config, size = adapter.shrunk(config)
    elif size is not None:
        config = adapter.sized_config(size)
    if size is None:
        raise AttachError(f"adapter {adapter.name} builds no model to be checked")
    bound: Any = bind(random_model(config, device, attention))
    return TinyVlm(adapter, bound, config, size)


def examine(tiny: TinyModel) -> Iterator[Case]:
    """Try everything; whatever goes wrong is a case that failed."""
    for title, difference in tiny.tries():
        try:
            case = Case(tiny.adapter.name, title, difference())
        except Exception as error:
            case = Case(tiny.adapter.name, title, problem=first_line(error))
        yield case


def random_model(config: object, device: str, attention: str) -> nn.Module:
    """A model in eval mode and float64 whose weights are drawn anew."""
    from transformers import AutoModelForImageTextToText

    build: Callable[..., Any] = AutoModelForImageTextToText.from_config
    model = build(config, dtype=torch.float64, attn_implementation=attention)
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1 or bool((parameter == 0).all()):  # norms stay near 1
                drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.copy_(drawn * SPREAD)
    model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = None
    ready: nn.Module = model.to(device).eval()
    return ready


def compare(bound: AdaptedVlm, prompts: Sequence[Prompt], policy: str) -> float:
    """Largest difference between pruned logits, prefill and decoding, and those of the oracle."""
    device = next(bound.model.parameters()).device
    start = max(prompt.per_token["input_ids"].shape[1] for prompt in prompts)
    per_token: dict[str, list[Tensor]] = {}
    for prompt in prompts:  # padded on the left
        ids = prompt.per_token["input_ids"]
        for name, row in {**prompt.per_token, "attention_mask": torch.ones_like(ids)}.items():
            padded = torch.nn.functional.pad(row, (start - row.shape[1], 0))
            per_token.setdefault(name, []).append(padded)
    vision = {name: [prompt.vision[name] for prompt in prompts] for name in prompts[0].vision}
    batch = {name: torch.cat(rows).to(device) for name, rows in {**per_token, **vision}.items()}
    with attach(bound.model, pipeline_for(bound, policy)) as session:
        output = bound.model.generate(
            **batch,
            max_new_tokens=STEPS,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
            suppress_tokens=list(bound.placeholder_ids),
        )
        _check_pruned(session)
    worst = 0.0
    for sample, prompt in enumerate(prompts):
        others = {name: row[0].tolist() for name, row in prompt.per_token.items()}
        tokens = others.pop("input_ids")
        turn = turn_of(session.trace, sample, 0, len(tokens))
        generated = output.sequences[sample, start:-1].tolist()
        pixels = {name: values.to(device) for name, values in prompt.vision.items()}
        conversation = Conversation([*tokens, *generated], pixels, [turn], others)
        expected = oracle_logits(bound, conversation, policy)[-STEPS:]
        actual = torch.stack([step[sample] for step in output.logits])
        difference = (actual - expected).abs().max()
        worst = max(worst, float(difference) if bool(difference.isfinite()) else float("inf"))
    return worst


def pipeline_for(bound: AdaptedVlm, policy: str) -> dict[str, object]:
    """Three boundaries that together read what the model provides."""
    at_entry = {"at": 0, "score": "uniform", "keep": 0.8}
    if "encoder_layers" in bound.provides:
        at_entry["score"] = "cls-attention"
    inside = [{"scorer": "ttv", "normalize": "sum", "layers": [0, 1]}, {"scorer": "iga"}]
    deep = {"at": [1, 2], "score": inside, "keep": [0.6, 0.4]}
    return {"name": "doctor", "positions": policy, "stages": [at_entry, deep]}


def _check_pruned(session: Session) -> None:
    """Refuse a run in which nothing was dropped: it would prove nothing."""
    trace = session.trace
    if not trace.stages or trace.stages[-1].after == trace.visual_tokens:
        raise AttachError("nothing was pruned")


def _prompt(
    adapter: type[Adapter], config: object, size: ModelSize, images: Sequence[tuple[int, int]]
) -> Prompt:
    """The synthetic prompts of single images, one after the other in one sample."""
    parts = [adapter.synthetic_inputs(config, size, text, 1) for text in images]
    ids = parts[0]["input_ids"]
    per_token = {name for name, values in parts[0].items() if values.shape == ids.shape}
    joined: dict[str, Tensor] = {}
    for name, values in parts[0].items():
        others = [part[name] for part in parts]
        if values.is_floating_point():  # no picture is like the other
            others = [(v * 0.9**n).double() for n, v in enumerate(others)]
        joined[name] = torch.cat(others, dim=1 if name in per_token else 0)
    return Prompt(
        {name: values for name, values in joined.items() if name in per_token},
        {name: values for name, values in joined.items() if name not in per_token},
    )


def first_line(error: Exception) -> str:
    """The first line of an error; those that no user can fix keep their name."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text if isinstance(error, TokensieveError) else f"{type(error).__name__}: {text}"
