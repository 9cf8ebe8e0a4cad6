"""Does pruning work here? Tiny random models of each family against the masked oracle.

What is checked is the installed transformers, torch and device, not the user's weights: a model of
four narrow layers goes through ``generate`` with a pipeline that reads the vision encoder, module
transitions and attention, and every logit has to be that of the same model with the dropped tokens
masked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tokensieve.core.errors import AttachError, TokensieveError
from tokensieve.core.lazy import torch
from tokensieve.core.session import attach, bind
from tokensieve.core.testing.oracle import Conversation, oracle_classes, oracle_logits, turn_of

if TYPE_CHECKING:
    from torch import Tensor

    from tokensieve.core.adapter import BoundModel
    from tokensieve.core.session import Session
    from tokensieve.core.sizes import ModelSize

SEED = 20630
SPREAD = 0.15  # of random weights: large enough that every mistake shows
CLOSE = 1e-6  # in float64
STEPS = 3
POLICIES = ("keep", "reindex")
BATCHES: dict[str, tuple[tuple[tuple[int, int], ...], ...]] = {
    "one image": (((3, 5),),),
    "two images": (((4, 3), (2, 5)),),
    "padded batch": (((3, 5),), ((6, 2), (3, 4))),
}
"""Samples of a batch; a sample is a row of images with the text tokens before and after each."""
BACKENDS = ("sdpa", "eager")


@dataclass(frozen=True)
class Case:
    """One thing that was tried.

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


def check_family(
    adapter: Any, config: Any = None, *, device: str = "cpu", attention: str = "sdpa"
) -> Iterator[Case]:
    """Every policy on every batch of a family's tiny model, or of ``config`` shrunk."""
    if not adapter.answers_questions:
        yield _classifier_case(adapter, device)
        return
    try:
        config, size = _small(adapter) if config is None else adapter.shrunk(config)
        bound: Any = bind(random_model(config, device, attention))
    except Exception as error:
        yield Case(adapter.name, "model", problem=_first_line(error))
        return
    for policy in POLICIES:
        for title, samples in BATCHES.items():
            if attention == "eager" and len(samples) > 1:
                continue  # transformers' own eager masks turn padding into NaN in float64
            name = f"{policy}, {title}"
            try:
                prompts = [_prompt(adapter, config, size, images) for images in samples]
                difference = compare(bound, prompts, policy)
            except Exception as error:
                yield Case(adapter.name, name, problem=_first_line(error))
            else:
                yield Case(adapter.name, name, difference)


def _small(adapter: Any) -> tuple[Any, ModelSize]:
    size: ModelSize | None = adapter.check_size
    if size is None:
        raise AttachError(f"adapter {adapter.name} builds no model to be checked")
    return adapter.sized_config(size), size


def _classifier_case(adapter: Any, device: str) -> Case:
    """A batch of pictures; there are no positions and no decoding."""
    try:
        model, pictures = adapter.check_classifier()
        model, pictures = model.to(device), pictures.to(device)
        bound: Any = bind(model)
        stages = [{"at": [1, 2], "score": {"scorer": "ttv", "layers": [0, 1]}, "keep": [0.6, 0.4]}]
        with attach(model, {"name": "doctor", "stages": stages}) as session, torch.no_grad():
            actual = model(pictures)
        _check_pruned(session)
        worst = 0.0
        for sample, picture in enumerate(pictures):
            kept = {stage.boundary: stage.kept[sample].tolist() for stage in session.trace.stages}
            expected = oracle_classes(bound, picture[None], kept)
            worst = max(worst, float((actual[sample] - expected).abs().max()))
    except Exception as error:
        return Case(adapter.name, "batch of pictures", problem=_first_line(error))
    return Case(adapter.name, "batch of pictures", worst)


def random_model(config: Any, device: str, attention: str) -> Any:
    """A model in eval mode and float64 whose weights are drawn anew."""
    from transformers import AutoModelForImageTextToText

    build: Any = AutoModelForImageTextToText.from_config
    model = build(config, dtype=torch.float64, attn_implementation=attention)
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1 or bool((parameter == 0).all()):  # norms stay near 1
                drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.copy_(drawn * SPREAD)
    model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = None
    return model.to(device).eval()


def compare(bound: BoundModel, prompts: Sequence[Prompt], policy: str) -> float:
    """Largest difference between pruned logits, prefill and decoding, and those of the oracle."""
    batch, start = _padded(prompts, next(bound.model.parameters()).device)
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
        ids = prompt.per_token["input_ids"][0].tolist()
        generated = output.sequences[sample, start:-1].tolist()
        others = {name: row[0].tolist() for name, row in prompt.per_token.items()}
        del others["input_ids"]
        device = output.sequences.device
        vision = {name: values.to(device) for name, values in prompt.vision.items()}
        turn = turn_of(session.trace, sample, 0, len(ids))
        conversation = Conversation([*ids, *generated], vision, [turn], others)
        expected = oracle_logits(bound, conversation, policy)[-STEPS:]
        actual = torch.stack([step[sample] for step in output.logits])
        difference = (actual - expected).abs().max()
        worst = max(worst, float(difference) if bool(difference.isfinite()) else float("inf"))
    return worst


def pipeline_for(bound: BoundModel, policy: str) -> dict[str, Any]:
    """Three boundaries that together read what the model provides."""
    at_entry = {"at": 0, "score": "uniform", "keep": 0.8}
    if "encoder_layers" in bound.provides:
        at_entry["score"] = "cls-attention"
    inside = [{"scorer": "ttv", "normalize": "sum", "layers": [0, 1]}, {"scorer": "iga"}]
    deep = {"at": [1, 2], "score": inside, "keep": [0.6, 0.4]}
    return {"name": "doctor", "positions": policy, "stages": [at_entry, deep]}


def _check_pruned(session: Session) -> None:
    trace = session.trace
    if not trace.stages or trace.stages[-1].after == trace.visual_tokens:
        raise AttachError("nothing was pruned")


def _prompt(
    adapter: Any, config: Any, size: ModelSize, images: Sequence[tuple[int, int]]
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


def _padded(prompts: Sequence[Prompt], device: torch.device) -> tuple[dict[str, Tensor], int]:
    """All samples in one batch, padded on the left; and the length of its rows."""
    longest = max(prompt.per_token["input_ids"].shape[1] for prompt in prompts)
    masked = [
        {**p.per_token, "attention_mask": torch.ones_like(p.per_token["input_ids"])}
        for p in prompts
    ]
    batch = {name: torch.cat([_left(rows[name], longest) for rows in masked]) for name in masked[0]}
    for name in prompts[0].vision:
        batch[name] = torch.cat([prompt.vision[name] for prompt in prompts])
    return {name: values.to(device) for name, values in batch.items()}, longest


def _left(row: Tensor, length: int) -> Tensor:
    return torch.nn.functional.pad(row, (length - row.shape[1], 0))


def _first_line(error: Exception) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text if isinstance(error, TokensieveError) else f"{type(error).__name__}: {text}"
