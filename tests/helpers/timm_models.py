"""Small vision transformers of timm with random weights, and the masked oracle for them.

The oracle runs the untouched model on one picture. Nothing is removed: from a boundary on, an
attention mask hides the patches that were dropped there, and the head looks at the survivors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.layers.mlp import SwiGLU
from timm.models.vision_transformer import ParallelScalingBlock, ResPostBlock, VisionTransformer

DEPTH, SIDE, PATCHES, CLASSES = 6, 32, 16, 5
KINDS: dict[str, dict[str, Any]] = {
    "cls": {},
    "registers": {"reg_tokens": 3, "no_embed_class": True, "init_values": 0.5, "qk_norm": True},
    "average": {"global_pool": "avg", "class_token": False},
    "average-cls": {"global_pool": "avg", "pool_include_prefix": True, "mlp_layer": SwiGLU},
    "average-max": {"global_pool": "avgmax", "block_fn": ResPostBlock, "init_values": 0.5},
    "map": {"global_pool": "map", "class_token": False},
    "prr": {"global_pool": "prr"},
    "parallel": {"block_fn": ParallelScalingBlock},
}


def build(kind: str, dtype: torch.dtype = torch.float64, **more: Any) -> Any:
    """A model whose weights are large enough that every mistake shows."""
    torch.manual_seed(20630)
    settings = {**KINDS.get(kind, {}), **more}
    model = VisionTransformer(
        img_size=SIDE,
        patch_size=8,
        embed_dim=32,
        depth=DEPTH,
        num_heads=4,
        num_classes=CLASSES,
        **settings,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    return model.to(dtype).eval()


def pictures(count: int = 3, dtype: torch.dtype = torch.float64, side: int = SIDE) -> torch.Tensor:
    """Noise, every picture another one, whatever the count."""
    drawn = [
        torch.randn(3, side, side, generator=torch.Generator().manual_seed(number))
        for number in range(count)
    ]
    return torch.stack(drawn).to(dtype)


def kept_of(trace: Any, sample: int) -> dict[int, list[int]]:
    """Per boundary, the patches of one picture that stayed."""
    return {stage.boundary: stage.kept[sample].tolist() for stage in trace.stages}


@torch.no_grad()
def oracle_logits(model: Any, picture: torch.Tensor, kept: Mapping[int, Sequence[int]]) -> Any:
    """``[classes]`` logits of the masked, unpruned model on ``picture`` ``[3, side, side]``."""
    hidden = model.norm_pre(model._pos_embed(model.patch_embed(picture[None])))
    prefix, rows = model.num_prefix_tokens, hidden.shape[1]
    seen = torch.ones(rows, dtype=torch.bool)
    for index, block in enumerate([*model.blocks, None]):  # None: the head, behind the last block
        if index in kept:
            seen = torch.zeros(rows, dtype=torch.bool)
            seen[:prefix] = True
            seen[[prefix + patch for patch in kept[index]]] = True
        if block is not None:
            addends = torch.zeros(rows, dtype=hidden.dtype).masked_fill(~seen, float("-inf"))
            hidden = block(hidden, attn_mask=addends[None, None, None])
    return model.forward_head(model.norm(hidden)[:, seen])[0]
