"""Capturing how much a module of a layer changes each token."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.hooks import RemovableHandle

from tokensieve.core.contract.adapted import Branch
from tokensieve.core.contract.signature import Signature
from tokensieve.core.contract.tensors import at_least_float32
from tokensieve.core.engine.state import ForwardState, RecordedTransition
from tokensieve.core.engine.timing import Timer

if TYPE_CHECKING:
    from torch import Tensor, nn


def watch(
    layer: int, branch: Branch, current: Callable[[], ForwardState | None], timer: Timer
) -> list[RemovableHandle]:
    """Hooks that record the transition of every token of a prefill; return their handles.

    The transition goes from the input of the branch's first module to the output of its last one.
    """
    kind, entry, last = branch
    call = Signature.of(entry)

    def enter(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        state = current()
        if state is not None and state.rows is not None:
            state.captures.entered[layer, kind] = call.first(args, kwargs)

    def leave(
        _: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: Any
    ) -> None:
        state = current()
        if state is None or state.rows is None or (layer, kind) not in state.captures.entered:
            return
        before = state.captures.entered.pop((layer, kind))
        after: Tensor = output[0] if isinstance(output, tuple) else output
        with timer.measured(), torch.no_grad():
            magnitude, cosine = change(before, after)
        valid, device = state.rows.valid, before.device
        real = torch.ones_like(magnitude, dtype=torch.bool) if valid is None else valid.to(device)
        seen = RecordedTransition(layer, kind, magnitude, cosine, real)
        state.captures.transitions.append(seen)
        state.rows = state.rows.marking(seen.places, device)

    return [
        entry.register_forward_pre_hook(enter, with_kwargs=True),
        last.register_forward_hook(leave, with_kwargs=True),
    ]


CPU_ROWS = 64  # the products of so many rows stay in a core's cache


def change(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Change of length and direction, each ``[batch, rows]``: ``|after| / |before|``, cosine."""
    before, after = at_least_float32(before), at_least_float32(after)
    length_before, length_after = before.norm(dim=-1), after.norm(dim=-1)
    tiny = torch.finfo(before.dtype).tiny
    # row by row: the product of two whole sequences would go through the main memory twice
    step = CPU_ROWS if before.device.type == "cpu" else before.shape[1]
    spans = [slice(start, start + step) for start in range(0, before.shape[1], step)]
    dot = torch.cat([(before[:, span] * after[:, span]).sum(dim=-1) for span in spans], dim=1)
    cosine = dot / (length_before * length_after).clamp(min=tiny)
    return length_after / length_before.clamp(min=tiny), cosine
