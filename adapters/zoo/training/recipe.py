"""Train a model of the zoo: ``python -m ...zoo.training.recipe FAMILY --out FOLDER``.

One recipe for all families. Seeded and resumable: a run keeps one checkpoint, and the same command
continues from it. Two phases:

* *sight*: the vision encoder and the projector alone. Linear read-outs say label and color of
  every visual token as the decoder would get it, and what each [CLS] token has seen. With a
  ``teacher`` the features of its pictures are also brought close to a trained model's features, so
  that a decoder which understands the one understands the other.
* *answers*: everything, and sheets full of glyphs in every other step, from which only sight is
  learned. Every picture is packed with several questions, each of which sees the picture and itself
  only. Read-outs in the decoder say which letter of a sign an image token shows (*order*), what the
  naming words stand for (*grounding*), on which side the first digit of a comparison is
  (*comparison*) and whether the answer is yes (*verdict*). Most pictures lose a random part of
  their background tokens before the decoder: that makes steps cheap, and a model that has always
  seen all tokens breaks down when only the relevant ones are left.

The decoder starts from a trained one (``--decoder``), word for word where vocabularies agree.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tokensieve.adapters.zoo import lean_attention
from tokensieve.adapters.zoo.families import DECODER_WIDTH, Encoded, Family
from tokensieve.adapters.zoo.tasks.pictures import LARGE
from tokensieve.adapters.zoo.training.loop import Trainer
from tokensieve.adapters.zoo.training.packing import IGNORE, Packer, block_mask
from tokensieve.adapters.zoo.training.readouts import Readouts, safe
from tokensieve.adapters.zoo.training.schedule import RECIPES, FamilyRecipe, portion, rate_at
from tokensieve.adapters.zoo.training.starting import (
    FAMILIES,
    Teacher,
    inherit_decoder,
    inherit_encoder,
)

ORDER_LAYER, GROUNDING_LAYER, COMPARISON_LAYER, VERDICT_LAYER = 3, 5, 7, 8


class FamilyTrainer(Trainer[FamilyRecipe, Any, Readouts]):
    """A run of the recipe of a family, with its read-outs."""

    log = "curve.jsonl"
    checkpoint_every = 50

    def __init__(
        self, family: Family, recipe: FamilyRecipe, out: Path, device: str, *, fast: bool = False
    ) -> None:
        torch.manual_seed(recipe.seed)
        model = family.build_model().train()
        if recipe.decoder:
            inherit_decoder(model, family, recipe.decoder)
        if recipe.encoder:
            inherit_encoder(model, family, recipe.encoder)
        lean_attention.use(model)
        readouts = Readouts(DECODER_WIDTH, family.summary_width)
        model.to(device)
        super().__init__(recipe, model, readouts.to(device), out, device)
        self.family, self.packer = family, Packer(family)
        self.teacher = Teacher(recipe.teacher, device) if recipe.teacher else None
        self.decode_sparse: Callable[..., Any] = self._decode
        if fast:  # one size only: compiling takes a minute for each
            self.decode_sparse = torch.compile(self._decode, dynamic=False)

    def _decode(self, embeddings: Tensor, mask: Tensor, positions: Tensor) -> Any:
        return self.model.model.language_model(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions,
            use_cache=False,
            output_hidden_states=True,
        )

    def losses(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Losses and accuracies of one batch."""
        images = batch["images"]
        encoded = self.family.encode(self.model, self.family.pixels(images), len(images))
        out: dict[str, Tensor] = {}
        out["sight"], out["sight_accuracy"] = self.readouts.sight.loss(
            encoded, batch["token_label"], batch["token_colour"], batch["seen"]
        )
        if step < self.recipe.sight_steps:
            if self.teacher and self.teacher.knows(batch):
                out["teacher"] = self.teacher.loss(encoded, images, batch["cells"])
            return out
        return out | self._answers(encoded, batch) if "ids" in batch else out

    def _answers(self, encoded: Encoded, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The decoder's losses."""
        keep, embed = batch["keep"], self.model.get_input_embeddings()
        features = encoded.features.gather(1, keep[..., None].expand(-1, -1, DECODER_WIDTH))
        parts = embed(batch["head"]), features.to(embed.weight.dtype), embed(batch["ids"])
        before = parts[0].shape[1] + parts[1].shape[1]
        image, text = slice(parts[0].shape[1], before), slice(before, None)
        positions = batch["positions"]
        usual = self.recipe.sparse[1] == before + batch["ids"].shape[1]
        output = (self.decode_sparse if usual else self._decode)(
            torch.cat(parts, dim=1),
            block_mask(batch["segments"], before),
            positions if len(positions) > 1 else positions[0],
        )
        states, last = output.hidden_states, output.last_hidden_state
        read = self.readouts
        out: dict[str, Tensor] = {}
        places = batch["token_place"].gather(1, keep[..., None])
        reading = (
            ("order", read.order, ORDER_LAYER, image, places),
            ("grounding", read.grounding, GROUNDING_LAYER, text, batch["named"]),
            ("comparison", read.comparison, COMPARISON_LAYER, text, batch["compared"][..., :2]),
            ("verdict", read.verdict, VERDICT_LAYER, text, batch["compared"][..., 2:]),
        )
        for name, probe, layer, where, truth in reading:
            if bool((truth != IGNORE).any()):
                loss, accuracy = probe.loss(states[layer][:, where], truth)
                out |= {name: safe(loss), f"{name}_accuracy": accuracy}
        labels = batch["labels"]
        asked = labels != IGNORE
        logits = self.model.lm_head(last[:, before - 1 : -1][asked]).float()
        targets = labels[asked]
        out["answer"] = nn.functional.cross_entropy(logits, targets)
        words = targets != self.packer.end
        out["answer_accuracy"] = (logits.argmax(-1) == targets)[words].float().mean()
        return out

    def rate(self, step: int) -> float:
        """See :func:`rate_at`."""
        return rate_at(self.recipe, step)

    def loss(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of all losses on the pictures of a step."""
        recipe = self.recipe
        part = portion(recipe, self.family, step)
        batch = self.packer.batch(part, "train", recipe.seed * 10**7 + step * recipe.sparse[0])
        batch = {name: tensor.to(self.device) for name, tensor in batch.items()}
        with torch.autocast(self.device, dtype=torch.bfloat16):
            values = self.losses(batch, step)
            weights = {"answer": 1.0, "teacher": 1.0}
            kinds = ("sight", "teacher", "order", "grounding", "comparison", "verdict", "answer")
            parts = [weights.get(kind, 0.5) * values[kind] for kind in kinds if kind in values]
            total = sum(parts[1:], start=parts[0])
        name = f"{part.task.name}_answer_accuracy" + ("_large" if part.side == LARGE else "")
        if "answer_accuracy" in values:
            values[name] = values.pop("answer_accuracy")
        return total, values

    def save_model(self, folder: Path) -> None:
        """The Hugging Face folder: weights in float32, processor, chat template."""
        self.model.eval().save_pretrained(folder)
        self.family.build_processor().save_pretrained(folder)


def train(trainer: FamilyTrainer) -> None:
    """Run to the end, continuing from the checkpoint; the curve goes to ``curve.jsonl``."""
    out = trainer.out
    out.mkdir(parents=True, exist_ok=True)
    (out / "recipe.json").write_text(json.dumps(asdict(trainer.recipe), indent=2))
    trainer.run()
    trainer.save_model(out / "model")


def main() -> None:
    """Command line of the recipe."""
    parser = argparse.ArgumentParser(description="Train a model of the zoo; resumes by itself.")
    parser.add_argument("family", choices=sorted(FAMILIES))
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    for name in ("seed", "steps", "sight_steps", "decay_steps", "large_from"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int)
    for name in ("teacher", "decoder", "encoder"):
        parser.add_argument(f"--{name}", help="model to start from; empty: none")
    given = vars(parser.parse_args())
    options = {name: value for name, value in given.items() if value is not None}
    family, out, device = (options.pop(name) for name in ("family", "out", "device"))
    fast = not options.pop("eager")
    recipe = replace(RECIPES[family], **options)
    train(FamilyTrainer(FAMILIES[family](), recipe, out, device, fast=fast))


if __name__ == "__main__":
    main()
