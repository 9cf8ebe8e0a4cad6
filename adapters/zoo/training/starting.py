"""Starting points of a new family: a trained decoder, and a trained encoder as teacher."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoTokenizer

from tokensieve.adapters.zoo import MODELS
from tokensieve.adapters.zoo.families import Encoded, Family
from tokensieve.adapters.zoo.tasks.pictures import SMALL
from tokensieve.adapters.zoo.tiny_internvl import TinyInternVL
from tokensieve.adapters.zoo.tiny_llava_hd import TinyLlavaHD
from tokensieve.adapters.zoo.tiny_qwen import TinyQwen

FAMILIES: dict[str, type[Family]] = {f.name: f for f in (TinyInternVL, TinyQwen, TinyLlavaHD)}


def locate(name: str) -> Path:
    """Folder of a built-in model or of a run."""
    return Path(MODELS.get(name, name))


def load(name: str) -> Any:
    """A trained model in float32."""
    folder = locate(name)
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()


def inherit_encoder(model: Any, family: Family, name: str) -> None:
    """Copy what the family can use of a trained encoder into ``model``."""
    with torch.no_grad():
        family.inherit_encoder(model, load(name))


def inherit_decoder(model: Any, family: Family, name: str) -> None:
    """Copy a trained decoder into ``model``.

    Biases that the old decoder lacks become zero. Words are copied one by one; those that only the
    new vocabulary has keep their random start.
    """
    old = load(name)
    words: dict[str, int] = AutoTokenizer.from_pretrained(locate(name)).get_vocab()
    trained = old.model.language_model.state_dict()
    with torch.no_grad():
        for key, weight in model.model.language_model.state_dict().items():
            if key == "embed_tokens.weight":
                for word, number in family.tokenizer.get_vocab().items():
                    if word in words:
                        weight[number] = trained[key][words[word]]
            elif key in trained:
                weight.copy_(trained[key])
            else:
                weight.zero_()


class Teacher:
    """A trained model whose features a new encoder is brought close to."""

    def __init__(self, name: str, device: str) -> None:
        self.model = load(name).to(device)
        config = self.model.config
        by_kind: dict[str, Callable[[], Family]] = {
            "llava": lambda: TinyLlavaHD(config.vision_config.image_size),
            "internvl": TinyInternVL,
            "qwen2_5_vl": TinyQwen,
        }
        self.family: Family = by_kind[config.model_type]()
        words = self.model.config.text_config.vocab_size
        self.digits_only = words < len(self.family.tokenizer)

    def knows(self, batch: dict[str, Tensor]) -> bool:
        """Whether the teacher has learned such pictures."""
        if not self.digits_only:
            return True
        return batch["images"].shape[-1] == SMALL and bool(batch["on_noise"])

    def loss(self, encoded: Encoded, images: Tensor, cells: Tensor) -> Tensor:
        """Squared distance of features of the same squares, relative to the teacher's spread."""
        with torch.no_grad():
            goal = self.family.encode(self.model, self.family.pixels(images), len(images)).features
            goal = goal[:, raster_order(self.family.layout(images.shape[-1]).cells)].float()
        own = encoded.features[:, raster_order(cells)].float()
        return (own - goal).square().mean() / goal.var()


def raster_order(cells: Tensor) -> Tensor:
    """Which token shows each square of a picture, for :attr:`TokenLayout.cells`."""
    return torch.argsort(cells, stable=True)[int((cells < 0).sum()) :]
