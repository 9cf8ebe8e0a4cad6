"""Train a built-in model: ``python -m tokensieve.adapters.zoo.training.train --out FOLDER``.

Seeded and resumable: the run keeps one checkpoint in ``OUT/checkpoint.pt``; the same command
continues from it. Four losses are added:

* *answers*: every image is packed with several questions in one sequence. A block mask lets each
  question see the image and itself only, so no question can copy another one's answer, and the
  image is encoded once for all of them.
* *sight*: linear probes on the vision tower say digit and color of every patch, and which digits
  and colors the [CLS] token has seen. They give the tower (and its [CLS] attention) a meaning
  before the decoder can use it.
* *grounding*: a linear probe half-way up the decoder says, at the word of a question that names a
  digit (``7``) or its color (``red``), everything about that digit: value, color, row, column.
  Without it, finding the named digit and reading it out have to be learned at once, and the loss
  stays at chance for thousands of steps.
* *comparison*, later: a probe two layers above says, at the second digit of ``is the 7 left of the
  3?``, on which side of it the first one is, and last a *verdict* probe whether the question is
  to be answered with yes. Without them these questions stay at chance. ``right of`` and ``below``
  are asked until ``opposites_until`` only: with them, the answer is an exclusive-or of relation and
  order, which did not come within the budget.

From ``thin_from`` on, a random share of the background patches is hidden from the decoder, with
original or with contiguous positions. A model that has always seen 144 tokens breaks down when
nothing but digits is left, and would find every good pruning method worse than random.

The probes are thrown away afterwards.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tokensieve.adapters.zoo import tiny_llava
from tokensieve.adapters.zoo.training.batches import IGNORE, Packer
from tokensieve.adapters.zoo.training.loop import Trainer
from tokensieve.adapters.zoo.training.probes import Probes


@dataclass(frozen=True)
class LlavaRecipe:
    """Everything that decides the result."""

    seed: int = 0
    steps: int = 2400
    sight_steps: int = 1000
    batch_size: int = 32
    questions: int = 12
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    sight_warmup_steps: int = 200
    warmup_steps: int = 100
    decay_steps: int = 300
    sight_weight: float = 0.5
    grounding_weight: float = 0.5
    grounding_layer: int = 5
    comparison_from: int = 1400
    comparison_layer: int = 7
    opposites_until: int = 1900
    verdict_from: int = 1800
    thin_from: int = 2000
    verdict_layer: int = 8


def losses(
    model: Any, probes: Probes, batch: dict[str, torch.Tensor], recipe: LlavaRecipe, step: int
) -> dict[str, torch.Tensor]:
    """Answer and sight loss of one batch, with the accuracies that the log shows."""
    core = model.model
    hidden_states = core.vision_tower(
        batch["pixel_values"], output_hidden_states=True
    ).hidden_states
    sight, patch_accuracy = probes.sight.loss(core.vision_tower, hidden_states, batch)
    out = {"sight": sight, "patch_accuracy": patch_accuracy}
    if step < recipe.sight_steps:
        return out
    features = core.multi_modal_projector(hidden_states[-2][:, 1:])
    embeddings = model.get_input_embeddings()(batch["input_ids"])
    images = (batch["input_ids"] == model.config.image_token_id)[..., None]
    embeddings = embeddings.masked_scatter(images, features.to(embeddings.dtype))
    output = core.language_model(
        inputs_embeds=embeddings,
        attention_mask=batch["attention_mask"].to(embeddings.dtype),
        position_ids=batch["position_ids"],
        use_cache=False,
        output_hidden_states=True,
    )
    hidden = output.last_hidden_state
    out["grounding"], out["grounding_accuracy"] = probes.grounding.loss(
        output.hidden_states[recipe.grounding_layer], batch["named"]
    )
    labels = batch["labels"][:, 1:]
    asked = labels != IGNORE
    logits = model.lm_head(hidden[:, :-1][asked]).float()
    targets = labels[asked]
    if step >= recipe.comparison_from:
        out["comparison"], out["comparison_accuracy"] = probes.comparison.loss(
            output.hidden_states[recipe.comparison_layer], batch["sides"][..., :2]
        )
    if step >= recipe.verdict_from:
        out["verdict"], out["verdict_accuracy"] = probes.verdict.loss(
            output.hidden_states[recipe.verdict_layer], batch["sides"][..., 2:]
        )
    out["answer"] = nn.functional.cross_entropy(logits, targets)
    right = (logits.argmax(-1) == targets).view(-1, 2)[:, 0]  # answer word, then end of sequence
    out["answer_accuracy"] = right.float().mean()
    return out


def learning_rate(recipe: LlavaRecipe, step: int) -> float:
    """Learning rate at ``step``; each phase warms up anew.

    The sight phase decays by a cosine. The joint phase stays at the peak and falls linearly over
    its last ``decay_steps``, so that a run can be prolonged without having been another run.
    """
    if step < recipe.sight_steps:
        warm = min(1.0, (step + 1) / recipe.sight_warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * step / recipe.sight_steps))
        return recipe.learning_rate * warm * (0.02 + 0.98 * cosine)
    warm = min(1.0, (step - recipe.sight_steps) / recipe.warmup_steps + 1e-3)
    left = (recipe.steps - step) / recipe.decay_steps
    return recipe.learning_rate * warm * min(1.0, left)


class LlavaTrainer(Trainer[LlavaRecipe, Any, Probes]):
    """A run of the recipe of tiny-llava, with its probes."""

    checkpoint_every = 100
    readouts_key = "probes"

    def __init__(self, recipe: LlavaRecipe, out: Path, device: str) -> None:
        torch.manual_seed(recipe.seed)
        model: Any = tiny_llava.build_model().train()
        model.to(device)
        config = model.config
        probes = Probes(config.vision_config.hidden_size, config.text_config.hidden_size)
        super().__init__(recipe, model, probes.to(device), out, device)
        self.packer = Packer(recipe.batch_size, recipe.questions)

    def rate(self, step: int) -> float:
        """See :func:`learning_rate`."""
        return learning_rate(self.recipe, step)

    def loss(self, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The weighted sum of all losses on the scenes of a step."""
        recipe = self.recipe
        opposites = step < recipe.opposites_until
        thin = step >= recipe.thin_from
        first = step * recipe.batch_size
        batch = self.packer.batch("train", first, opposites=opposites, thin=thin)
        batch = {name: tensor.to(self.device) for name, tensor in batch.items()}
        with torch.autocast(self.device, dtype=torch.bfloat16):
            values = losses(self.model, self.readouts, batch, recipe, step)
            words = sum(values.get(name, 0) for name in ("grounding", "comparison", "verdict"))
            total = recipe.sight_weight * values["sight"] + values.get("answer", 0)
            return total + recipe.grounding_weight * words, values


def train(recipe: LlavaRecipe, out: Path, device: str) -> None:
    """Run the recipe, continuing from ``out/checkpoint.pt`` if it exists.

    Writes ``out/log.jsonl`` (running means every 20 steps) and the trained model in ``out/model``,
    a Hugging Face folder.
    """
    trainer = LlavaTrainer(recipe, out, device)
    trainer.run()
    trainer.model.eval().save_pretrained(out / "model")
    tiny_llava.build_processor().save_pretrained(out / "model")


def main() -> None:
    """Command line of the recipe."""
    parser = argparse.ArgumentParser(description="Train tiny-llava; resumes by itself.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    for name in ("seed", "steps", "sight_steps", "batch_size", "questions"):
        default = getattr(LlavaRecipe, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    options = vars(parser.parse_args())
    out, device = options.pop("out"), options.pop("device")
    train(LlavaRecipe(**options), out, device)


if __name__ == "__main__":
    main()
