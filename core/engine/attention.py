"""Attention of text rows to visual tokens, from queries and keys alone.

No attention map is ever made: only the asked query rows are projected and multiplied with the
keys, in float32 (float64 for float64 models), a few rows at a time, whatever the model's backend.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from tokensieve.core.adapter import BoundModel
from tokensieve.core.engine.layout import Layout
from tokensieve.core.engine.reduction import Groups
from tokensieve.core.view import QueryRows, at_least_float32, on_device

if TYPE_CHECKING:
    from torch import Tensor

CHUNK_ELEMENTS = 16_000_000  # 64 MB of float32 scores at a time


@dataclass
class LayerAttention:
    """Attention of one decoder layer; implements :class:`tokensieve.core.view.TextAttention`.

    Attributes:
        hidden: ``[samples, rows, dim]`` hidden states that enter ``layer``.
        cos, sin: rotary embeddings of those rows.
        keys: ``[samples, kv heads, past + rows, head dim]`` after RoPE, or None to compute them.
        past: cached rows in front of these rows.
        key_valid: ``[samples, past + rows]`` bool or None.
    """

    bound: BoundModel
    layer: int
    hidden: Tensor
    cos: Tensor
    sin: Tensor
    keys: Tensor | None
    past_keys: Tensor | None
    key_valid: Tensor | None
    layout: Layout
    groups: Groups

    def received(self, rows: QueryRows) -> Tensor:
        """Mean over the asked rows of the attention to each visual token.

        Softmax over all keys (system, image and text), causal. ``[batch, heads, tokens]``.
        """
        asked = [
            query_rows(self.layout, sample, rows) for sample in range(len(self.layout.samples))
        ]
        widest = max(len(row) for row in asked)
        padded = on_device([row + [-1] * (widest - len(row)) for row in asked], self.hidden.device)
        keys = at_least_float32(self._keys())
        total = None
        step = max(
            1, CHUNK_ELEMENTS // max(1, keys.shape[0] * self.bound.dims.heads * keys.shape[2])
        )
        for start in range(0, widest, step):
            chunk = padded[:, start : start + step]
            summed = self._attention(chunk, keys)
            total = summed if total is None else total + summed
        assert total is not None  # a sample always has a last row
        counts = on_device([len(row) for row in asked], total.device)
        mean = total / counts[:, None, None]
        return self.groups.take(mean.transpose(1, 2)).transpose(1, 2)

    def _keys(self) -> Tensor:
        if self.keys is not None:
            return self.keys
        fresh = self.bound.rotate(self.bound.keys(self.layer, self.hidden), self.cos, self.sin)
        if self.past_keys is None or self.past_keys.numel() == 0:
            return fresh
        return torch.cat([self.past_keys.to(fresh.device), fresh], dim=2)

    def _attention(self, rows: Tensor, keys: Tensor) -> Tensor:
        """Sum over ``rows`` (-1: none) of their attention: ``[samples, heads, new rows]``."""
        real, index = rows >= 0, rows.clamp(min=0)
        picked = self.hidden.gather(1, index[..., None].expand(*index.shape, self.hidden.shape[-1]))
        cos, sin = (
            part.expand(index.shape[0], -1, -1).gather(
                1, index[..., None].expand(*index.shape, part.shape[-1])
            )
            for part in (self.cos, self.sin)
        )
        queries = at_least_float32(
            self.bound.rotate(self.bound.queries(self.layer, picked), cos, sin)
        )
        samples, heads, count, width = queries.shape
        kv_heads, length = keys.shape[1], keys.shape[2]
        grouped = queries.reshape(samples, kv_heads, heads // kv_heads * count, width)
        scores = (grouped @ keys.transpose(2, 3)).view(samples, heads, count, length)
        scores *= self.bound.attention_scale(self.layer)
        past = length - self.hidden.shape[1]
        hidden_keys = torch.arange(length, device=keys.device) > (index + past)[..., None]
        if self.key_valid is not None:
            hidden_keys = hidden_keys | ~self.key_valid[:, None, :]
        hidden_keys = hidden_keys & real[..., None]  # no empty rows, even where nobody asks
        scores.masked_fill_(hidden_keys[:, None], float("-inf"))
        probabilities = scores.softmax(dim=-1)[..., past:]
        return (probabilities * real[:, None, :, None]).sum(dim=2)


def query_rows(layout: Layout, sample: int, rows: QueryRows) -> list[int]:
    """Rows of a sample that ask: ``last`` prompt token, text ``after-image``, or ``all`` text."""
    text = layout.rows(sample, "text")
    images = layout.rows(sample, "image")
    last = max([*text, *images], default=layout.length - 1)
    if rows == "last":
        return [last]
    if rows == "after-image-text":
        text = [row for row in text if row > max(images, default=-1)]
    return text or [last]
