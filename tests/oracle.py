"""The masked oracle: what "pruned" has to equal.

The untouched model runs on the whole conversation, one sample at a time, without a cache and
without padding. Nothing is removed: in every decoder layer a mask hides the tokens that were
dropped at or before its boundary, and under ``reindex`` the layer's positions count only the
tokens that are left. A stage that puts tokens into another order changes who comes before whom: in
the causal mask and, under ``reindex``, in the positions. Written without the engine's code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from tiny_models import IMAGE, Prompt, inputs


@dataclass
class Turn:
    """Tokens ``start .. end`` that went through the model as one prefill, and what it dropped.

    ``kept[boundary]`` are indices among the visual tokens of this turn, in their new order.
    """

    start: int
    end: int
    kept: dict[int, list[int]] = field(default_factory=dict)


@dataclass
class Conversation:
    """A sample as the oracle runs it: ids, vision inputs, and its turns."""

    ids: list[int]
    vision: dict[str, Any]
    turns: list[Turn]


def single(family: str, prompt: Prompt, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """The prompt alone, as model inputs."""
    return inputs(family, [prompt], dtype=dtype)


def turn_of(trace: Any, sample: int, start: int, length: int) -> Turn:
    """The turn that the trace of a session reports for one sample."""
    kept = {stage.boundary: stage.order[sample].tolist() for stage in trace.stages}
    return Turn(start, start + length, kept)


def hidden_columns(conversation: Conversation, layer: int) -> torch.Tensor:
    """``[tokens]`` bool: True for the tokens that layer ``layer`` must not see."""
    ids = torch.tensor(conversation.ids)
    hidden = torch.zeros(len(ids), dtype=torch.bool)
    for turn in conversation.turns:
        columns = [i for i in range(turn.start, turn.end) if ids[i] == IMAGE]
        for boundary, kept in turn.kept.items():
            if boundary <= layer:
                stay = {columns[k] for k in kept}
                hidden[[c for c in columns if c not in stay]] = True
    return hidden


def ranks(conversation: Conversation, layer: int) -> torch.Tensor:
    """``[tokens]`` the place in the sequence at which each token stands in ``layer``."""
    ids = torch.tensor(conversation.ids)
    rank = torch.arange(len(ids))
    for turn in conversation.turns:
        columns = [i for i in range(turn.start, turn.end) if ids[i] == IMAGE]
        for boundary, kept in sorted(turn.kept.items()):
            if boundary <= layer:
                places = sorted(columns[k] for k in kept)
                rank[[columns[k] for k in kept]] = torch.tensor(places, dtype=torch.long)
    return rank


def layer_positions(
    conversation: Conversation,
    positions: torch.Tensor,
    hidden: torch.Tensor,
    rank: torch.Tensor,
) -> torch.Tensor:
    """``[axes, tokens]`` ids under the reindex policy, turn by turn."""
    result, shift = positions.clone(), 0
    spans = [(turn.start, turn.end) for turn in conversation.turns]
    prefilled = {i for start, end in spans for i in range(start, end)}
    decoded = [(i, i + 1) for i in range(len(conversation.ids)) if i not in prefilled]
    for start, end in sorted([*spans, *decoded]):
        rows = [i for i in range(start, end) if not hidden[i]]
        rows.sort(key=lambda row: int(rank[row]))
        moved = positions[:, rows] - shift
        if len(rows) < end - start:
            first = int(positions[:, min(rows)].min()) - shift
            moved = first + torch.arange(len(rows)).expand_as(moved)
        result[:, rows] = moved
        shift = int(positions[:, start:end].max()) - int(moved.max())
    return result


def model_positions(model: Any, family: str, conversation: Conversation) -> torch.Tensor:
    """``[axes, tokens]`` position ids that the untouched model would use."""
    ids = torch.tensor([conversation.ids])
    if family != "qwen-vl":
        return torch.arange(ids.shape[1])[None]
    positions, _ = model.model.get_rope_index(
        ids,
        mm_token_type_ids=(ids == IMAGE).int(),
        image_grid_thw=conversation.vision.get("image_grid_thw"),
    )
    return positions[:, 0]


def oracle_logits(model: Any, family: str, conversation: Conversation, policy: str) -> torch.Tensor:
    """``[tokens, vocabulary]`` logits of the masked, unpruned model."""
    positions = model_positions(model, family, conversation)
    handles = []
    decoder = model.model.language_model
    eager = decoder.config._attn_implementation == "eager"

    def hook(layer: int) -> Any:
        hidden = hidden_columns(conversation, layer)
        rank, moved = ranks(conversation, layer), positions
        if policy == "reindex":
            moved = layer_positions(conversation, positions, hidden, rank)

        def substitute(module: Any, args: Any, kwargs: Any) -> Any:
            count = len(conversation.ids)
            seen = (rank[None] <= rank[:, None]) & ~hidden
            seen |= torch.eye(count, dtype=torch.bool)
            mask: torch.Tensor = seen[None, None]
            if eager:
                lowest = torch.finfo(args[0].dtype).min
                mask = torch.zeros(seen.shape, dtype=args[0].dtype).masked_fill(~seen, lowest)[
                    None, None
                ]
            ids = moved[:, None] if family == "qwen-vl" else moved
            angles = decoder.rotary_emb.forward(args[0], ids)
            return args, {**kwargs, "attention_mask": mask, "position_embeddings": angles}

        return substitute

    for index, layer in enumerate(decoder.layers):
        handles.append(layer.register_forward_pre_hook(hook(index), with_kwargs=True))
    try:
        ids = torch.tensor([conversation.ids])
        extra = {"mm_token_type_ids": (ids == IMAGE).int()} if family == "qwen-vl" else {}
        with torch.no_grad():
            output = model(input_ids=ids, use_cache=False, **conversation.vision, **extra)
    finally:
        for handle in handles:
            handle.remove()
    logits: torch.Tensor = output.logits[0]
    return logits


def vision_inputs(batch: dict[str, Any]) -> dict[str, Any]:
    """The vision part of model inputs."""
    return {k: v for k, v in batch.items() if k in ("pixel_values", "image_grid_thw")}


def conversation_of(
    family: str,
    prompt: Prompt,
    trace: Any,
    sample: int,
    generated: Sequence[int] = (),
    dtype: torch.dtype = torch.float64,
) -> Conversation:
    """One prefill and the tokens decoded after it."""
    alone = single(family, prompt, dtype)
    ids = alone["input_ids"][0].tolist()
    turn = turn_of(trace, sample, 0, len(ids))
    return Conversation([*ids, *generated], vision_inputs(alone), [turn])
