"""Attention of text rows to visual tokens, from queries and keys alone.

No attention map is ever made: only the asked query rows are projected and multiplied with the
keys, in float32 (float64 for float64 models), a few rows at a time, whatever the model's backend.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from tokensieve.core.contract.adapter import AdaptedVlm
from tokensieve.core.contract.signals import QueryRows
from tokensieve.core.contract.tensors import at_least_float32, on_device, take_rows
from tokensieve.core.engine.decoder.text import TextRows, query_rows
from tokensieve.core.engine.layout import Layout
from tokensieve.core.engine.reduction import Groups

if TYPE_CHECKING:
    from torch import Tensor

CHUNK_ELEMENTS = 16_000_000  # 64 MB of float32 scores at a time


@dataclass
class LayerAttention:
    """Attention of one decoder layer; implements :class:`~tokensieve.plugin.TextAttention`.

    Attributes:
        hidden: ``[samples, rows, dim]`` hidden states that enter ``layer``.
        cos, sin: rotary embeddings of those rows.
        keys: ``[samples, kv heads, past + rows, head dim]`` after RoPE, or None to compute them.
        past: cached rows in front of these rows.
        key_valid: ``[samples, past + rows]`` bool or None.
    """

    bound: AdaptedVlm
    layer: int
    hidden: Tensor
    cos: Tensor
    sin: Tensor
    keys: Tensor | None
    past_keys: Tensor | None
    key_valid: Tensor | None
    layout: Layout
    groups: Groups

    def received(self, rows: QueryRows | Tensor, *, gravity: bool = False) -> Tensor:
        """Mean over the asked rows of the attention to each visual token.

        Softmax over all keys (system, image and text), causal. ``[batch, heads, tokens]``.
        """
        asked, weights = self._asked(rows)
        groups = self.groups
        owners = [group[0].sample for group in groups.blocks]
        one_each = owners == list(range(len(self.layout.samples)))
        sample = None if one_each else groups.sample
        keys = _of(at_least_float32(self.all_keys()), sample)
        total = None
        step = max(
            1, CHUNK_ELEMENTS // max(1, keys.shape[0] * self.bound.dims.heads * keys.shape[2])
        )
        for start in range(0, asked.shape[1], step):
            span = slice(start, start + step)
            summed = self._attention(asked[:, span], weights[:, span], keys, sample, gravity)
            total = summed if total is None else total + summed
        assert total is not None  # a sample always has a last row
        mean = total / weights.sum(dim=1)[:, None, None]
        columns = groups.rows[:, None].expand(-1, mean.shape[1], -1)
        return mean.gather(2, columns)

    def _asked(self, rows: QueryRows | Tensor) -> tuple[Tensor, Tensor]:
        """Rows that ask ``[batch, rows]`` and their weights, 0 for padding."""
        samples = [group[0].sample for group in self.groups.blocks]
        device = self.hidden.device
        if isinstance(rows, str):
            lists = [query_rows(self.layout, sample, rows) for sample in samples]
            widest = max(map(len, lists))
            padded = on_device([row + [-1] * (widest - len(row)) for row in lists], device)
            return padded.clamp(min=0), (padded >= 0).float()
        text = TextRows.of(self.layout, self.groups)
        weights = at_least_float32(rows).masked_fill(~text.valid, 0)
        last = on_device([query_rows(self.layout, s, "last") for s in samples], device)
        nobody = weights.sum(dim=1, keepdim=True) == 0
        return torch.cat([text.rows, last], dim=1), torch.cat([weights, nobody.float()], dim=1)

    def all_keys(self) -> Tensor:
        """``[samples, kv heads, past + rows, head dim]`` after RoPE."""
        if self.keys is not None:
            return self.keys
        fresh = self.bound.rotate(self.bound.keys(self.layer, self.hidden), self.cos, self.sin)
        if self.past_keys is None or self.past_keys.numel() == 0:
            return fresh
        return torch.cat([self.past_keys.to(fresh.device), fresh], dim=2)

    def _attention(
        self, rows: Tensor, weights: Tensor, keys: Tensor, sample: Tensor | None, gravity: bool
    ) -> Tensor:
        """Weighted sum over ``rows`` of their attention: ``[batch, heads, new rows]``."""
        hidden, cos, sin = (_of(part, sample) for part in (self.hidden, self.cos, self.sin))
        cos, sin = (part.expand(rows.shape[0], -1, -1) for part in (cos, sin))
        row_cos, row_sin = take_rows(cos, rows), take_rows(sin, rows)
        queries = at_least_float32(
            self.bound.rotate(
                self.bound.queries(self.layer, take_rows(hidden, rows)), row_cos, row_sin
            )
        )
        batch, heads, count, width = queries.shape
        kv_heads, length = keys.shape[1], keys.shape[2]
        grouped = queries.reshape(batch, kv_heads, heads // kv_heads * count, width)
        scores = (grouped @ keys.transpose(2, 3)).view(batch, heads, count, length)
        scores *= self.bound.attention_scale(self.layer)
        past = length - self.hidden.shape[1]
        unseen = torch.arange(length, device=keys.device) > (rows + past)[..., None]
        if self.key_valid is not None:
            unseen = unseen | ~_of(self.key_valid, sample)[:, None, :]
        unseen = unseen & (weights > 0)[..., None]  # no empty rows, even where nobody asks
        scores.masked_fill_(unseen[:, None], float("-inf"))
        probabilities = scores.softmax(dim=-1)[..., past:]
        if gravity:
            probabilities = probabilities / self._gravity((row_cos, row_sin), (cos, sin))[:, None]
        return (probabilities * weights[:, None, :, None]).sum(dim=2)

    def _gravity(self, queries: tuple[Tensor, Tensor], keys: tuple[Tensor, Tensor]) -> Tensor:
        """``[batch, rows, new rows]`` product of rotated all-ones vectors over sqrt(width)."""
        turned = []
        for cos, sin in (queries, keys):
            ones = at_least_float32(cos).new_ones(cos.shape[0], 1, *cos.shape[1:])
            turned.append(self.bound.rotate(ones, at_least_float32(cos), at_least_float32(sin)))
        products: Tensor = (turned[0] @ turned[1].transpose(2, 3))[:, 0]
        return products / math.sqrt(turned[0].shape[-1])


def _of(tensor: Tensor, sample: Tensor | None) -> Tensor:
    """Rows of ``tensor`` for the asked samples; None means all of them, in order."""
    if sample is None:
        return tensor
    if tensor.shape[0] == 1:  # rotary embeddings are often shared; one sample may hold all images
        return tensor.expand(sample.shape[0], *tensor.shape[1:])
    return tensor[sample]
