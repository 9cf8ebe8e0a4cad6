"""Synthetic views: random values for every signal, with what goes wrong in practice.

Images of different sizes, one of them a single token; equal tokens, a blank image, outliers as big
as those of real hidden states, padding full of garbage, and a view after an earlier prune, where
indices have gaps and one token is an extra one (a kept [CLS]).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache
from typing import get_args

import torch
from torch import Tensor

from tokensieve.core.contract.signals import Module, QueryRows, Transition
from tokensieve.core.contract.tensors import at_least_float32
from tokensieve.core.testing.batch import STATES, TEXT_ATTENTION, SyntheticBatch

TOKENS = (25, 12, 9, 1, 7)
DIM, VISION_DIM, KEY_DIM, HEADS = 8, 6, 5, 4
OUTLIER = 300.0  # its square is beyond float16; decoders have activations above 1000
GARBAGE = 50.0  # size of the values in padding
ROWS: tuple[QueryRows, ...] = get_args(QueryRows)
MODULES: tuple[Module, ...] = get_args(Module)
HALF_TYPES = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Scene:
    """What a synthetic batch is made from. Equal scenes give equal values.

    Attributes:
        tokens: visual tokens of each image.
        boundary: decoder layers that have run.
        layers: the layers whose transitions were captured.
        depths: the vision-encoder layers that were captured besides the last.
        dtype: of what comes out of the model; attention and transitions are float32 at least.
        seed: another seed, other values.
        padding: additional padding columns (and sequence rows).
        garbage: seed of the values that stand in padding.
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
    images = [_Image(scene, number) for number in range(len(scene.tokens))]
    width = max(scene.tokens) + scene.padding
    length = max(image.length for image in images) + scene.padding
    words = max(image.text for image in images) + scene.padding
    fillers = [torch.Generator().manual_seed(1000 * scene.garbage + i) for i in range(len(images))]

    def pad(parts: list[Tensor], size: int = width) -> Tensor:
        filled = [_filled(part, size, filler) for part, filler in zip(parts, fillers, strict=True)]
        return torch.stack(filled).to(scene.device)

    def pad_heads(parts: list[Tensor]) -> Tensor:
        return pad([part.T for part in parts]).transpose(1, 2)

    def pad_text(parts: list[Tensor]) -> Tensor:
        return pad(parts, words)

    def pad_left(parts: list[Tensor]) -> Tensor:
        return pad([part.flip(0) for part in parts], length).flip(1)

    valid = pad([torch.ones(image.count, dtype=torch.bool) for image in images])
    rows = pad_left([torch.ones(image.length, dtype=torch.bool) for image in images])
    columns = pad([image.columns + length - image.length for image in images])
    names = images[0].tensors
    return SyntheticBatch(
        valid=valid,
        index=pad([image.index for image in images]).masked_fill(~valid, -1),
        keys=tuple(image.key for image in images),
        boundary=scene.boundary,
        tensors={name: pad([i.tensors[name] for i in images]) for name in names if name != _CLS}
        | {_CLS: torch.stack([image.tensors[_CLS] for image in images]).to(scene.device)},
        attention={
            name: {r: pad_heads([image.attention[name, r] for image in images]) for r in ROWS}
            for name in ("next_attention", "previous_attention")
        },
        text={
            **{name: pad_text([image.words[name] for image in images]) for name in images[0].words},
            TEXT_ATTENTION: _text_attention(images, words, width),
        },
        encoder={
            depth: {
                name: pad([image.encoder(depth)[name] for image in images])
                for name in images[0].encoder(depth)
            }
            for depth in (None, *scene.depths)
        },
        transitions=tuple(
            Transition(
                layer=layer,
                module=module,
                magnitude=pad_left([i.transition(layer, module)[0] for i in images]),
                cosine=pad_left([i.transition(layer, module)[1] for i in images]),
                valid=rows,
                columns=columns,
            )
            for layer in scene.layers
            for module in MODULES
        ),
    )


def _text_attention(images: list[_Image], words: int, width: int) -> Tensor:
    """``[batch, heads, text, tokens]``, zero in the padding: no real probability is anything else
    there, and a mean over real text rows must not see it."""
    full = torch.zeros(len(images), HEADS, words, width, dtype=images[0].wide)
    for row, image in zip(full, images, strict=True):
        row[:, : image.text, : image.count] = image.text_attention
    return full


_CLS = "cls_feature"


def _filled(part: Tensor, size: int, filler: torch.Generator) -> Tensor:
    """``[n, ...]`` -> ``[size, ...]``: garbage in the padding of floats, else False or 0."""
    missing = (size - part.shape[0], *part.shape[1:])
    padding = torch.zeros(missing, dtype=part.dtype)
    if part.is_floating_point():
        padding = (torch.rand(missing, generator=filler) * GARBAGE).to(part.dtype)
    return torch.cat([part, padding])


class _Image:
    """All signals of one image, without padding."""

    def __init__(self, scene: Scene, number: int) -> None:
        self.count = scene.tokens[number]
        self.wide = torch.promote_types(scene.dtype, torch.float32)
        self.seed = 10_000 * scene.seed + 100 * number
        self.key = random.Random(self.seed).randrange(2**32)
        self.before, self.after = 3 + number, 2 + number % 2
        self.ties = _ties(number, self.count)
        kept = self._kept(scene.pruned)
        full = int(kept.max()) + 1
        self.length = self.before + full + self.after
        self.text = self.before + self.after
        self.columns = self.before + kept
        self.index = kept + 40 * (number % 2)  # a second image of its sample starts later
        self.extra = scene.pruned and self.count > 1
        if self.extra:
            self.index = torch.cat([torch.tensor([-1]), self.index[1:]])
        self.dtype = scene.dtype
        self.tensors = self._tensors(scene.dtype, kept)
        self.words = self._words(scene.dtype)
        self.text_attention = self._text_attention()
        self.attention = {
            (name, rows): self._attention(10 * place + offset)
            for place, name in enumerate(("next_attention", "previous_attention"))
            for offset, rows in enumerate(ROWS)
        }
        if number == 0 and self.count > 1:
            self.tensors["hidden"][1, 2] = self.tensors["vision_features"][1, 2] = OUTLIER

    def _kept(self, pruned: bool) -> Tensor:
        """Places among the image's original tokens; merged tokens come last, out of order."""
        if not pruned:
            return torch.arange(self.count)
        order = torch.randperm(2 * self.count, generator=self._generator(1))[: self.count]
        return torch.cat([order[:-1].sort().values, order[-1:]])

    def _generator(self, purpose: int) -> torch.Generator:
        return torch.Generator().manual_seed(1_000_000 * purpose + self.seed)

    def _normal(self, purpose: int, *shape: int) -> Tensor:
        values = torch.randn(self.count, *shape, generator=self._generator(purpose))
        return values[self.ties]

    def _tensors(self, dtype: torch.dtype, kept: Tensor) -> dict[str, Tensor]:
        side = max(1, int(self.count**0.5))
        vision = {
            "vision_attention": self._normal(3, HEADS).softmax(dim=0).to(self.wide),
            "vision_keys": self._normal(4, KEY_DIM).to(dtype),
            "vision_features": self._normal(5, VISION_DIM).to(dtype),
            "clip_relevance": self._normal(9).tanh().to(self.wide),
            "grid": torch.stack([kept // side, kept % side], dim=-1),
            "tile": (2 * kept) // (int(kept.max()) + 1),
        }
        if self.extra:  # an extra token stands for no place in the picture
            vision = {name: torch.cat([0 * t[:1], t[1:]]) for name, t in vision.items()}
        available = torch.rand(self.count, generator=self._generator(6)) < 0.7  # noqa: PLR2004
        available[0] = True
        return {
            "hidden": at_least_float32(self._normal(2, DIM).to(dtype)),
            "previous_hidden": at_least_float32(self._normal(10, DIM).to(dtype)),
            **{
                f"{name} visual": at_least_float32(self._normal(11 + place, DIM).to(dtype))
                for place, name in enumerate(STATES)
            },
            "sizes": 1.0 + self._normal(14).abs().floor(),
            **vision,
            _CLS: torch.randn(1, VISION_DIM, generator=self._generator(7)).to(dtype),
            "scores": self._normal(8).to(self.wide),
            "available": available,
        }

    def _words(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Masks and vectors of the text tokens."""
        shape = (self.text, DIM)
        states = {
            name: torch.randn(shape, generator=self._generator(20 + place))
            for place, name in enumerate(STATES)
        }
        behind = torch.arange(self.text) >= self.before
        return {
            "valid": torch.ones(self.text, dtype=torch.bool),
            "instruction": behind,
            **{name: at_least_float32(value.to(dtype)) for name, value in states.items()},
        }

    def _text_attention(self) -> Tensor:
        """``[heads, text, tokens]``."""
        values = self._normal(30, HEADS, self.text).softmax(dim=0) * 0.6
        return values.permute(1, 2, 0).to(self.wide)

    def encoder(self, depth: float | None) -> dict[tuple[str, bool], Tensor]:
        """Attention and keys of a vision-encoder layer ``[tokens, n]``."""
        place = 400 + int(1000 * (depth or 0))
        values: dict[tuple[str, bool], Tensor] = {}
        for offset, joined in enumerate((False, True)):
            heads, width = (1, HEADS * KEY_DIM) if joined else (HEADS, KEY_DIM)
            for number, kind in enumerate(("cls", "received")):
                drawn = self._normal(place + 10 * offset + number, heads)
                values[kind, joined] = drawn.softmax(dim=0).to(self.wide)
            values["keys", joined] = self._normal(place + 10 * offset + 5, width).to(self.dtype)
        if self.extra:
            values = {name: torch.cat([0 * t[:1], t[1:]]) for name, t in values.items()}
        return values

    def _attention(self, purpose: int) -> Tensor:
        """``[heads, tokens]``; the text takes a part of each head's sum."""
        values = self._normal(100 + purpose, HEADS).softmax(dim=0) * 0.6
        return values.T.to(self.wide)

    def transition(self, layer: int, module: Module) -> tuple[Tensor, Tensor]:
        """Magnitude and cosine ``[rows]`` of the whole sequence."""
        purpose = 200 + 10 * layer + MODULES.index(module)
        values = torch.rand(2, self.length, generator=self._generator(purpose)).to(self.wide)
        values[:, self.columns] = values[:, self.columns][:, self.ties]
        return 0.05 + 2 * values[0], 2 * values[1] - 1


def _ties(number: int, count: int) -> Tensor:
    """Which token each token is a copy of: none, the first half, or (a blank image) the first."""
    places = torch.arange(count)
    if number % 3 == 1:
        return places % max(1, count // 2)
    return places * 0 if number % 3 == 2 else places  # noqa: PLR2004
