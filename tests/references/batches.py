"""Views made by hand: several images of random values, padded with garbage, without a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from references.formulas import Array
from tokensieve.core.contract.signals import TokenStates
from tokensieve.core.contract.view import View

TOKENS = (25, 12, 9, 1, 7)
"""Visual tokens of the images of a batch; the longest is not a square."""

COLUMNS, WIDTH, WORDS = 5, 32, 6
GARBAGE = 900.0
PADDING = 3


@dataclass
class Image:
    """The signals of one image and of the question about it, float64.

    The first two words stand in front of the image; the others are the instruction.
    """

    tensors: dict[str, Array]
    words: dict[str, Array]

    @property
    def scores(self) -> Array:
        return self.tensors["scores"]

    @property
    def grid(self) -> Array:
        return self.tensors["grid"]

    def __getitem__(self, name: str) -> Array:
        return self.tensors[name]

    def asked(self, name: str) -> Array:
        return self.words[name][2:]


STATES = ("embeddings", "previous_keys", "normed_states")
PLAIN = ("hidden", "vision_features", "vision_keys")


def draw(seed: int, tokens: int, *, tied: bool = False) -> Image:
    """Random values; ``tied``: few distinct scores, and every vector there at least twice.

    Tied vectors have one entry of size 1 or four, so their cosines are exact in any arithmetic.
    """
    generator = np.random.default_rng(seed)
    scores = generator.integers(1, 5, tokens) if tied else generator.random(tokens)
    copies = np.arange(tokens) % max(1, (tokens + 1) // 2) if tied else np.arange(tokens)
    make = _exact if tied else _normal
    tensors = {name: make(generator, tokens)[copies] for name in (*PLAIN, *STATES)}
    words = {name: make(generator, WORDS) for name in STATES}
    places = np.arange(tokens)
    tensors["grid"] = np.stack([places // COLUMNS, places % COLUMNS], axis=1)
    tensors["scores"] = np.asarray(scores, dtype=np.float64)
    return Image(tensors, words)


def _normal(generator: np.random.Generator, rows: int) -> Array:
    return generator.normal(size=(rows, WIDTH))


def _exact(generator: np.random.Generator, rows: int) -> Array:
    vectors = np.zeros((rows, WIDTH))
    for vector in vectors:
        chosen = generator.choice(WIDTH // 2, size=generator.choice([1, 4]), replace=False)
        vector[chosen] = generator.choice([-1.0, 1.0], size=len(chosen))
    return vectors


def batch_of(seed: int, tokens: Iterable[int] = TOKENS, *, tied: bool = False) -> list[Image]:
    return [draw(100 * seed + number, n, tied=tied) for number, n in enumerate(tokens)]


def padded(parts: Sequence[Array], width: int) -> Tensor:
    """``[batch, width, ...]``; what is missing is large, random and of either sign."""
    generator = np.random.default_rng(len(parts) + width)
    rows = []
    for part in parts:
        missing = (width - len(part), *part.shape[1:])
        filler = generator.normal(size=missing) * GARBAGE
        rows.append(np.concatenate([part, filler.astype(part.dtype)]))
    return torch.from_numpy(np.stack(rows))


def padded_scores(images: Sequence[Image]) -> Tensor:
    return padded([image.scores for image in images], width_of(images))


def width_of(images: Sequence[Image]) -> int:
    return max(len(image.scores) for image in images) + PADDING


def valid_of(images: Sequence[Image]) -> Tensor:
    lengths = torch.tensor([len(image.scores) for image in images])
    return torch.arange(width_of(images)) < lengths[:, None]


def view_of(
    images: Sequence[Image],
    *,
    index: Sequence[Sequence[int]] | None = None,
    more: Mapping[str, Any] | None = None,
    boundary: int = 1,
) -> View:
    """A view of the images; ``index`` is what an earlier prune left, ``more`` further signals."""
    width, valid = width_of(images), valid_of(images)
    names = [*PLAIN, "grid"]
    signals: dict[str, Callable[[], Any]] = {
        name: _constant(padded([image[name] for image in images], width)) for name in names
    }
    signals |= {name: _constant(_states(images, name)) for name in STATES}
    signals |= {name: _constant(value) for name, value in (more or {}).items()}
    numbers = index or [range(len(image.scores)) for image in images]
    places = padded([np.asarray(row, dtype=np.int64) for row in numbers], width)
    return View(valid, places.masked_fill(~valid, -1), signals, boundary=boundary)


def _constant(value: Any) -> Callable[[], Any]:
    return lambda: value


def _states(images: Sequence[Image], name: str) -> TokenStates:
    shape = (len(images), WORDS + 1)
    real = (torch.arange(WORDS + 1) < WORDS).expand(shape)
    return TokenStates(
        padded([image[name] for image in images], width_of(images)),
        padded([image.words[name] for image in images], WORDS + 1),
        real,
        real & (torch.arange(WORDS + 1) >= WORDS - len(images[0].asked(name))),
    )


def places(mask: Tensor) -> list[list[int]]:
    """The marked tokens of each image."""
    return [row.nonzero()[:, 0].tolist() for row in mask]


def arranged(mask: Tensor, order: Tensor) -> list[list[int]]:
    """The marked tokens of each image in the given order."""
    return [
        sorted(row, key=lambda token, by=by: int(by[token]))  # type: ignore[misc]
        for row, by in zip(places(mask), order, strict=True)
    ]
