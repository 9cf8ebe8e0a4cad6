"""Synthetic views: random values for every signal, with what goes wrong in practice.

Images of different sizes, one of them a single token; equal tokens, a blank image, outliers as big
as those of real hidden states, padding full of garbage, and a view after an earlier prune, where
indices have gaps and one token is an extra one (a kept [CLS]).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from tokensieve.core.contract.signals import Transition
from tokensieve.core.testing.batch import TEXT_ATTENTION, SyntheticBatch
from tokensieve.core.testing.synthetic_image import HEADS, MODULES, ROWS, SyntheticImage

TOKENS = (25, 12, 9, 1, 7)
GARBAGE = 50.0  # size of the values in padding
HALF_TYPES = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Scene:
    """Everything that a synthetic batch is made from. Equal scenes give equal values.

    Attributes:
        tokens: visual tokens of each image.
        boundary: decoder layers that have run.
        layers: the layers whose transitions were captured.
        depths: the vision-encoder layers that were captured besides the last.
        dtype: of what comes out of the model; attention and transitions are float32 at least.
        seed: another seed, other values.
        padding: additional padding columns (and sequence rows).
        garbage: seed of the values in the padding.
        pruned: the tokens are what an earlier boundary left.
        device: where the tensors are.
    """

    tokens: tuple[int, ...] = TOKENS
    boundary: int = 1
    layers: tuple[int, ...] = (0,)
    depths: tuple[float, ...] = ()
    dtype: torch.dtype = torch.float32
    seed: int = 0
    padding: int = 0
    garbage: int = 0
    pruned: bool = False
    device: str = "cpu"


@lru_cache(maxsize=128)
def synthetic_batch(scene: Scene) -> SyntheticBatch:
    """The batch of a scene; not to be written to (its views hand out copies)."""
    images = [
        SyntheticImage(number, count, scene.dtype, scene.seed, scene.pruned)
        for number, count in enumerate(scene.tokens)
    ]
    width = max(scene.tokens) + scene.padding
    length = max(image.length for image in images) + scene.padding
    words = max(image.text for image in images) + scene.padding
    fillers = [torch.Generator().manual_seed(1000 * scene.garbage + i) for i in range(len(images))]

    def pad(parts: list[Tensor], size: int = width) -> Tensor:
        """``[n, ...]`` of each image -> ``[batch, size, ...]``: garbage in the padding of floats,
        else False or 0."""
        padded = []
        for part, filler in zip(parts, fillers, strict=True):
            missing = (size - part.shape[0], *part.shape[1:])
            padding = torch.zeros(missing, dtype=part.dtype)
            if part.is_floating_point():
                padding = (torch.rand(missing, generator=filler) * GARBAGE).to(part.dtype)
            padded.append(torch.cat([part, padding]))
        return torch.stack(padded).to(scene.device)

    def pad_named(parts: list[dict[str, Tensor]], size: int = width) -> dict[str, Tensor]:
        return {name: pad([part[name] for part in parts], size) for name in parts[0]}

    def pad_left(parts: list[Tensor]) -> Tensor:
        return pad([part.flip(0) for part in parts], length).flip(1)

    valid = pad([torch.ones(image.count, dtype=torch.bool) for image in images])
    rows = pad_left([torch.ones(image.length, dtype=torch.bool) for image in images])
    columns = pad([image.columns + length - image.length for image in images])
    index = pad([image.index for image in images]).masked_fill(~valid, -1)
    tensors = pad_named([image.tokens() for image in images])
    tensors["cls_feature"] = torch.stack([image.cls_feature() for image in images])
    attention = {
        name: {
            asked: pad([image.attention(name, asked).T for image in images]).transpose(1, 2)
            for asked in ROWS
        }
        for name in ("next_attention", "previous_attention")
    }
    text = pad_named([image.words() for image in images], words)
    # no real probability is anything but zero in the padding: a mean over text rows adds it up
    between = torch.zeros(len(images), HEADS, words, width, dtype=images[0].wide)
    for filled, image in zip(between, images, strict=True):
        filled[:, : image.text, : image.count] = image.text_attention()
    encoder: dict[float | None, dict[tuple[str, bool], Tensor]] = {}
    for depth in (None, *scene.depths):
        layers = [image.encoder(depth) for image in images]
        encoder[depth] = {name: pad([layer[name] for layer in layers]) for name in layers[0]}
    transitions = []
    for layer in scene.layers:
        for module in MODULES:
            changes = [image.transition(layer, module) for image in images]
            magnitude = pad_left([magnitude for magnitude, _ in changes])
            cosine = pad_left([cosine for _, cosine in changes])
            transitions.append(Transition(layer, module, magnitude, cosine, rows, columns))
    return SyntheticBatch(
        valid=valid,
        index=index,
        keys=tuple(image.key for image in images),
        boundary=scene.boundary,
        tensors={name: values.to(scene.device) for name, values in tensors.items()},
        attention=attention,
        text={**text, TEXT_ATTENTION: between.to(scene.device)},
        encoder=encoder,
        transitions=tuple(transitions),
    )
