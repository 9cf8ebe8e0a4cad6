"""What the vision encoder of one image says about its tokens, one image and one layer at a time.

Every signal comes out in the order of the decoder's visual tokens: ``features`` are the projected
vectors, ``attention`` is ``[heads, tokens]`` ([CLS] row, or received attention without a [CLS]).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from references.formulas import Array, attention_row, received_attention, rotate_all


@dataclass
class Encoded:
    """One image. VisionZip merges ``inner`` ``[tokens, vision dim]``, the projector's input, and
    compares ``keys`` ``[tokens, head dim]``; ``cls`` is empty where there is none."""

    features: Tensor
    attention: Array
    inner: Array
    keys: Array
    cls: Array
    project: Callable[[Array], Tensor]


def _heads(values: Tensor, heads: int) -> Array:
    return values.reshape(values.shape[0], heads, -1).double().numpy()


def encode_clip(model: Any, pixels: Tensor) -> Encoded:
    """LLaVA: the layer that produces ``hidden_states[vision_feature_layer]``; patches only.

    CLIP: the [CLS] row. SigLIP has no [CLS]: the attention that each patch receives.
    """
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    is_clip = hasattr(tower, "pre_layrnorm")
    embedded = tower.embeddings(pixels)
    states = [tower.pre_layrnorm(embedded) if is_clip else embedded]
    for layer in tower.encoder.layers:
        states.append(layer(states[-1], attention_mask=None))
    chosen = list(range(len(states)))[model.config.vision_feature_layer]
    layer = tower.encoder.layers[chosen - 1]
    normed = layer.layer_norm1(states[chosen - 1])[0]
    heads = layer.self_attn.num_heads
    queries = _heads(layer.self_attn.q_proj(normed), heads)
    keys = _heads(layer.self_attn.k_proj(normed), heads)
    inner, first = states[chosen][0], int(is_clip)
    row = attention_row(queries[0], keys) if is_clip else received_attention(queries, keys)
    return Encoded(
        features=projector(inner[first:]),
        attention=row[:, first:],
        inner=inner[first:].double().numpy(),
        keys=keys[first:].mean(axis=1),
        cls=inner[0].double().numpy() if is_clip else np.empty(0),
        project=lambda vectors: projector(torch.from_numpy(vectors)),
    )


def encode_intern(model: Any, pixels: Tensor) -> Encoded:
    """InternVL, one tile: [CLS] row of the last layer, averaged over what pixel shuffle joins."""
    inside = model.model
    tower = inside.vision_tower
    states = [tower.embeddings(pixels)]
    for layer in tower.encoder.layer:
        states.append(layer(states[-1]))
    chosen = list(range(len(states)))[model.config.vision_feature_layer]
    layer = tower.encoder.layer[chosen - 1]
    attention = layer.attention
    normed = layer.layernorm_before(states[chosen - 1])
    queries = _heads(attention.q_norm(attention.q_proj(normed))[0], attention.num_heads)
    keys = _heads(attention.k_norm(attention.k_proj(normed))[0], attention.num_heads)
    row = attention_row(queries[0], keys)[:, 1:]
    side = int((states[0].shape[1] - 1) ** 0.5)
    numbers = torch.arange(side * side).reshape(1, side, side, 1)
    neighbours = inside.pixel_shuffle(numbers, scale_factor=model.config.downsample_ratio)
    groups = neighbours.reshape(-1, neighbours.shape[-1]).tolist()
    last = tower.layernorm(states[-1]) if chosen == len(states) - 1 else states[chosen]
    grid = last[:, 1:].reshape(1, side, side, -1)
    shuffled = inside.pixel_shuffle(grid, scale_factor=model.config.downsample_ratio)
    inner = shuffled.reshape(len(groups), -1)
    return Encoded(
        features=inside.multi_modal_projector(inner),
        attention=np.stack([row[:, group].mean(axis=1) for group in groups], axis=1),
        inner=inner.double().numpy(),
        keys=np.stack([keys[1:][group].mean(axis=(0, 1)) for group in groups]),
        cls=last[0, 0].double().numpy(),
        project=lambda vectors: inside.multi_modal_projector(torch.from_numpy(vectors)),
    )


def _patch_places(height: int, width: int) -> list[tuple[int, int]]:
    """Row and column of every patch in the order the processor hands them over: 2x2 blocks."""
    return [
        (2 * i + di, 2 * j + dj)
        for i in range(height // 2)
        for j in range(width // 2)
        for di in range(2)
        for dj in range(2)
    ]


def _rope_2d(config: Any, places: list[tuple[int, int]]) -> tuple[Array, Array]:
    """Half of the frequencies turn with the row, half with the column; repeated once."""
    half = config.hidden_size // config.num_heads // 2
    theta = config.rope_parameters["rope_theta"]
    frequencies = 1.0 / theta ** (np.arange(0, half, 2) / half)
    angles = np.array([[*(row * frequencies), *(col * frequencies)] for row, col in places])
    angles = np.concatenate([angles, angles], axis=1)
    return np.cos(angles), np.sin(angles)


def encode_qwen(model: Any, patches: Tensor, height: int, width: int) -> Encoded:
    """Qwen2.5-VL without its permutation: windows become a mask over patches in raster order.

    Attention received in the last block that sees the whole image, mean over queries, then over
    the 2x2 patches of each visual token. ``height`` and ``width`` count patches.
    """
    tower = model.model.visual
    config = tower.config
    places = _patch_places(height, width)
    cos, sin = _rope_2d(config, places)
    window = config.window_size // config.patch_size
    same = [[(a // window, b // window) == (c // window, d // window) for c, d in places]
            for a, b in places]  # fmt: skip
    windows = torch.tensor(same)
    full = max(config.fullatt_block_indexes)
    hidden = tower.patch_embed(patches)
    received, keys = np.empty(0), np.empty(0)
    for number, block in enumerate(tower.blocks):
        qkv = block.attn.qkv(block.norm1(hidden)).reshape(len(places), 3, config.num_heads, -1)
        turned = [rotate_all(qkv[:, part].double().numpy(), cos, sin) for part in (0, 1)]
        if number == full:
            received, keys = received_attention(turned[0], turned[1]), turned[1]
        query, key = (torch.from_numpy(part).transpose(0, 1) for part in turned)
        mask = None if number in config.fullatt_block_indexes else windows
        mixed = torch.nn.functional.scaled_dot_product_attention(
            query, key, qkv[:, 2].transpose(0, 1), attn_mask=mask
        )
        hidden = hidden + block.attn.proj(mixed.transpose(0, 1).reshape(len(places), -1))
        hidden = hidden + block.mlp(block.norm2(hidden))
    groups = np.arange(len(places)).reshape(-1, 4)
    return Encoded(
        features=tower.merger(hidden),
        attention=np.stack([received[:, group].mean(axis=1) for group in groups], axis=1),
        inner=hidden.double().numpy().reshape(len(groups), -1),
        keys=np.stack([keys[group].mean(axis=(0, 1)) for group in groups]),
        cls=np.empty(0),
        project=lambda vectors: tower.merger(
            torch.from_numpy(vectors).reshape(4 * len(vectors), -1)
        ),
    )
