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
from tokensieve.core.engine.decoder.state import Embeddings
from tokensieve.core.engine.decoder.text import TextRows, query_rows
from tokensieve.core.engine.layout import Layout
from tokensieve.core.engine.reduction import Groups

if TYPE_CHECKING:
    from torch import Tensor

CHUNK_ELEMENTS = 16_000_000  # 64 MB of float32 scores at a time


@dataclass(frozen=True)
class LayerInputs:
    """What a decoder layer computes its attention from, a row for each sample.

    Attributes:
        hidden: ``[samples, rows, dim]`` hidden states that enter the layer.
        angles: rotary embeddings of these rows.
        keys: ``[samples, kv heads, past + rows, head dim]`` after RoPE.
        key_valid: ``[samples, past + rows]`` bool; None if all are real.
    """

    hidden: Tensor
    angles: Embeddings
    keys: Tensor
    key_valid: Tensor | None


class LayerAttention:
    """Attention of one decoder layer; implements :class:`~tokensieve.plugin.TextAttention`.

    Everything is a batch of images from here on: the inputs of the sample that an image is in.
    """

    def __init__(
        self, bound: AdaptedVlm, layer: int, inputs: LayerInputs, layout: Layout, groups: Groups
    ) -> None:
        self._bound = bound
        self._layer = layer
        self._layout = layout
        self._groups = groups
        self._samples = [group[0].sample for group in groups.blocks]
        one_each = self._samples == list(range(len(layout.samples)))

        def per_image(part: Tensor) -> Tensor:
            if part.shape[0] == 1:  # rotary embeddings are often shared; or there is one sample
                return part.expand(len(self._samples), *part.shape[1:])
            return part if one_each else part[groups.sample]

        self._hidden = per_image(inputs.hidden)
        self._cos, self._sin = map(per_image, inputs.angles)
        self._keys = per_image(at_least_float32(inputs.keys))
        self._key_valid = None if inputs.key_valid is None else per_image(inputs.key_valid)
        self._past = self._keys.shape[2] - self._hidden.shape[1]

    def received(self, rows: QueryRows | Tensor, *, gravity: bool = False) -> Tensor:
        """Mean over the asked rows of the attention to each visual token.

        Softmax over all keys (system, image and text), causal. ``[batch, heads, tokens]``.
        """
        layout, device = self._layout, self._hidden.device
        if isinstance(rows, str):
            lists = [query_rows(layout, sample, rows) for sample in self._samples]
            widest = max(map(len, lists))
            padded = on_device([row + [-1] * (widest - len(row)) for row in lists], device)
            asked, weights = padded.clamp(min=0), (padded >= 0).float()
        else:
            text = TextRows.of(layout, self._groups)
            weights = at_least_float32(rows).masked_fill(~text.valid, 0)
            last = on_device([query_rows(layout, s, "last") for s in self._samples], device)
            nobody = weights.sum(dim=1, keepdim=True) == 0
            asked = torch.cat([text.rows, last], dim=1)
            weights = torch.cat([weights, nobody.float()], dim=1)
        batch, _, length, _ = self._keys.shape
        step = max(1, CHUNK_ELEMENTS // max(1, batch * self._bound.dims.heads * length))
        spans = [slice(start, start + step) for start in range(0, asked.shape[1], step)]
        total = self._summed(asked[:, spans[0]], weights[:, spans[0]], gravity)
        for span in spans[1:]:  # a sample always has a last row, so there is a first span
            total = total + self._summed(asked[:, span], weights[:, span], gravity)
        mean = total / weights.sum(dim=1)[:, None, None]
        columns = self._groups.rows[:, None].expand(-1, mean.shape[1], -1)
        return mean.gather(2, columns)

    def _summed(self, rows: Tensor, weights: Tensor, gravity: bool) -> Tensor:
        """Weighted sum of the attention of ``rows`` ``[batch, n]``: ``[batch, heads, new rows]``.

        ``weights`` are 0 for padding.
        """
        bound, keys = self._bound, self._keys
        row_cos, row_sin = take_rows(self._cos, rows), take_rows(self._sin, rows)
        queries = bound.queries(self._layer, take_rows(self._hidden, rows))
        queries = at_least_float32(bound.rotate(queries, row_cos, row_sin))
        batch, heads, count, width = queries.shape
        kv_heads, length = keys.shape[1], keys.shape[2]
        grouped = queries.reshape(batch, kv_heads, heads // kv_heads * count, width)
        scores = (grouped @ keys.transpose(2, 3)).view(batch, heads, count, length)
        scores *= bound.attention_scale(self._layer)
        unseen = torch.arange(length, device=keys.device) > (rows + self._past)[..., None]
        if self._key_valid is not None:
            unseen = unseen | ~self._key_valid[:, None, :]
        unseen = unseen & (weights > 0)[..., None]  # no empty rows, even where nobody asks
        scores.masked_fill_(unseen[:, None], float("-inf"))
        probabilities = scores.softmax(dim=-1)[..., self._past :]
        if gravity:  # product of rotated all-ones vectors over sqrt(width)
            asking, asked = self._turned(row_cos, row_sin), self._turned(self._cos, self._sin)
            pull = (asking @ asked.transpose(2, 3))[:, 0] / math.sqrt(asking.shape[-1])
            probabilities = probabilities / pull[:, None]
        return (probabilities * weights[:, None, :, None]).sum(dim=2)

    def _turned(self, cos: Tensor, sin: Tensor) -> Tensor:
        """``[batch, 1, rows, width]`` rotated all-ones vectors."""
        cos, sin = at_least_float32(cos), at_least_float32(sin)
        return self._bound.rotate(cos.new_ones(cos.shape[0], 1, *cos.shape[1:]), cos, sin)
