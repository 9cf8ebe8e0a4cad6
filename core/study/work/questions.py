"""The examples of a task, and what the model's processor made of them so far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokensieve.core.contract.tasks import Example, Task
from tokensieve.core.lazy import torch
from tokensieve.core.study.work.subjects import Subject, prepare_named

CACHE_BYTES = 1 << 29  # prepared questions that a worker keeps for the next cell
Batch = tuple[Sequence[Example], Any]
"""Examples, and their inputs."""


@dataclass
class Questions:
    """The examples of a task, and what the model's processor made of them so far."""

    task: Task
    examples: Sequence[Example]
    prepared: dict[tuple[int, int], Any] = field(default_factory=dict)
    bytes: int = 0

    def batches(self, subject: Subject, size: int) -> Iterator[Batch]:
        """Examples and their inputs."""
        for start in range(0, len(self.examples), size):
            batch = self.examples[start : start + size]
            inputs = self.prepared.get((start, size))
            if inputs is None:
                inputs = prepare_named(subject, batch)
                self._keep((start, size), inputs)
            yield batch, inputs

    def _keep(self, place: tuple[int, int], inputs: Any) -> None:
        tensors = [value for value in inputs.values() if isinstance(value, torch.Tensor)]
        self.bytes += sum(tensor.nbytes for tensor in tensors)
        if self.bytes <= CACHE_BYTES:
            self.prepared[place] = inputs
