"""Train tiny-timm-vit: ``python -m tokensieve.adapters.zoo.training.train_timm --out FOLDER``.

Seeded, one core, minutes. Two aids:

* *sight*, in the first steps: a linear read-out says of every patch which digit it belongs to, or
  none. It gives the patches a meaning before [CLS] can gather them.
* *hidden background*: a random share of the patches around the digit is removed, before a
  random block. A model that has always seen 64 patches breaks down when a method keeps just the
  digit, and would find every good method worse than random.

The read-out is not in the checkpoint.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tokensieve.adapters.zoo import tiny_timm
from tokensieve.adapters.zoo.tiny_timm import (
    CLASSES,
    GRID,
    MODEL_ARGS,
    OneDigitScene,
    make_scene,
    pixels,
)
from tokensieve.adapters.zoo.training.loop import Trainer

PATCHES = GRID * GRID


@dataclass(frozen=True)
class VitRecipe:
    """Everything that decides the result."""

    seed: int = 0
    steps: int = 3000
    batch_size: int = 64
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    weight_decay: float = 0.05
    sight_steps: int = 1200
    sight_weight: float = 0.5
    hidden_share: float = 0.75
    fewest_patches: int = 8


def rate_at(recipe: VitRecipe, step: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    warm = min(1.0, (step + 1) / recipe.warmup_steps)
    return recipe.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / recipe.steps))


def batch_of(recipe: VitRecipe, step: int) -> list[OneDigitScene]:
    """The scenes of a step; none comes twice."""
    first = step * recipe.batch_size
    return [make_scene("train", first + number) for number in range(recipe.batch_size)]


def kept_patches(scenes: list[OneDigitScene], count: int, rng: np.random.Generator) -> Tensor:
    """``[batch, count]`` patches to keep, ascending: the digit's and random others."""
    order = rng.random((len(scenes), PATCHES))
    for row, scene in zip(order, scenes, strict=True):
        row[scene.patches] -= 1
    return torch.from_numpy(np.sort(order.argsort(axis=1)[:, :count], axis=1))


def forward(model: Any, images: Tensor, kept: Tensor | None, boundary: int) -> Tensor:
    """``[batch, 1 + patches, dim]`` after the final norm; only ``kept`` go through ``boundary``."""
    hidden: Tensor = model.norm_pre(model._pos_embed(model.patch_embed(images)))
    for index, block in enumerate(model.blocks):
        if kept is not None and index == boundary:
            rows = torch.cat([torch.zeros_like(kept[:, :1]), kept + 1], dim=1)
            hidden = hidden.gather(1, rows[..., None].expand(-1, -1, hidden.shape[-1]))
        hidden = block(hidden)
    normed: Tensor = model.norm(hidden)
    return normed


def sight_loss(
    readout: nn.Module, hidden: Tensor, scenes: list[OneDigitScene], kept: Tensor
) -> Tensor:
    """Digit or background of every patch, both weighing the same."""
    labels = torch.full((len(scenes), PATCHES), CLASSES)
    for row, scene in zip(labels, scenes, strict=True):
        row[scene.patches] = scene.digit
    labels = labels.gather(1, kept)
    losses = nn.functional.cross_entropy(
        readout(hidden[:, 1:]).flatten(0, 1), labels.flatten(), reduction="none"
    )
    digit = labels.flatten() < CLASSES
    background = losses[~digit].mean() if bool((~digit).any()) else losses.new_zeros(())
    return losses[digit].mean() + background


class VitTrainer(Trainer[VitRecipe, Any, nn.Linear]):
    """A run of the recipe of tiny-timm-vit, with its read-out; it always starts anew."""

    log_every = 50

    def __init__(self, recipe: VitRecipe, out: Path) -> None:
        torch.manual_seed(recipe.seed)
        model = tiny_timm.build_model().train()
        super().__init__(recipe, model, nn.Linear(model.embed_dim, CLASSES + 1), out, "cpu")

    def rate(self, step: int) -> float:
        """See :func:`rate_at`."""
        return rate_at(self.recipe, step)

    def clipped(self) -> list[nn.Parameter]:
        """Those of the model alone."""
        return list(self.model.parameters())

    def shown(self, seconds: float) -> dict[str, float]:
        """The running means as they are."""
        return {"step": self.done, **self.running}

    def loss(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Digits named, and in the first steps seen, on the scenes of a step."""
        recipe, model = self.recipe, self.model
        rng = np.random.default_rng([17, recipe.seed, step])
        scenes = batch_of(recipe, step)
        hide = rng.random() < recipe.hidden_share
        count = int(rng.integers(recipe.fewest_patches, PATCHES)) if hide else PATCHES
        kept = kept_patches(scenes, count, rng)
        boundary = int(rng.integers(0, len(model.blocks)))
        images = pixels([scene.image for scene in scenes])
        hidden = forward(model, images, kept if hide else None, boundary)
        logits = model.forward_head(hidden)
        digits = torch.tensor([scene.digit for scene in scenes])
        total = answers = nn.functional.cross_entropy(logits, digits, label_smoothing=0.05)
        if step < recipe.sight_steps:
            total = answers + recipe.sight_weight * sight_loss(self.readouts, hidden, scenes, kept)
        right = (logits.argmax(-1) == digits).float().mean()
        return total, {"loss": answers, "accuracy": right}


def train(recipe: VitRecipe, out: Path) -> Any:
    """Train from scratch; the running means go to ``out/log.jsonl``."""
    trainer = VitTrainer(recipe, out)
    trainer.run()
    return trainer.model.eval()


@torch.no_grad()
def heldout_accuracy(model: Any, count: int, batch_size: int = 250) -> float:
    """Share of the first ``count`` held-out scenes whose digit is named."""
    right = 0
    for first in range(0, count, batch_size):
        scenes = [make_scene("heldout", n) for n in range(first, min(count, first + batch_size))]
        given = model(pixels([scene.image for scene in scenes])).argmax(-1)
        right += int((given == torch.tensor([scene.digit for scene in scenes])).sum())
    return right / count


def save(model: Any, folder: Path) -> None:
    """Weights and config in timm's own format: ``timm.create_model("local-dir:FOLDER")``."""
    from safetensors.torch import save_file

    half = [0.5, 0.5, 0.5]
    config = {
        "architecture": tiny_timm.ARCHITECTURE,
        "num_classes": CLASSES,
        "num_features": model.num_features,
        "global_pool": model.global_pool,
        "model_args": MODEL_ARGS,
        "label_names": [str(digit) for digit in range(CLASSES)],
        "pretrained_cfg": {
            "input_size": [3, tiny_timm.SIDE, tiny_timm.SIDE],
            "fixed_input_size": True,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "mean": half,
            "std": half,
            "num_classes": CLASSES,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for weights and log")
    parser.add_argument("--steps", type=int, default=VitRecipe.steps)
    parser.add_argument("--seed", type=int, default=VitRecipe.seed)
    options = parser.parse_args()
    recipe = VitRecipe(seed=options.seed, steps=options.steps)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2) + "\n")
    start = time.perf_counter()
    model = train(recipe, options.out)
    save(model, options.out)
    accuracy = heldout_accuracy(model, 2000)
    print(f"{(time.perf_counter() - start) / 60:.1f} minutes, held-out accuracy {accuracy:.1%}")


if __name__ == "__main__":
    main()
