"""One image of a synthetic batch: random values for its signals, without padding."""

from __future__ import annotations

import random
from typing import TypeVar, get_args

import torch
from torch import Tensor

from tokensieve.core.contract.signals import Module, QueryRows
from tokensieve.core.contract.tensors import at_least_float32
from tokensieve.core.testing.batch import STATES

DIM, VISION_DIM, KEY_DIM, HEADS = 8, 6, 5, 4
OUTLIER = 300.0  # its square is beyond float16; decoders have activations above 1000
ON_IMAGE = 0.6  # share of a head's attention: the text has the rest
AVAILABLE = 0.7  # share of the tokens that a selector may take
ROWS: tuple[QueryRows, ...] = get_args(QueryRows)
MODULES: tuple[Module, ...] = get_args(Module)
Name = TypeVar("Name")


class SyntheticImage:
    """The signals of one image. Every third one has equal tokens, and every third one is blank.

    Each signal is drawn with a seed of its own, so a further one changes none of the others.

    Attributes:
        count: visual tokens.
        text: text tokens; ``before`` of them come before the image.
        length: rows of the whole sequence.
        columns: ``[tokens]`` rows of the visual tokens in it.
        index: ``[tokens]`` places in the image; -1 for an extra token.
        key: the prompt's, for random draws.
        wide: type of what is computed in float32 at least.
    """

    def __init__(
        self, number: int, count: int, dtype: torch.dtype, seed: int, pruned: bool
    ) -> None:
        self.number, self.count, self.dtype = number, count, dtype
        self.wide = torch.promote_types(dtype, torch.float32)
        self.seed = 10_000 * seed + 100 * number
        self.key = random.Random(self.seed).randrange(2**32)
        places = torch.arange(count)
        half, blank = places % max(1, count // 2), places * 0
        self.copied = (places, half, blank)[number % 3]  # the token that each token is a copy of
        self.kept = places  # among the original tokens of the image
        if pruned:  # merged tokens come last, out of order
            order = torch.randperm(2 * count, generator=self._generator(1))[:count]
            self.kept = torch.cat([order[:-1].sort().values, order[-1:]])
        after = 2 + number % 2
        self.before = 3 + number
        self.text = self.before + after
        self.length = self.before + int(self.kept.max()) + 1 + after
        self.columns = self.before + self.kept
        self.index = self.kept + 40 * (number % 2)  # a second image of its sample starts later
        self.extra = pruned and count > 1
        if self.extra:
            self.index[0] = -1

    def _generator(self, purpose: int) -> torch.Generator:
        return torch.Generator().manual_seed(1_000_000 * purpose + self.seed)

    def _normal(self, purpose: int, *shape: int) -> Tensor:
        """``[tokens, *shape]``, equal for tokens that are copies."""
        values = torch.randn(self.count, *shape, generator=self._generator(purpose))
        return values[self.copied]

    def _states(self, purpose: int) -> Tensor:
        """``[tokens, dim]`` hidden states, as precise as the model makes them."""
        return at_least_float32(self._normal(purpose, DIM).to(self.dtype))

    def _of_picture(self, values: dict[Name, Tensor]) -> dict[Name, Tensor]:
        """Values of places in the picture: an extra token has none, and so has zeros."""
        if not self.extra:
            return values
        return {name: torch.cat([0 * rows[:1], rows[1:]]) for name, rows in values.items()}

    def tokens(self) -> dict[str, Tensor]:
        """Signals with a value per visual token, ``[tokens, ...]``; and what selectors get."""
        side = max(1, int(self.count**0.5))
        available = torch.rand(self.count, generator=self._generator(6)) < AVAILABLE
        available[0] = True
        values = {
            "hidden": self._states(2),
            "previous_hidden": self._states(10),
            **{f"{name} visual": self._states(11 + place) for place, name in enumerate(STATES)},
            "sizes": 1.0 + self._normal(14).abs().floor(),
            **self._of_picture(
                {
                    "vision_attention": self._normal(3, HEADS).softmax(dim=0).to(self.wide),
                    "vision_keys": self._normal(4, KEY_DIM).to(self.dtype),
                    "vision_features": self._normal(5, VISION_DIM).to(self.dtype),
                    "clip_relevance": self._normal(9).tanh().to(self.wide),
                    "grid": torch.stack([self.kept // side, self.kept % side], dim=-1),
                    "tile": (2 * self.kept) // (int(self.kept.max()) + 1),
                }
            ),
            "scores": self._normal(8).to(self.wide),
            "available": available,
        }
        if self.number == 0 and self.count > 1:
            values["hidden"][1, 2] = values["vision_features"][1, 2] = OUTLIER
        return values

    def cls_feature(self) -> Tensor:
        """``[1, vision dim]``."""
        return torch.randn(1, VISION_DIM, generator=self._generator(7)).to(self.dtype)

    def words(self) -> dict[str, Tensor]:
        """Masks and vectors of the text tokens, ``[text, ...]``."""
        values = {
            "valid": torch.ones(self.text, dtype=torch.bool),
            "instruction": torch.arange(self.text) >= self.before,
        }
        for place, name in enumerate(STATES):
            drawn = torch.randn(self.text, DIM, generator=self._generator(20 + place))
            values[name] = at_least_float32(drawn.to(self.dtype))
        return values

    def text_attention(self) -> Tensor:
        """``[heads, text, tokens]``."""
        values = self._normal(30, HEADS, self.text).softmax(dim=0) * ON_IMAGE
        return values.permute(1, 2, 0).to(self.wide)

    def attention(self, name: str, rows: QueryRows) -> Tensor:
        """``[heads, tokens]`` attention that the visual tokens get from query rows."""
        purpose = 100 + 10 * (name == "previous_attention") + ROWS.index(rows)
        values = self._normal(purpose, HEADS).softmax(dim=0) * ON_IMAGE
        return values.T.to(self.wide)

    def encoder(self, depth: float | None) -> dict[tuple[str, bool], Tensor]:
        """Attention and keys of a vision-encoder layer ``[tokens, n]``, per head and joined."""
        first = 400 + int(1000 * (depth or 0))
        values: dict[tuple[str, bool], Tensor] = {}
        for joined, heads, width in ((False, HEADS, KEY_DIM), (True, 1, HEADS * KEY_DIM)):
            purpose = first + 10 * joined
            for offset, kind in enumerate(("cls", "received")):
                drawn = self._normal(purpose + offset, heads)
                values[kind, joined] = drawn.softmax(dim=0).to(self.wide)
            values["keys", joined] = self._normal(purpose + 5, width).to(self.dtype)
        return self._of_picture(values)

    def transition(self, layer: int, module: Module) -> tuple[Tensor, Tensor]:
        """Magnitude and cosine ``[rows]`` of the whole sequence."""
        purpose = 200 + 10 * layer + MODULES.index(module)
        values = torch.rand(2, self.length, generator=self._generator(purpose)).to(self.wide)
        values[:, self.columns] = values[:, self.columns][:, self.copied]
        return 0.05 + 2 * values[0], 2 * values[1] - 1
