"""Attention for training: plain matrix products in the values' type.

On a CPU the backward pass of the fused kernels takes most of a training step at these sizes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

NAME = "tokensieve-lean"


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **ignored: Any,
) -> tuple[Tensor, None]:
    """``[batch, heads, tokens, width]`` -> ``[batch, tokens, heads, width]``; additive mask."""
    scale = module.scaling if scaling is None else scaling
    with torch.autocast(query.device.type, enabled=False):
        scores = (query * scale).to(value.dtype) @ key.to(value.dtype).transpose(-1, -2)
        if attention_mask is not None:
            scores = scores + attention_mask.to(value.dtype)
        mixed = scores.softmax(dim=-1) @ value
    return mixed.transpose(1, 2).contiguous(), None


def use(model: Any) -> None:
    """Let ``model`` attend this way from now on; a saved model does not know of it."""
    AttentionInterface.register(NAME, attend)
    model.set_attn_implementation(NAME)
