"""What the vision encoder of one image says about its tokens, one image and one layer at a time.

Every signal comes out in the order of the decoder's visual tokens: ``features`` are the projected
vectors, ``attention`` is ``[heads, tokens]`` ([CLS] row, or received attention without a [CLS]).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from references.formulas import Array, attention_row, received_attention, rotate_all


@dataclass
class Tower:
    """Inside one run of the encoder: of an image, or of one of its tiles.

    ``layers[l]`` are the queries and keys ``[places, heads, head dim]`` of layer ``l``, the [CLS]
    in front if there is one; ``whole`` are the layers that see the whole image, ``feeding`` is the
    one whose output goes to the projector. Visual token ``t`` covers the patches ``groups[t]``
    (counted without the [CLS]) and stands at row and column ``grid[t]``.
    """

    layers: list[tuple[Array, Array]]
    whole: list[int]
    feeding: int
    has_cls: bool
    groups: list[list[int]]
    grid: list[tuple[int, int]]


def raster(rows: int, columns: int) -> list[tuple[int, int]]:
    return [(row, column) for row in range(rows) for column in range(columns)]


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
    tiles: list[Tower] = field(default_factory=list)


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
    layers = []
    for layer, entering in zip(tower.encoder.layers, states, strict=False):
        normed, heads = layer.layer_norm1(entering)[0], layer.self_attn.num_heads
        projections = layer.self_attn.q_proj(normed), layer.self_attn.k_proj(normed)
        layers.append((_heads(projections[0], heads), _heads(projections[1], heads)))
    queries, keys = layers[chosen - 1]
    inner, first = states[chosen][0], int(is_clip)
    side = int(len(inner[first:]) ** 0.5)
    patches = [[patch] for patch in range(side * side)]
    row = attention_row(queries[0], keys) if is_clip else received_attention(queries, keys)
    return Encoded(
        features=projector(inner[first:]),
        attention=row[:, first:],
        inner=inner[first:].double().numpy(),
        keys=keys[first:].mean(axis=1),
        cls=inner[0].double().numpy() if is_clip else np.empty(0),
        project=lambda vectors: projector(torch.from_numpy(vectors)),
        tiles=[
            Tower(layers, [*range(len(layers))], chosen - 1, is_clip, patches, raster(side, side))
        ],
    )


def encode_intern(model: Any, pixels: Tensor) -> Encoded:
    """InternVL, one tile: [CLS] row of the last layer, averaged over what pixel shuffle joins."""
    inside = model.model
    tower = inside.vision_tower
    states = [tower.embeddings(pixels)]
    for layer in tower.encoder.layer:
        states.append(layer(states[-1]))
    chosen = list(range(len(states)))[model.config.vision_feature_layer]
    layers = []
    for layer, entering in zip(tower.encoder.layer, states, strict=False):
        attention, normed = layer.attention, layer.layernorm_before(entering)
        queries = attention.q_norm(attention.q_proj(normed))[0]
        keys = attention.k_norm(attention.k_proj(normed))[0]
        layers.append((_heads(queries, attention.num_heads), _heads(keys, attention.num_heads)))
    queries, keys = layers[chosen - 1]
    row = attention_row(queries[0], keys)[:, 1:]
    side = int((states[0].shape[1] - 1) ** 0.5)
    numbers = torch.arange(side * side).reshape(1, side, side, 1)
    neighbours = inside.pixel_shuffle(numbers, scale_factor=model.config.downsample_ratio)
    groups = neighbours.reshape(-1, neighbours.shape[-1]).tolist()
    last = tower.layernorm(states[-1]) if chosen == len(states) - 1 else states[chosen]
    grid = last[:, 1:].reshape(1, side, side, -1)
    shuffled = inside.pixel_shuffle(grid, scale_factor=model.config.downsample_ratio)
    inner = shuffled.reshape(len(groups), -1)
    small = int(len(groups) ** 0.5)
    whole, grid = [*range(len(layers))], raster(small, small)
    return Encoded(
        features=inside.multi_modal_projector(inner),
        attention=np.stack([row[:, group].mean(axis=1) for group in groups], axis=1),
        inner=inner.double().numpy(),
        keys=np.stack([keys[1:][group].mean(axis=(0, 1)) for group in groups]),
        cls=last[0, 0].double().numpy(),
        project=lambda vectors: inside.multi_modal_projector(torch.from_numpy(vectors)),
        tiles=[Tower(layers, whole, chosen - 1, True, groups, grid)],
    )


def encode_pixtral(model: Any, pixels: Tensor) -> Encoded:
    """One picture of any size: attention received in the layer that feeds the projector.

    Of a head's pairs, those with an even number turn with the row, the others with the column.
    """
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    config = tower.config
    grid = tower.patch_conv(pixels)[0]
    rows, columns = grid.shape[1:]
    hidden, places = grid.flatten(1).T, raster(rows, columns)
    width = config.hidden_size // config.num_attention_heads
    frequencies = config.rope_parameters["rope_theta"] ** -(np.arange(0, width, 2) / width)
    angles = np.array([[*(r * frequencies[::2]), *(c * frequencies[1::2])] for r, c in places])
    cos, sin = (turn(np.concatenate([angles, angles], axis=1)) for turn in (np.cos, np.sin))
    hidden = tower.ln_pre(hidden)
    states, layers = [hidden], []
    for layer in tower.transformer.layers:
        attention, normed = layer.attention, layer.attention_norm(hidden)
        projected = [attention.q_proj(normed), attention.k_proj(normed), attention.v_proj(normed)]
        query, key, value = (_heads(part, config.num_attention_heads) for part in projected)
        query, key = (rotate_all(part, cos, sin) for part in (query, key))
        layers.append((query, key))
        inside = (torch.from_numpy(part).transpose(0, 1) for part in (query, key, value))
        mixed = torch.nn.functional.scaled_dot_product_attention(*inside)
        hidden = hidden + attention.o_proj(mixed.transpose(0, 1).flatten(1))
        hidden = hidden + layer.feed_forward(layer.ffn_norm(hidden))
        states.append(hidden)
    chosen = list(range(len(states)))[model.config.vision_feature_layer]
    queries, keys = layers[chosen - 1]
    patches = [[patch] for patch in range(len(places))]
    return Encoded(
        features=projector(states[chosen]),
        attention=received_attention(queries, keys),
        inner=states[chosen].double().numpy(),
        keys=keys.mean(axis=1),
        cls=np.empty(0),
        project=lambda vectors: projector(torch.from_numpy(vectors)),
        tiles=[Tower(layers, [*range(len(layers))], chosen - 1, False, patches, places)],
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
    layers = []
    for number, block in enumerate(tower.blocks):
        qkv = block.attn.qkv(block.norm1(hidden)).reshape(len(places), 3, config.num_heads, -1)
        turned = [rotate_all(qkv[:, part].double().numpy(), cos, sin) for part in (0, 1)]
        layers.append((turned[0], turned[1]))
        query, key = (torch.from_numpy(part).transpose(0, 1) for part in turned)
        mask = None if number in config.fullatt_block_indexes else windows
        mixed = torch.nn.functional.scaled_dot_product_attention(
            query, key, qkv[:, 2].transpose(0, 1), attn_mask=mask
        )
        hidden = hidden + block.attn.proj(mixed.transpose(0, 1).reshape(len(places), -1))
        hidden = hidden + block.mlp(block.norm2(hidden))
    groups = np.arange(len(places)).reshape(-1, 4)
    received, keys = received_attention(*layers[full]), layers[full][1]
    whole, grid = [*config.fullatt_block_indexes], raster(height // 2, width // 2)
    return Encoded(
        features=tower.merger(hidden),
        attention=np.stack([received[:, group].mean(axis=1) for group in groups], axis=1),
        inner=hidden.double().numpy().reshape(len(groups), -1),
        keys=np.stack([keys[group].mean(axis=(0, 1)) for group in groups]),
        cls=np.empty(0),
        project=lambda vectors: tower.merger(
            torch.from_numpy(vectors).reshape(4 * len(vectors), -1)
        ),
        tiles=[Tower(layers, whole, full, False, groups.tolist(), grid)],
    )
