"""The gate makes no device wait: what only it knows is read once, behind the last layer."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile_components import Mask, Merges, Scores, llava, vit
from torch.utils._python_dispatch import TorchDispatchMode

import tokensieve
from tokensieve.core.contract import view as view_module
from tokensieve.core.errors import PluginError

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique")
"""Operations whose result the host has to know, besides copies to it."""
CORE = Path(view_module.__file__).resolve().parents[1]
GATE = (
    "gate/",
    "contract/answers.py",
    "contract/boundary_log.py",
    "contract/view.py",
    "blame.py",
)
"""Where the gate is, under ``core``: files, and a folder with all that is in it."""


class Waiting(TorchDispatchMode):
    """Notes for every operation that waits which of our files asked for it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[str]] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = str(getattr(function, "__name__", function)).partition(".")[0]
        if name in WAITS:
            frames = traceback.extract_stack()
            places = [(Path(frame.filename).resolve(), frame.name) for frame in frames]
            self.asked.append(
                [
                    f"{path.relative_to(CORE).as_posix()}:{function_name}"
                    for path, function_name in places
                    if path.is_relative_to(CORE)
                ]
            )
        return function(*args, **(kwargs or {}))


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU, treated as a device for which waiting costs something."""
    monkeypatch.setattr(view_module, "looks_at_once", lambda device: False)


def forward(engine: str, stage: dict[str, Any]) -> Any:
    if engine == "encoder":
        model, pictures = vit()
        return model, lambda: model(pictures)
    model, inputs = llava()
    return model, lambda: model(**inputs)


def waits(engine: str, stage: dict[str, Any]) -> list[list[str]]:
    model, run = forward(engine, stage)
    with torch.no_grad(), tokensieve.attach(model, stage), Waiting() as waiting:
        run()
    asked: list[list[str]] = waiting.asked
    return asked


STAGES: dict[str, dict[str, Any]] = {
    "top-k": {"at": [1, 2, 3], "score": "hidden-change", "keep": [9, 6, 4]},
    "two-scorers": {
        "at": 2, "keep": 5,
        "score": ["hidden-change", {"scorer": "ttv", "normalize": "zscore", "weight": 2}],
    },
    "in-order": {"at": 2, "score": "hidden-change", "keep": 5, "order": "selection"},
    "greedy": {"at": 2, "score": "hidden-change", "select": "max-min", "keep": 5},
    "composite": {
        "at": 2, "score": "hidden-change", "keep": 5,
        "select": {"selector": "composite", "parts": [{"share": 0.5, "score": "uniform"}, {}]},
    },
    "merged": {"at": 2, "score": "hidden-change", "keep": 5, "merge": "absorb"},
}  # fmt: skip


def test_the_gate_is_where_it_is_looked_for() -> None:
    assert all((CORE / place).exists() for place in GATE)
    assert (CORE / "engine/decision.py").exists()


@pytest.mark.parametrize("engine", ["decoder", "encoder"])
@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_the_gate_waits_once_behind_the_last_layer(
    stage: dict[str, Any], engine: str, device: None
) -> None:
    asked = waits(engine, stage)
    of_the_gate = [names for names in asked if any(n.startswith(GATE) for n in names)]
    assert not [names for names in of_the_gate if "engine/base.py:_settle" not in names]
    inside = [names for names in asked if any(n.startswith("engine/decision.py:") for n in names)]
    merges = "merge" in stage
    assert len(inside) == int(merges)  # the rows that merged vectors are written to


@pytest.mark.parametrize("engine", ["decoder", "encoder"])
@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"score": Scores(answer=lambda v: v.hidden[..., 0] * float("nan"))}, "not finite"),
        ({"select": Mask(answer=lambda available, counts: available)}, "another number"),
        (
            {"merge": Merges(answer=lambda good: good.__class__(
                good.targets, good.vectors, good.sizes * 0))},
            "sizes",
        ),
    ],
    ids=["scores", "mask", "sizes"],
)  # fmt: skip
def test_what_is_wrong_is_said_before_the_answer_leaves(
    part: dict[str, Any], message: str, engine: str, device: None
) -> None:
    stage = {"at": 2, "score": "hidden-change", "keep": 5, **part}
    model, run = forward(engine, stage)
    seen: list[Any] = []
    layers = model.blocks if engine == "encoder" else model.model.language_model.layers
    with torch.no_grad(), tokensieve.attach(model, stage):
        handle = layers[-1].register_forward_hook(lambda *_: seen.append(True))
        try:
            with pytest.raises(PluginError, match=message):
                seen.append(run())
        finally:
            handle.remove()
    assert seen == [True]  # the last layer ran, and no answer came
