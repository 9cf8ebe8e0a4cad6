"""Attention masks for reduced rows, in the form the attention backend wants."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tokensieve.core.errors import UnsupportedError

if TYPE_CHECKING:
    from torch import Tensor


def join_valid(
    past: Tensor | None,
    new: Tensor | None,
    batch: int,
    past_rows: int,
    new_rows: int,
    device: torch.device,
) -> Tensor | None:
    """``[batch, past + new]`` bool, or None if every row is real."""
    if past is None and new is None:
        return None
    parts = [
        torch.ones(batch, count, dtype=torch.bool, device=device)
        if part is None
        else part.to(device)
        for part, count in ((past, past_rows), (new, new_rows))
    ]
    return torch.cat(parts, dim=1)


def visible(
    valid: Tensor | None, batch: int, queries: int, keys: int, device: torch.device
) -> Tensor:
    """``[batch, queries, keys]`` bool: causal by row order, real rows only.

    Padding rows see what is real before them, as in the model itself: a later mask may show
    them. One with nothing in front sees itself, so that no row is empty and nothing becomes NaN.
    """
    key = torch.arange(keys, device=device)
    query = torch.arange(keys - queries, keys, device=device)[:, None]
    seen: Tensor = (key <= query).expand(batch, -1, -1)
    if valid is None:
        return seen
    real: Tensor = seen & valid[:, None, :]
    empty = ~real.any(dim=2, keepdim=True)
    return real | ((key == query) & empty)


def differs(
    mask: object, valid: Tensor | None, batch: int, queries: int, keys: int, like: Tensor
) -> Tensor:
    """Whether a mask that the model made is another one than that of ``visible``; bool scalar.

    Models make others: for sequences packed into one sample, for decoders that look ahead. What
    padding sees does not count. None is the backend's own causal rule.
    """
    if mask is None:
        return torch.zeros((), dtype=torch.bool, device=like.device)
    if not isinstance(mask, torch.Tensor) or mask.shape[-2:] != (queries, keys):
        return torch.ones((), dtype=torch.bool, device=like.device)
    seen = mask if mask.dtype == torch.bool else mask == 0
    other = seen != visible(valid, batch, queries, keys, mask.device)[:, None]
    if valid is not None:
        other = other & valid[:, None, -queries:, None].to(mask.device)
    return other.any()


def check_own(odd: Tensor | None) -> None:
    """Refuse a forward whose own mask hides other tokens (see ``differs``)."""
    if odd is not None and bool(odd):
        raise UnsupportedError(
            "the decoder's own mask is not the causal one over the tokens of attention_mask "
            "(position_ids that start again pack several sequences into one sample): run each "
            "sequence as a sample of its own, with its attention_mask"
        )


def layer_mask(
    backend: str, valid: Tensor | None, batch: int, queries: int, keys: int, like: Tensor
) -> Tensor | None:
    """The ``attention_mask`` argument of a decoder layer over reduced rows.

    None where the backend's own causal rule says the same (no padding, square or one query).
    """
    if valid is None and (queries == 1 or (backend == "sdpa" and queries == keys)):
        return None
    seen = visible(valid, batch, queries, keys, like.device)[:, None]
    if backend == "sdpa":
        return seen
    lowest = torch.finfo(like.dtype).min
    return torch.zeros(seen.shape, dtype=like.dtype, device=like.device).masked_fill(~seen, lowest)
