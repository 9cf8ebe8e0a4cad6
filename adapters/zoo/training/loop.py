"""The loop that all recipes share: learning rate, step, running means, log, checkpoint.

Steps are numbered and their pictures drawn by number, so that a step is the same whenever it is
made: a run that is stopped continues from its checkpoint as if it had not been.
"""

from __future__ import annotations

import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm


class Recipe(Protocol):
    """The numbers of a recipe that the loop looks at."""

    @property
    def steps(self) -> int:
        """Steps of the whole run."""

    @property
    def learning_rate(self) -> float:
        """The highest rate of the optimizer."""

    @property
    def weight_decay(self) -> float:
        """Decay of matrices; vectors have none."""


RecipeT = TypeVar("RecipeT", bound=Recipe)
ModelT = TypeVar("ModelT", bound=nn.Module)
ReadoutsT = TypeVar("ReadoutsT", bound=nn.Module)


class Trainer(ABC, Generic[RecipeT, ModelT, ReadoutsT]):
    """A run of a recipe in a folder: model, read-outs, optimizer, and the step they have reached.

    Attributes:
        log: name of the file of running means, with a line every ``log_every`` steps.
        checkpoint_every: steps between two checkpoints; None for runs that always start anew.
        readouts_key: what the read-outs are called in a checkpoint.
        readouts: what is trained beside the model and thrown away afterwards.
    """

    log: ClassVar[str] = "log.jsonl"
    log_every: ClassVar[int] = 20
    checkpoint_every: ClassVar[int | None] = None
    readouts_key: ClassVar[str] = "readouts"

    def __init__(
        self, recipe: RecipeT, model: ModelT, readouts: ReadoutsT, out: Path, device: str
    ) -> None:
        self.recipe, self.out, self.device = recipe, out, device
        self.model, self.readouts = model, readouts
        parameters = [*model.parameters(), *readouts.parameters()]
        decay = recipe.weight_decay
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
                {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=recipe.learning_rate,
            betas=(0.9, 0.98),
        )
        self.done = 0
        self.running: dict[str, float] = {}

    @abstractmethod
    def rate(self, step: int) -> float:
        """The learning rate of a step."""

    @abstractmethod
    def loss(self, step: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        """What a step makes smaller, and what the log shows of it."""

    def clipped(self) -> list[nn.Parameter]:
        """The parameters whose gradients are clipped together."""
        return [*self.model.parameters(), *self.readouts.parameters()]

    def advance(self) -> None:
        """Make one step."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(self.done)
        total, values = self.loss(self.done)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(self.clipped(), 1.0)
        self.optimizer.step()
        self.done += 1
        for key, value in values.items():
            now = float(value.detach())
            self.running[key] = 0.95 * self.running.get(key, now) + 0.05 * now

    def shown(self, seconds: float) -> dict[str, float]:
        """A line of the log."""
        means = {key: round(value, 4) for key, value in sorted(self.running.items())}
        return {"step": self.done, "seconds": round(seconds, 1), **means}

    def run(self) -> None:
        """Make all steps, from the checkpoint on if there is one, and write log and checkpoints."""
        self.out.mkdir(parents=True, exist_ok=True)
        self.resume()
        begun, steps, every = time.time(), self.recipe.steps, self.checkpoint_every
        bar = tqdm(total=steps, initial=self.done, unit="step", mininterval=20)
        mode = "w" if every is None else "a"
        with bar, (self.out / self.log).open(mode, encoding="utf-8") as log:
            while self.done < steps:
                self.advance()
                bar.update()
                if self.done % self.log_every == 0:
                    shown = self.shown(time.time() - begun)
                    bar.set_postfix(shown)
                    print(json.dumps(shown), file=log, flush=True)
                if every is not None and (self.done % every == 0 or self.done == steps):
                    self.save()

    # ------------------------------------------------------------------ checkpoints

    @property
    def checkpoint(self) -> Path:
        """The one file that a run continues from."""
        return self.out / "checkpoint.pt"

    def resume(self) -> None:
        """Continue where an earlier run in the same folder stopped, if there was one."""
        if self.checkpoint_every is None or not self.checkpoint.exists():
            return
        saved: dict[str, Any] = torch.load(
            self.checkpoint, map_location=self.device, weights_only=True
        )
        self.model.load_state_dict(saved["model"])
        self.readouts.load_state_dict(saved[self.readouts_key])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.done, self.running = saved["step"], saved.get("running", {})

    def save(self) -> None:
        """Write the checkpoint; a crash while writing leaves the old one."""
        state = {
            "model": self.model.state_dict(),
            self.readouts_key: self.readouts.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.done,
            "running": self.running,
        }
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.checkpoint)
