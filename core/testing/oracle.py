"""The masked oracle: what "pruned" has to equal.

The untouched model runs on the whole conversation, one sample at a time, without a cache and
without padding. Nothing is removed: in every decoder layer a mask hides the tokens that were
dropped at or before its boundary, and under ``reindex`` the layer's positions count only the
tokens that are left. A stage that puts tokens into another order changes who comes before whom: in
the causal mask and, under ``reindex``, in the positions. Written without the engine's code, and
without a word about any model family: positions are those that the model itself computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tokensieve.core.errors import UnsupportedError
from tokensieve.core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from tokensieve.core.contract.adapted import AdaptedEncoder
    from tokensieve.core.contract.adapter import AdaptedVlm
    from tokensieve.core.engine.trace import Trace

REPLACED = ("attention_mask", "position_embeddings")


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
    """A sample as the oracle runs it: its tokens, what else the model takes, and its turns.

    ``vision`` are the model's inputs besides the tokens: pixels and what describes them;
    ``per_token`` those with an entry per token, 0 for tokens that come after.
    """

    ids: list[int]
    vision: Mapping[str, Any]
    turns: list[Turn]
    per_token: Mapping[str, list[int]] = field(default_factory=dict)


def turn_of(trace: Trace, sample: int, start: int, length: int) -> Turn:
    """The turn that the trace of a session reports for one sample."""
    kept = {stage.boundary: stage.order[sample].tolist() for stage in trace.stages}
    return Turn(start, start + length, kept)


def oracle_logits(bound: AdaptedVlm, conversation: Conversation, policy: str) -> Tensor:
    """``[tokens, vocabulary]`` logits of the masked, unpruned model under a position policy.

    Raises:
        UnsupportedError: this version of the model cannot be masked layer by layer.
    """
    positions = _untouched_positions(bound, conversation) if policy == "reindex" else None
    handles = [
        layer.register_forward_pre_hook(
            _substitution(bound, conversation, index, positions), with_kwargs=True
        )
        for index, layer in enumerate(bound.layers)
    ]
    with _removed(handles):
        logits: Tensor = _forward(bound, conversation).logits[0]
    return logits


def oracle_classes(bound: AdaptedEncoder, picture: Tensor, kept: Mapping[int, list[int]]) -> Tensor:
    """``[classes]`` logits of the masked, unpruned encoder on ``picture`` ``[1, ...]``.

    Raises:
        UnsupportedError: its blocks take no mask, or its head looks at patches.
    """
    if bound.mask_argument is None or not bound.has_cls:
        raise UnsupportedError("the oracle needs blocks that take a mask, and a head on [CLS]")
    rows, columns = bound.grid(picture)
    seen = torch.ones(bound.prefix + rows * columns, dtype=torch.bool)
    handles = []
    for index, block in enumerate(bound.layers):
        if index in kept:
            seen = torch.arange(len(seen)) < bound.prefix
            seen[[bound.prefix + patch for patch in kept[index]]] = True
        hide = torch.zeros(len(seen), dtype=picture.dtype).masked_fill(~seen, float("-inf"))
        mask = {bound.mask_argument: hide[None, None, None].to(picture.device)}

        def substitute(module: Any, args: Any, kwargs: Any, mask: Any = mask) -> Any:
            return args, {**kwargs, **mask}

        handles.append(block.register_forward_pre_hook(substitute, with_kwargs=True))
    with _removed(handles), torch.no_grad():
        output = bound.model(picture)
    logits: Tensor = getattr(output, "logits", output)[0]
    return logits


def _forward(bound: AdaptedVlm, conversation: Conversation) -> Any:
    device = next(bound.model.parameters()).device
    ids = torch.tensor([conversation.ids], device=device)
    aligned = {
        name: torch.tensor([[*row, *[0] * (len(conversation.ids) - len(row))]], device=device)
        for name, row in conversation.per_token.items()
    }
    with torch.no_grad():
        return bound.model(input_ids=ids, use_cache=False, **conversation.vision, **aligned)


def _untouched_positions(bound: AdaptedVlm, conversation: Conversation) -> Tensor:
    """``[axes, tokens]`` position ids that the untouched model gives its tokens."""
    seen: list[Tensor] = []

    def look(module: Any, args: Any, kwargs: Any) -> None:
        seen.append(kwargs["position_ids"] if "position_ids" in kwargs else args[1])

    with _removed([bound.rotary.register_forward_pre_hook(look, with_kwargs=True)]):
        _forward(bound, conversation)
    if len(seen) != 1:
        raise UnsupportedError(f"the oracle saw {len(seen)} sets of positions where one is made")
    (ids,) = seen
    return ids.reshape(-1, ids.shape[-1]) if bound.mrope else ids


def _substitution(
    bound: AdaptedVlm, conversation: Conversation, index: int, positions: Tensor | None
) -> Callable[..., Any]:
    """A hook that hides the dropped tokens from one layer, and moves the others."""
    visual = [token in bound.placeholder_ids for token in conversation.ids]
    hidden = hidden_columns(conversation, visual, index)
    rank = ranks(conversation, visual, index)
    moved = None if positions is None else layer_positions(conversation, positions, hidden, rank)

    def substitute(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        missing = [name for name in REPLACED if name not in kwargs]
        if missing:
            raise UnsupportedError(f"the oracle finds no {missing[0]} of {type(module).__name__}")
        states = args[0]
        seen = (rank[None] <= rank[:, None]) & ~hidden
        seen |= torch.eye(len(hidden), dtype=torch.bool)
        mask = seen[None, None].to(states.device)
        if bound.attention_backend == "eager":
            lowest = torch.finfo(states.dtype).min
            mask = torch.zeros(mask.shape, dtype=states.dtype, device=states.device).masked_fill(
                ~mask, lowest
            )
        replaced = {**kwargs, "attention_mask": mask}
        if moved is not None:
            ids = (moved[:, None] if bound.mrope else moved).to(states.device)
            replaced["position_embeddings"] = bound.rotary.forward(states, ids)
        return args, replaced

    return substitute


def hidden_columns(conversation: Conversation, visual: list[bool], layer: int) -> Tensor:
    """``[tokens]`` bool: True for the tokens that layer ``layer`` must not see."""
    hidden = torch.zeros(len(visual), dtype=torch.bool)
    for turn in conversation.turns:
        columns = [i for i in range(turn.start, turn.end) if visual[i]]
        for boundary, kept in turn.kept.items():
            if boundary <= layer:
                stay = {columns[k] for k in kept}
                hidden[[c for c in columns if c not in stay]] = True
    return hidden


def ranks(conversation: Conversation, visual: list[bool], layer: int) -> Tensor:
    """``[tokens]`` the place in the sequence at which each token stands in ``layer``."""
    rank = torch.arange(len(visual))
    for turn in conversation.turns:
        columns = [i for i in range(turn.start, turn.end) if visual[i]]
        for boundary, kept in sorted(turn.kept.items()):
            if boundary <= layer:
                places = sorted(columns[k] for k in kept)
                rank[[columns[k] for k in kept]] = torch.tensor(places, dtype=torch.long)
    return rank


def layer_positions(
    conversation: Conversation, positions: Tensor, hidden: Tensor, rank: Tensor
) -> Tensor:
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
            moved = first + torch.arange(len(rows), device=moved.device).expand_as(moved)
        result[:, rows] = moved
        shift = int(positions[:, start:end].max()) - int(moved.max())
    return result


@contextmanager
def _removed(handles: list[Any]) -> Iterator[None]:
    """Take the hooks away again, however the block ends."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
