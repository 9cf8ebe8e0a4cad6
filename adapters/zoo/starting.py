"""Where a new family starts from: a trained decoder, and a trained encoder as teacher."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoTokenizer

from tokensieve.adapters.zoo import MODELS
from tokensieve.adapters.zoo.families import Encoded, Family
from tokensieve.adapters.zoo.tasks import SMALL
from tokensieve.adapters.zoo.tiny_internvl import TinyInternVL
from tokensieve.adapters.zoo.tiny_llava_hd import TinyLlavaHD
from tokensieve.adapters.zoo.tiny_qwen import TinyQwen

FAMILIES: dict[str, type[Family]] = {f.name: f for f in (TinyInternVL, TinyQwen, TinyLlavaHD)}
OLDEST = "tiny-llava"  # encodes as its larger sister does, and knows digits on noise only


def locate(name: str) -> Path:
    """Folder of a built-in model or of a run."""
    return Path(MODELS.get(name, name))


def load(name: str) -> Any:
    """A trained model in float32."""
    folder = locate(name)
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()


def inherit(model: Any, family: Family, name: str) -> None:
    """Copy a trained decoder into ``model``, and what the family can use of its encoder.

    Biases that the old decoder lacks become zero. Words are copied one by one; those that only the
    new vocabulary has keep their random start.
    """
    old = load(name)
    words: dict[str, int] = AutoTokenizer.from_pretrained(locate(name)).get_vocab()
    trained = old.model.language_model.state_dict()
    with torch.no_grad():
        family.inherit_encoder(model, old)
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
    """A trained model whose features a new encoder is brought close to, on small pictures."""

    def __init__(self, name: str, device: str) -> None:
        self.model = load(name).to(device)
        kind = self.model.config.model_type
        by_kind: dict[str, Callable[[], Family]] = {
            "llava": TinyLlavaHD,
            "internvl": TinyInternVL,
            "qwen2_5_vl": TinyQwen,
        }
        self.family: Family = by_kind[kind]()
        words = self.model.config.text_config.vocab_size
        self.digits_only = words < len(self.family.tokenizer)
        cells = self.family.layout(SMALL).cells
        self.order = torch.argsort(cells, stable=True)[int((cells < 0).sum()) :].to(device)

    def knows(self, batch: dict[str, Tensor]) -> bool:
        """Whether the teacher has learned such pictures."""
        if batch["images"].shape[-1] != SMALL:
            return False
        return not self.digits_only or bool(batch["on_noise"])

    def loss(self, encoded: Encoded, images: Tensor, cells: Tensor) -> Tensor:
        """Squared distance of features of the same squares, relative to the teacher's spread."""
        with torch.no_grad():
            goal = self.family.encode(self.model, self.family.pixels(images), len(images)).features
            goal = goal[:, self.order].float()
        order = torch.argsort(cells, stable=True)[int((cells < 0).sum()) :]
        distance = (encoded.features[:, order].float() - goal).square().mean()
        return distance / goal.var()
