"""Attention inside a block of an encoder that has run, from its queries and keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokensieve.core.contract.encoder_attention import (
    joined_heads,
    paid_attention,
    received_attention,
)
from tokensieve.core.contract.signals import EncoderAttention, QueryRows
from tokensieve.core.contract.tensors import at_least_float32
from tokensieve.core.errors import SignalError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class BlockAttention:
    """Implements :class:`tokensieve.core.contract.signals.EncoderLayer` and ``TextAttention``.

    As a ``TextAttention`` its one row that asks is the [CLS], for which the head speaks; in an
    encoder without [CLS] every row asks.

    Attributes:
        all_queries, all_keys: ``[samples, heads, rows, head dim]``.
        mask: what the block was given: ``[samples, 1, 1, rows]`` addends; None for nothing.
        valid: ``[samples, rows]`` bool, rows that are no filler; None if none is.
        cls: ``[samples]`` row of the [CLS]; None if there is none.
        pick: ``[samples, rows, n]`` -> ``[batch, tokens, n]`` at today's tokens.
    """

    all_queries: Tensor
    all_keys: Tensor
    scale: float
    mask: Tensor | None
    valid: Tensor | None
    cls: Tensor | None
    pick: Callable[[Tensor], Tensor]

    def attention(self, kind: EncoderAttention = "auto", *, joined: bool = False) -> Tensor:
        """``[batch, tokens, heads]``; the softmax counts prefix rows, whose columns are cut off."""
        parts = [at_least_float32(part) for part in (self.all_queries, self.all_keys)]
        queries, keys = map(joined_heads, parts) if joined else parts
        scale = keys.shape[-1] ** -0.5 if joined else self.scale
        if kind != "received" and self.cls is not None:
            rows = self.cls[:, None, None, None].expand(-1, queries.shape[1], 1, queries.shape[3])
            received = paid_attention(queries.gather(2, rows), keys, scale, self.mask)[:, :, 0]
        else:
            received = received_attention(queries, keys, scale, self.mask, self.valid)
        return self.pick(received.transpose(1, 2))

    def keys(self, *, joined: bool = False) -> Tensor:
        """``[batch, tokens, head dim]``, or the full width."""
        return self.pick(joined_heads(self.all_keys)[:, 0] if joined else self.all_keys.mean(dim=1))

    def received(self, rows: QueryRows | Tensor, *, gravity: bool = False) -> Tensor:
        """``[batch, heads, tokens]``, whatever rows are named: there is one that asks."""
        if gravity or not isinstance(rows, str):
            raise SignalError("an encoder has neither rotary positions nor text to be weighed")
        return self.attention().transpose(1, 2)
