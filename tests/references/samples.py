"""From a prompt and its encoded images to the sequence that enters the slow decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from references import formulas
from references.forward import SEPARATOR, Rows
from references.vision import Encoded, encode_clip, encode_intern, encode_pixtral, encode_qwen


def encode(model: Any, inputs: dict[str, Any]) -> list[Encoded]:
    """The images of one sample, in the order of the prompt; tiles of an image are put together."""
    if "pixel_values" not in inputs:
        return []
    if model.config.model_type == "qwen2_5_vl":
        start, images = 0, []
        for frames, height, width in inputs["image_grid_thw"].tolist():
            stop = start + frames * height * width
            images.append(encode_qwen(model, inputs["pixel_values"][start:stop], height, width))
            start = stop
        return images
    if "image_sizes" in inputs:
        sizes = inputs["image_sizes"].tolist()
        pictures = zip(inputs["pixel_values"], sizes, strict=True)
        return [encode_pixtral(model, each[None, :, :h, :w]) for each, (h, w) in pictures]
    single = encode_clip if model.config.model_type == "llava" else encode_intern
    parts = [single(model, pixels[None]) for pixels in inputs["pixel_values"]]
    images = []
    for tokens in _runs_of_image_tokens(model, inputs["input_ids"][0].tolist()):
        tiles = [parts.pop(0)]
        while sum(len(tile.features) for tile in tiles) < tokens:
            tiles.append(parts.pop(0))
        images.append(_together(tiles))
    return images


def _together(tiles: list[Encoded]) -> Encoded:
    return Encoded(
        features=torch.cat([tile.features for tile in tiles]),
        attention=np.concatenate([tile.attention for tile in tiles], axis=1),
        inner=np.concatenate([tile.inner for tile in tiles]),
        keys=np.concatenate([tile.keys for tile in tiles]),
        cls=tiles[0].cls,
        project=tiles[0].project,
        tiles=[tower for tile in tiles for tower in tile.tiles],
    )


def _runs_of_image_tokens(model: Any, ids: list[int]) -> list[int]:
    """Lengths of the uninterrupted runs of image tokens: one run is one image."""
    runs: list[int] = []
    for row, token in enumerate(ids):
        if token == model.config.image_token_id:
            if row and ids[row - 1] == token:
                runs[-1] += 1
            else:
                runs.append(1)
    return runs


def mrope_positions(ids: list[int], image_token: int, grids: list[tuple[int, int]]) -> Tensor:
    """Qwen2.5-VL: text counts on all three axes; an image spans a grid after the text before it.

    ``grids`` are (height, width) in visual tokens. The text after an image goes on from the
    largest position so far plus one. Returns ``[3, rows]``.
    """
    places: list[tuple[int, int, int]] = []
    row, image = 0, 0
    while row < len(ids):
        start = max((max(place) for place in places), default=-1) + 1
        if ids[row] == image_token:
            height, width = grids[image]
            places += [(start, start + i, start + j) for i in range(height) for j in range(width)]
            row, image = row + height * width, image + 1
        else:
            places.append((start, start, start))
            row += 1
    return torch.tensor(places).T


def sequence(model: Any, inputs: dict[str, Any], images: Sequence[Encoded]) -> Rows:
    """Text embeddings with the images' projected features in their places."""
    ids = inputs["input_ids"][0].tolist()
    embeddings = model.model.language_model.embed_tokens(inputs["input_ids"])[0]
    token = model.config.image_token_id
    owner: list[int | None] = [None] * len(ids)
    visual: list[int | None] = [None] * len(ids)
    where = [row for row, one in enumerate(ids) if one == token]
    waiting = list(where)
    for number, image in enumerate(images):
        columns, waiting = waiting[: len(image.features)], waiting[len(image.features) :]
        for row in range(columns[0], columns[-1]):
            owner[row] = SEPARATOR
        for row in columns:
            owner[row], visual[row] = number, where.index(row)
    hidden = embeddings.clone()
    features = [image.features for image in images]
    if features:
        hidden[where] = torch.cat(features)
    return Rows(hidden, _positions(model, inputs, ids), owner, visual)


def _positions(model: Any, inputs: dict[str, Any], ids: list[int]) -> Tensor:
    if model.config.model_type != "qwen2_5_vl":
        return torch.arange(len(ids))
    sizes = inputs["image_grid_thw"].tolist() if "image_grid_thw" in inputs else []
    grids = [(height // 2, width // 2) for _, height, width in sizes]
    return mrope_positions(ids, model.config.image_token_id, grids)


@dataclass
class Zip:
    """How many patches of an image stay, into how many vectors the others are merged, and how."""

    dominant: int
    contextual: int
    rule: str = "target_plus_mean"
    cls: bool = True


def reduced_by_visionzip(
    rows: Rows, images: Sequence[Encoded], how: Zip, *, reindex: bool = True
) -> tuple[Rows, list[int]]:
    """Every image becomes [CLS], the dominant patches in raster order, the merged vectors.

    Returns the sequence that enters decoder layer 0, and the original visual tokens that stand in
    it (dominant patches and targets), ascending. Without ``reindex`` a vector keeps the position
    of its patch or target.
    """
    hidden, positions, owner, visual = [], [], [], []
    row = 0
    while row < len(rows.image):
        image = rows.image[row]
        if image is None:
            hidden.append(rows.hidden[row : row + 1])
            positions.append(rows.positions[..., row])
            owner.append(None)
            visual.append(None)
            row += 1
            continue
        columns, encoded = rows.columns(image), images[image]
        kept, groups = formulas.visionzip_plan(
            encoded.attention.sum(axis=0), encoded.keys, how.dominant, how.contextual
        )
        vectors = [encoded.inner[kept], formulas.visionzip_merge(encoded.inner, groups, how.rule)]
        anchors = [*kept, *groups]
        if how.cls:
            vectors.insert(0, encoded.cls[None])
            positions.append(rows.positions[..., row])  # only read when positions are renumbered
            owner.append(image)
            visual.append(-1)
        hidden.append(encoded.project(np.concatenate(vectors)))
        positions += [rows.positions[..., columns[anchor]] for anchor in anchors]
        owner += [image] * len(anchors)
        visual += [rows.visual[columns[anchor]] for anchor in anchors]
        row = columns[-1] + 1
    vectors = torch.cat(hidden)
    places = torch.arange(len(vectors)) if reindex else torch.stack(positions, dim=-1)
    standing = sorted(token for token in visual if token is not None and token >= 0)
    return Rows(vectors, places, owner, visual), standing
