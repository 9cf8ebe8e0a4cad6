"""From a prompt and its encoded images to the sequence that enters the slow decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from references import formulas
from references.forward import Rows
from references.vision import Encoded, encode_clip, encode_intern, encode_qwen
from torch import Tensor


def encode(model: Any, inputs: dict[str, Any]) -> list[list[Encoded]]:
    """The images of one sample; each is a list of encoder runs (InternVL: one per tile)."""
    kind = model.config.model_type
    if "pixel_values" not in inputs:
        return []
    if kind == "qwen2_5_vl":
        start, images = 0, []
        for frames, height, width in inputs["image_grid_thw"].tolist():
            stop = start + frames * height * width
            images.append([encode_qwen(model, inputs["pixel_values"][start:stop], height, width)])
            start = stop
        return images
    single = encode_clip if kind == "llava" else encode_intern
    runs = [single(model, pixels[None]) for pixels in inputs["pixel_values"]]
    images, start = [], 0
    for count in _runs_of_image_tokens(model, inputs["input_ids"][0].tolist()):
        taken, images_so_far = 0, []
        while taken < count:
            images_so_far.append(runs[start])
            taken += len(runs[start].features)
            start += 1
        images.append(images_so_far)
    return images


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


def sequence(model: Any, inputs: dict[str, Any], images: list[list[Encoded]]) -> Rows:
    """Text embeddings with the images' projected features in their places."""
    ids = inputs["input_ids"][0].tolist()
    embeddings = model.model.language_model.embed_tokens(inputs["input_ids"])[0]
    token = model.config.image_token_id
    owner: list[int | None] = []
    visual: list[int | None] = []
    number, seen = -1, 0
    for row, one in enumerate(ids):
        if one != token:
            owner.append(None)
            visual.append(None)
            continue
        number += row == 0 or ids[row - 1] != token
        owner.append(number)
        visual.append(seen)
        seen += 1
    hidden = embeddings.clone()
    features = [part.features for image in images for part in image]
    where = [row for row, image in enumerate(owner) if image is not None]
    if features:
        hidden[where] = torch.cat(features)
    return Rows(hidden, _positions(model, inputs, ids), owner, visual)


def _positions(model: Any, inputs: dict[str, Any], ids: list[int]) -> Tensor:
    if model.config.model_type != "qwen2_5_vl":
        return torch.arange(len(ids))
    sizes = inputs["image_grid_thw"].tolist() if "image_grid_thw" in inputs else []
    grids = [(height // 2, width // 2) for _, height, width in sizes]
    return mrope_positions(ids, model.config.image_token_id, grids)


def reduced_by_visionzip(
    rows: Rows, encoded: Encoded, dominant: int, contextual: int, rule: str
) -> tuple[Rows, list[int]]:
    """LLaVA with one image: [CLS], ``dominant`` patches in raster order, merged vectors.

    Returns the sequence that enters decoder layer 0, contiguously positioned, and the original
    visual tokens that stand in it (dominant patches and targets), ascending.
    """
    scores = encoded.attention.sum(axis=0)
    kept, groups = formulas.visionzip_plan(scores, encoded.keys, dominant, contextual)
    merged = formulas.visionzip_merge(encoded.inner, groups, rule)
    vectors = np.concatenate([encoded.cls[None], encoded.inner[kept], merged])
    projected = encoded.project(vectors)
    before = [row for row in range(rows.columns(0)[0])]
    after = [row for row in range(rows.columns(0)[-1] + 1, len(rows.image))]
    hidden = torch.cat([rows.hidden[before], projected, rows.hidden[after]])
    image: list[int | None] = [None] * len(before) + [0] * len(vectors) + [None] * len(after)
    visual: list[int | None] = [None] * len(before) + [-1, *kept, *groups] + [None] * len(after)
    shorter = Rows(hidden, torch.arange(len(hidden)), image, visual)
    return shorter, sorted([*kept, *groups])


def last_rows(values: Sequence[Tensor]) -> Tensor:
    """The last row of each sample's ``[rows, dim]``."""
    return torch.stack([value[-1] for value in values])
