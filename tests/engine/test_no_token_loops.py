"""No component loops over tokens in Python: four times the tokens, the same operations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tokensieve.core.contract.ranking import top_counts
from tokensieve.core.plugins.discovery import build_registry
from tokensieve.core.plugins.registry import Entry
from tokensieve.core.testing import Scene, synthetic_batch
from tokensieve.core.testing.trials import ComponentUnderTest

REGISTRY = build_registry()
ENTRIES = [e for kind in ("scorer", "selector", "merger") for e in REGISTRY.all(kind)]
FEW, MANY, BUDGET = 144, 576, 20
ROUNDS = {"dedupe": (MANY - FEW) // 8, "tome": 4}
"""Methods that work in rounds, as published: eight tokens fewer in each, or half of them."""


class Counter(TorchDispatchMode):
    """Counts the operations of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.calls += 1
        return function(*args, **(kwargs or {}))


def operations(entry: Entry, component: Any, tokens: int) -> int:
    """How many operations one call takes on an image of ``tokens`` tokens."""
    scene = Scene(tokens=(tokens,), boundary=9, layers=tuple(range(9)),
                  depths=tuple(sorted(component.vision_depths())))  # fmt: skip
    if getattr(component, "space", "") == "vision":
        scene = Scene(tokens=(tokens,), boundary=0, depths=scene.depths)
    batch = synthetic_batch(scene)
    view = batch.view()
    scores, counter = batch.tensors["scores"], Counter()
    with torch.no_grad():
        if entry.kind == "merger":
            split = component.split(BUDGET, tokens, True)
            kept = top_counts(scores, batch.valid, [split.selected])
            reader = view.after(kept, scores)
            with counter:
                component.apply(kept, [split.merged], reader)
        elif entry.kind == "selector":
            with counter:
                component.select(scores, batch.valid, [BUDGET], view)
        else:
            with counter:
                component.score(view)
    return counter.calls


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.kind}-{entry.name}")
def test_four_times_the_tokens_take_the_same_operations(entry: Entry) -> None:
    for trial in ComponentUnderTest(entry.value).trials:
        few, many = (operations(entry, trial.component, tokens) for tokens in (FEW, MANY))
        allowed = few + 90 * ROUNDS.get(entry.name, 0)
        assert many <= allowed, f"{trial.parameters}: {few} operations, then {many}"
