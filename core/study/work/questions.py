"""The examples of a task, kept with what the model's processor made of them so far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tokensieve.core.contract.tasks import Example, Task
from tokensieve.core.lazy import torch
from tokensieve.core.study.work.study_models import Inputs, StudyModel, prepare_named

CACHE_BYTES = 1 << 29  # prepared questions that a worker keeps for the next cell
Batch = tuple[Sequence[Example], Inputs]
"""Examples, and their inputs."""


@dataclass
class Questions:
    """The examples of a task, and what the model's processor made of them so far."""

    task: Task
    examples: Sequence[Example]
    prepared: dict[tuple[int, int], Inputs] = field(default_factory=dict)
    bytes: int = 0

    def batches(self, model: StudyModel, size: int) -> Iterator[Batch]:
        """Examples and their inputs; what fits into the cache is kept for the next cell."""
        for start in range(0, len(self.examples), size):
            batch = self.examples[start : start + size]
            inputs = self.prepared.get((start, size))
            if inputs is None:
                inputs = prepare_named(model, batch)
                tensors = [value for value in inputs.values() if isinstance(value, torch.Tensor)]
                self.bytes += sum(tensor.nbytes for tensor in tensors)
                if self.bytes <= CACHE_BYTES:
                    self.prepared[start, size] = inputs
            yield batch, inputs
