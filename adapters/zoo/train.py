"""Train a built-in model: ``python -m tokensieve.adapters.zoo.train --out FOLDER``.

Seeded and resumable: the run keeps one checkpoint in ``OUT/checkpoint.pt``; the same command
continues from it. Four losses are added:

* *answers*: every image is packed with several questions in one sequence. A block mask lets each
  question see the image and itself only, so no question can copy another one's answer, and the
  image is encoded once for all of them.
* *sight*: linear probes on the vision tower say digit and colour of every patch, and which digits
  and colours the [CLS] token has seen. They give the tower (and its [CLS] attention) a meaning
  before the decoder can use it.
* *grounding*: a linear probe half-way up the decoder says, at the word of a question that names a
  digit (``7``) or its colour (``red``), everything about that digit: value, colour, row, column.
  Without it, finding the named digit and reading it out have to be learned at once, and the loss
  stays at chance for thousands of steps.
* *comparison*, later: a probe two layers above says, at the second digit of ``is the 7 left of the
  3?``, on which side of it the first one lies. Without it these questions stay at chance.

The probes are thrown away afterwards.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tokensieve.adapters.zoo import digit_scenes as scenes
from tokensieve.adapters.zoo import tiny_llava

PATCHES_PER_SIDE = scenes.IMAGE_SIZE // tiny_llava.PATCH_SIZE
IGNORE = -100
NOTHING = (IGNORE,) * 4


@dataclass(frozen=True)
class Recipe:
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
    decay_steps: int = 400
    sight_weight: float = 0.5
    grounding_weight: float = 0.5
    grounding_layer: int = 5
    comparison_from: int = 1400
    comparison_layer: int = 7


class SightProbes(nn.Module):
    """Linear read-outs of the vision tower, used in training only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.patch = nn.Linear(width, 11 + len(scenes.COLOUR_NAMES) + 1)
        self.summary = nn.Linear(width, 10 + len(scenes.COLOUR_NAMES))
        self.middle_norm = nn.LayerNorm(width)

    def loss(
        self, tower: nn.Module, hidden_states: tuple[torch.Tensor, ...], batch: dict[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sight loss, and the share of digit patches read correctly."""
        middle, last = self.middle_norm(hidden_states[-2]), tower.post_layernorm(hidden_states[-1])
        logits = self.patch(middle[:, 1:])
        value, colour = logits[..., :11], logits[..., 11:]
        digits = batch["patch_value"] < 10  # noqa: PLR2004 - ten digits, then background
        loss = middle.new_zeros(())
        for where in (digits, ~digits):  # digit patches are rare: each side counts one half
            loss = loss + nn.functional.cross_entropy(value[where], batch["patch_value"][where])
            loss = loss + nn.functional.cross_entropy(colour[where], batch["patch_colour"][where])
        for cls in (middle[:, 0], last[:, 0]):
            loss = loss + nn.functional.binary_cross_entropy_with_logits(
                self.summary(cls), batch["seen"]
            )
        right = (value.argmax(-1) == batch["patch_value"]) & (
            colour.argmax(-1) == batch["patch_colour"]
        )
        return loss, right[digits].float().mean()


class WordProbe(nn.Module):
    """Linear read-out of the decoder at some words of a question, used in training only."""

    def __init__(self, width: int, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.sizes = sizes
        self.norm = nn.LayerNorm(width)
        self.read = nn.Linear(width, sum(sizes))

    def loss(self, hidden: torch.Tensor, facts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss, and the share of words at which the first two facts are known.

        ``facts`` is ``[batch, tokens, len(sizes)]``: class numbers, -100 where nothing is asked.
        """
        where = facts[..., 0] != IGNORE
        logits = self.read(self.norm(hidden[where])).float().split(self.sizes, dim=-1)
        targets = facts[where].unbind(-1)
        loss = sum(map(nn.functional.cross_entropy, logits, targets), hidden.new_zeros(()))
        right = [(part.argmax(-1) == t) for part, t in zip(logits[:2], targets, strict=False)]
        return loss, (right[0] & right[1]).float().mean()


def patch_labels(scene: scenes.Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Digit (10 = none) and colour of every patch, raster order, and what the scene contains."""
    value = np.full((PATCHES_PER_SIDE, PATCHES_PER_SIDE), 10)
    colour = np.full((PATCHES_PER_SIDE, PATCHES_PER_SIDE), len(scenes.COLOUR_NAMES))
    seen = np.zeros(10 + len(scenes.COLOUR_NAMES), dtype=np.float32)
    centres = np.arange(PATCHES_PER_SIDE) * tiny_llava.PATCH_SIZE + tiny_llava.PATCH_SIZE / 2
    for digit in scene.digits:
        rows = (centres > digit.top) & (centres < digit.top + digit.side)
        columns = (centres > digit.left) & (centres < digit.left + digit.side)
        shade = scenes.COLOUR_NAMES.index(digit.colour)
        value[np.ix_(rows, columns)] = digit.value
        colour[np.ix_(rows, columns)] = shade
        seen[[digit.value, 10 + shade]] = 1
    return value.ravel(), colour.ravel(), seen


class Packer:
    """Turns scenes and questions into one training batch."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.tokenizer = tiny_llava.build_tokenizer()
        self.image_id = int(self.tokenizer.convert_tokens_to_ids("<image>"))
        head = self.tokenizer("USER:")["input_ids"]
        self.words: dict[str, int] = self.tokenizer.get_vocab()
        self.known: dict[tuple[str, str], list[int]] = {}
        self.prefix = [*head, *[self.image_id] * PATCHES_PER_SIDE**2]

    def _question(self, question: scenes.Question) -> list[int]:
        key = question.text, question.answer
        if key not in self.known:
            text = f"{question.text} ASSISTANT: {question.answer}"
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            self.known[key] = [*ids, int(self.tokenizer.eos_token_id)]
        return self.known[key]

    def sequence(
        self, scene: scenes.Scene, questions: list[scenes.Question]
    ) -> tuple[list[Any], ...]:
        """Ids, positions, segment (0 = image), label, named digit and side of every token."""
        ids, start = list(self.prefix), len(self.prefix)
        positions, segments, labels = list(range(start)), [0] * start, [IGNORE] * start
        named: list[Any] = [NOTHING] * start
        sides: list[Any] = [NOTHING[:2]] * start
        for turn, question in enumerate(questions, 1):
            tokens = self._question(question)
            ids += tokens
            positions += range(start, start + len(tokens))
            segments += [turn] * len(tokens)
            labels += [*[IGNORE] * (len(tokens) - 2), *tokens[-2:]]
            named += self._named(scene, question, tokens)
            sides += self._sides(scene, question, tokens)
        return ids, positions, segments, labels, named, sides

    def _named(
        self, scene: scenes.Scene, question: scenes.Question, tokens: list[int]
    ) -> list[tuple[int, ...]]:
        """What the naming words of a question stand for; the answer itself names nothing."""
        found: dict[int, tuple[int, ...]] = {}
        for index in question.about if question.kind != "count" else ():
            digit = scene.digits[index]
            facts = (
                digit.value,
                scenes.COLOUR_NAMES.index(digit.colour),
                digit.top // tiny_llava.PATCH_SIZE,
                digit.left // tiny_llava.PATCH_SIZE,
            )
            for word in (str(digit.value), digit.colour):
                found[self.words[word]] = facts
        return [*(found.get(token, NOTHING) for token in tokens[:-2]), NOTHING, NOTHING]

    def _sides(
        self, scene: scenes.Scene, question: scenes.Question, tokens: list[int]
    ) -> list[tuple[int, ...]]:
        """At the second digit of a comparison: where the first one lies, left 0, right 2."""
        sides: list[tuple[int, ...]] = [NOTHING[:2]] * len(tokens)
        if question.kind == "position":
            first, second = (scene.digits[i] for i in question.about)
            place = tokens.index(self.words[str(second.value)])
            offsets = np.sign(np.subtract(first.centre, second.centre))
            sides[place] = (int(offsets[0]) + 1, int(offsets[1]) + 1)
        return sides

    def batch(self, split: scenes.Split, first: int) -> dict[str, torch.Tensor]:
        """Scenes ``first .. first + batch_size`` of ``split``, packed and padded."""
        indices = range(first, first + self.recipe.batch_size)
        drawn = [scenes.make_scene(split, i) for i in indices]
        rows = [
            self.sequence(scene, scenes.questions_for(scene, split, i, self.recipe.questions))
            for scene, i in zip(drawn, indices, strict=True)
        ]
        length = max(len(row[0]) for row in rows)
        fill: tuple[Any, ...] = (0, 0, -1, IGNORE, NOTHING, NOTHING[:2])
        ids, positions, segments, labels, named, sides = (
            torch.tensor([row[k] + [fill[k]] * (length - len(row[k])) for row in rows])
            for k in range(len(fill))
        )
        visible = (segments[:, None, :] == segments[:, :, None]) | (segments[:, None, :] == 0)
        visible &= torch.ones(length, length, dtype=torch.bool).tril()
        mask = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)
        value, colour, seen = (
            torch.from_numpy(np.stack(column))
            for column in zip(*(patch_labels(scene) for scene in drawn), strict=True)
        )
        images = torch.from_numpy(np.stack([scene.image for scene in drawn])).float() / 255
        mean, std = torch.tensor(tiny_llava.IMAGE_MEAN), torch.tensor(tiny_llava.IMAGE_STD)
        return {
            "pixel_values": ((images - mean) / std).permute(0, 3, 1, 2),
            "input_ids": ids,
            "position_ids": positions,
            "attention_mask": mask[:, None],
            "labels": labels,
            "named": named,
            "sides": sides,
            "patch_value": value,
            "patch_colour": colour,
            "seen": seen,
        }


class Probes(nn.Module):
    """All read-outs that exist only in training."""

    def __init__(self, vision_width: int, text_width: int) -> None:
        super().__init__()
        self.sight = SightProbes(vision_width)
        places = PATCHES_PER_SIDE, PATCHES_PER_SIDE
        self.grounding = WordProbe(text_width, (10, len(scenes.COLOUR_NAMES), *places))
        self.comparison = WordProbe(text_width, (3, 3))


def losses(
    model: Any, probes: Probes, batch: dict[str, torch.Tensor], recipe: Recipe, step: int
) -> dict[str, torch.Tensor]:
    """Answer and sight loss of one batch, with the accuracies that the log shows."""
    core = model.model
    hidden_states = core.vision_tower(batch["pixel_values"], output_hidden_states=True).hidden_states
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
            output.hidden_states[recipe.comparison_layer], batch["sides"]
        )
    out["answer"] = nn.functional.cross_entropy(logits, targets)
    right = (logits.argmax(-1) == targets).view(-1, 2)[:, 0]  # answer word, then end of sequence
    out["answer_accuracy"] = right.float().mean()
    return out


def learning_rate(recipe: Recipe, step: int) -> float:
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


def build_optimizer(recipe: Recipe, *modules: nn.Module) -> torch.optim.Optimizer:
    """AdamW with weight decay on matrices only."""
    parameters = [p for module in modules for p in module.parameters()]
    return torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
    )


def train(recipe: Recipe, out: Path, device: str, checkpoint_every: int = 200) -> None:
    """Run the recipe, continuing from ``out/checkpoint.pt`` if it exists."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    model = tiny_llava.build_model().to(device).train()
    widths = model.config.vision_config.hidden_size, model.config.text_config.hidden_size
    probes = Probes(*widths).to(device)
    optimizer = build_optimizer(recipe, model, probes)
    packer = Packer(recipe)
    checkpoint, start = out / "checkpoint.pt", 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(saved["model"])
        probes.load_state_dict(saved["probes"])
        optimizer.load_state_dict(saved["optimizer"])
        start = saved["step"]
    log = (out / "log.jsonl").open("a")
    running: dict[str, float] = {}
    begun = time.time()
    for step in range(start, recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        batch = {k: v.to(device) for k, v in packer.batch("train", step * recipe.batch_size).items()}
        with torch.autocast(device, dtype=torch.bfloat16):
            values = losses(model, probes, batch, recipe, step)
            total = recipe.sight_weight * values["sight"] + values.get("answer", 0)
            words = values.get("grounding", 0) + values.get("comparison", 0)
            total = total + recipe.grounding_weight * words
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_([*model.parameters(), *probes.parameters()], 1.0)
        optimizer.step()
        for key, value in values.items():
            seen = float(value.detach())
            running[key] = 0.95 * running.get(key, seen) + 0.05 * seen
        if (step + 1) % 20 == 0:
            record = {"step": step + 1, "seconds": round(time.time() - begun, 1)}
            record |= {k: round(v, 4) for k, v in running.items()}
            print(json.dumps(record), file=log, flush=True)
        if (step + 1) % checkpoint_every == 0 or step + 1 == recipe.steps:
            state = {"model": model.state_dict(), "probes": probes.state_dict()}
            state |= {"optimizer": optimizer.state_dict(), "step": step + 1}
            torch.save(state, out / "checkpoint.tmp")
            os.replace(out / "checkpoint.tmp", checkpoint)
    model.eval().save_pretrained(out / "model")
    tiny_llava.build_processor().save_pretrained(out / "model")


def main() -> None:
    """Command line of the recipe."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    for name, kind in (("seed", int), ("steps", int), ("sight_steps", int), ("batch_size", int)):
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=getattr(Recipe, name))
    options = vars(parser.parse_args())
    out, device = options.pop("out"), options.pop("device")
    train(Recipe(**options), out, device)


if __name__ == "__main__":
    main()
