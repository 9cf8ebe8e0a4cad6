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
  naming words stand for (*grounding*), on which side the first digit of a comparison lies
  (*comparison*) and whether the answer is yes (*verdict*). Most pictures lose a random part of
  their background tokens before the decoder: that makes steps cheap, and a model that has always
  seen all tokens breaks down when only the relevant ones are left.

The decoder starts from a trained one (``--decoder``), word for word where vocabularies agree.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from tokensieve.adapters.zoo import lean_attention
from tokensieve.adapters.zoo.families import DECODER_WIDTH, Encoded, Family
from tokensieve.adapters.zoo.tasks.pictures import LARGE
from tokensieve.adapters.zoo.training.packing import IGNORE, Packer, block_mask
from tokensieve.adapters.zoo.training.readouts import Readouts, safe
from tokensieve.adapters.zoo.training.schedule import RECIPES, FamilyRecipe, portion, rate_at
from tokensieve.adapters.zoo.training.starting import (
    FAMILIES,
    Teacher,
    inherit_decoder,
    inherit_encoder,
)
from tokensieve.adapters.zoo.training.train import build_optimizer

LOG_EVERY, CHECKPOINT_EVERY = 20, 50
ORDER_LAYER, GROUNDING_LAYER, COMPARISON_LAYER, VERDICT_LAYER = 3, 5, 7, 8


class FamilyTrainer:
    """A run of the recipe in a folder: model, read-outs, optimizer, and the step they reached."""

    def __init__(
        self, family: Family, recipe: FamilyRecipe, out: Path, device: str, *, fast: bool = False
    ) -> None:
        self.family, self.recipe, self.out, self.device = family, recipe, out, device
        torch.manual_seed(recipe.seed)
        self.model = family.build_model().train()
        if recipe.decoder:
            inherit_decoder(self.model, family, recipe.decoder)
        if recipe.encoder:
            inherit_encoder(self.model, family, recipe.encoder)
        lean_attention.use(self.model)
        self.readouts = Readouts(DECODER_WIDTH, family.summary_width)
        self.model.to(device)
        self.readouts.to(device)
        self.teacher = Teacher(recipe.teacher, device) if recipe.teacher else None
        self.optimizer = build_optimizer(recipe, self.model, self.readouts)  # type: ignore[arg-type]
        self.packer = Packer(family)
        self.done = 0
        self.running: dict[str, float] = {}
        self.decode_sparse: Callable[..., Any] = self._decode
        if fast:  # one size only: compiling takes a minute for each
            self.decode_sparse = torch.compile(self._decode, dynamic=False)

    @property
    def checkpoint(self) -> Path:
        """The one file that a run continues from."""
        return self.out / "checkpoint.pt"

    def resume(self) -> None:
        """Continue where an earlier run in the same folder stopped, if there was one."""
        if not self.checkpoint.exists():
            return
        saved = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        self.model.load_state_dict(saved["model"])
        self.readouts.load_state_dict(saved["readouts"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.done, self.running = saved["step"], saved["running"]

    def save(self) -> None:
        """Write the checkpoint; a crash while writing leaves the old one."""
        state = {
            "model": self.model.state_dict(),
            "readouts": self.readouts.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.done,
            "running": self.running,
        }
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.checkpoint)

    def _encode(self, pixels: Tensor, images: int) -> Encoded:
        return self.family.encode(self.model, pixels, images)

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
        encoded = self._encode(self.family.pixels(images), len(images))
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

    def advance(self) -> None:
        """One step; pictures are numbered, so a step is the same whenever it is made."""
        recipe, step = self.recipe, self.done
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(recipe, step)
        part = portion(recipe, self.family, step)
        batch = self.packer.batch(part, "train", recipe.seed * 10**7 + step * recipe.sparse[0])
        batch = {name: tensor.to(self.device) for name, tensor in batch.items()}
        with torch.autocast(self.device, dtype=torch.bfloat16):
            values = self.losses(batch, step)
            weights = {"answer": 1.0, "teacher": 1.0}
            kinds = ("sight", "teacher", "order", "grounding", "comparison", "verdict", "answer")
            total = sum(weights.get(kind, 0.5) * values[kind] for kind in kinds if kind in values)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[union-attr]
        nn.utils.clip_grad_norm_([*self.model.parameters(), *self.readouts.parameters()], 1.0)
        self.optimizer.step()
        self.done += 1
        name = f"{part.task.name}_answer_accuracy" + ("_large" if part.side == LARGE else "")
        if "answer_accuracy" in values:
            values[name] = values.pop("answer_accuracy")
        for key, value in values.items():
            now = float(value.detach())
            self.running[key] = 0.95 * self.running.get(key, now) + 0.05 * now

    def save_model(self, folder: Path) -> None:
        """The Hugging Face folder: weights in float32, processor, chat template."""
        self.model.eval().save_pretrained(folder)
        self.family.build_processor().save_pretrained(folder)


def train(trainer: FamilyTrainer) -> None:
    """Run to the end, continuing from the checkpoint; the curve goes to ``curve.jsonl``."""
    recipe, out = trainer.recipe, trainer.out
    out.mkdir(parents=True, exist_ok=True)
    (out / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2))
    trainer.resume()
    begun = time.time()
    bar = tqdm(total=recipe.steps, initial=trainer.done, unit="step", mininterval=20)
    with bar, (out / "curve.jsonl").open("a", encoding="utf-8") as curve:
        while trainer.done < recipe.steps:
            trainer.advance()
            bar.update()
            if trainer.done % LOG_EVERY == 0:
                shown = {key: round(value, 4) for key, value in sorted(trainer.running.items())}
                seconds = round(time.time() - begun, 1)
                print(json.dumps({"step": trainer.done, "seconds": seconds, **shown}), file=curve)
                curve.flush()
            if trainer.done % CHECKPOINT_EVERY == 0 or trainer.done == recipe.steps:
                trainer.save()
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
