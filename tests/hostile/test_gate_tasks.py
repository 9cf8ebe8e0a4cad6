"""Hostile tasks, and packages that share a name: right, or one line that names them."""

from __future__ import annotations

import math
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile_answers import (
    RAISED,
)
from hostile_components import each, refused
from PIL import Image
from plugin_sources import install, write

import tokensieve
from tokensieve.core.contract.tasks import Box, Example
from tokensieve.core.contract.vision_record import VisionRecord
from tokensieve.core.errors import TokensieveError
from tokensieve.core.gate.tasks import asked_examples, asked_score
from tokensieve.core.gate.vision_records import check_record
from tokensieve.core.plugins import discovery as plugins
from tokensieve.core.plugins.discovery import build_registry
from tokensieve.core.plugins.registry import Registry


class Asks(tokensieve.Task):
    """Asks and scores as it is told."""

    name = "hostile-task"
    answer: Any = None
    drawn: Any = None

    def examples(self, count: int, seed: int) -> Any:
        return self.drawn(count)

    def score(self, example: Example, answer: str) -> float:
        given: float = self.answer()
        return given


EXAMPLE = Example("one", (), "what?", "this")
SCORES = {
    "nan": math.nan, "inf": math.inf, "minus-inf": -math.inf, "percent": 85, "above": 1.001,
    "below": -0.001, "none": None, "text": "1.0", "word": "right", "list": [1.0], "tuple": (1,),
    "complex": 1 + 0j, "decimal": Decimal("0.5"), "huge": 10**400, "minus-huge": -(10**400),
    "wide-float": 1e308, "numpy-array": np.array([0.5, 0.5]), "numpy-nan": np.float32("nan"),
    "tensor-vector": torch.tensor([0.5]), "tensor-nan": torch.tensor(math.nan),
    "tensor-85": torch.tensor(85), "dict": {"score": 1.0}, "class": float, "ellipsis": ...,
    "bytes": b"1", "numpy-percent": np.int64(85), "numpy-text": np.str_("1"),
    "meta": torch.ones((), device="meta"), "numpy-date": np.datetime64("2020"),
    "long-digits": int("9" * 4000),
}  # fmt: skip


@each(**SCORES)
def test_scores_of_answers(case: Any) -> None:
    task = Asks(answer=lambda: case)
    refused(lambda: asked_score(task, EXAMPLE, "this"), "'hostile-task'", kind=TokensieveError)


@pytest.mark.parametrize(
    ("given_score", "expected"),
    [(0, 0.0), (1, 1.0), (True, 1.0), (False, 0.0), (0.25, 0.25), (Fraction(1, 2), 0.5),
     (np.float32(0.5), 0.5), (np.bool_(True), 1.0), (torch.tensor(0.5), 0.5), (1 + 1e-12, 1.0),
     (-1e-12, 0.0), (np.float64(1), 1.0)],
)  # fmt: skip
def test_scores_of_answers_that_are_shares(given_score: Any, expected: float) -> None:
    score = asked_score(Asks(answer=lambda: given_score), EXAMPLE, "this")
    assert (type(score), score) == (float, expected)


PICTURE = Image.new("RGB", (2, 2))
AnyBox: Any = Box


def but(**wrong: Any) -> Example:
    return replace(EXAMPLE, **wrong)


DRAWN: dict[str, Any] = {
    "none": None, "text": "abc", "bytes": b"abc", "number": 3, "set": {1}, "dict": {"a": EXAMPLE},
    "generator": (n for n in range(2)), "numbers": [1, 2], "texts": ["a"], "mixed": [EXAMPLE, None],
    "too-many": [EXAMPLE] * 3, "the-class": [Example], "dicts": [{"id": "a"}],
    "no-id": [but(id=None)], "number-id": [but(id=3)],
    "answer-number": [but(answer=3)],
    "answer-list": [but(answer=["a"])],
    "a-path": [but(images=("a.png",))],
    "image-itself": [but(images=PICTURE)],
    "arrays": [but(images=(np.ones(3),))],
    "boxes-flat": [but(images=(PICTURE,), boxes=(Box(0, 0, 1, 1),))],
    "boxes-many": [but(images=(PICTURE,), boxes=((), ()))],
    "boxes-pixels": [but(images=(PICTURE,), boxes=((Box(0, 0, 10, 10),),))],
    "boxes-nan": [but(images=(PICTURE,), boxes=((Box(0, 0, math.nan, 1),),))],
    "boxes-lists": [but(images=(PICTURE,), boxes=(([0, 0, 1, 1],),))],
    "boxes-text": [but(images=(PICTURE,), boxes=((AnyBox("0", 0, 1, 1),),))],
}  # fmt: skip


@each(**DRAWN)
def test_examples_of_a_task(case: Any) -> None:
    task = Asks(drawn=lambda count: case)
    refused(lambda: asked_examples(task, 2, 0), "'hostile-task'", kind=TokensieveError)


@pytest.mark.parametrize("place", ["examples", "score"])
@each(**RAISED)
def test_whatever_a_task_raises(case: Any, place: str) -> None:
    task = Asks(answer=case, drawn=lambda count: case())
    if place == "score":
        refused(lambda: asked_score(task, EXAMPLE, "a"), "'hostile-task'", kind=TokensieveError)
    else:
        refused(lambda: asked_examples(task, 2, 0), "'hostile-task'", kind=TokensieveError)


# ------------------------------------------------------------------ what adapters record

RECORD = VisionRecord(
    [2, 3], torch.ones(5, 4), None, {}, torch.ones(5, 6), torch.ones(2, 6), torch.ones(5, 2),
    torch.ones(5), torch.ones(5),
)  # fmt: skip
ROWS = {"none-left": lambda t: t[:0], "one-more": lambda t: torch.cat([t, t[:1]]),
        "one-less": lambda t: t[1:], "scalar": lambda t: t.sum(), "list": lambda t: t.tolist(),
        "numpy": lambda t: t.numpy(), "complex": lambda t: t + 0j, "deep": lambda t: t[..., None],
        "flat": lambda t: torch.ones(7)}  # fmt: skip


def test_a_record_that_fits() -> None:
    check_record(RECORD, "mine")
    check_record(VisionRecord([0]), "mine")


@pytest.mark.parametrize(
    "field", ["outputs", "features", "cls_features", "grid", "tile", "clip_relevance"]
)
@each(**ROWS)
def test_records_of_an_encoder(case: Any, field: str) -> None:
    wrong = replace(RECORD, **{field: case(getattr(RECORD, field))})
    refused(lambda: check_record(wrong, "mine"), "adapter 'mine'", field)


@each(
    none=None, tuple=(2, 3), floats=[2.0, 3.0], bools=[True], negative=[-1, 6], tensor=torch.ones(2)
)
def test_pictures_of_a_record(case: Any) -> None:
    refused(lambda: check_record(replace(RECORD, images=case), "mine"), "adapter 'mine'", "images")


# ------------------------------------------------------------------ two packages, one name

HEAD = "import tokensieve\nfrom pathlib import Path\n"
BODIES = {
    "scorer": 'class F(tokensieve.Scorer):\n    """Doc."""\n    name = "same"\n'
    "    def score(self, view):\n        return view.hidden[..., 0]\n",
    "selector": 'class F(tokensieve.Selector):\n    """Doc."""\n    name = "same"\n'
    "    def select(self, scores, available, counts, view):\n        return available\n",
    "merger": 'class F(tokensieve.Merger):\n    """Doc."""\n    name = "same"\n'
    "    def apply(self, kept, counts, view):\n        return None\n",
    "task": 'class F(tokensieve.Task):\n    """Doc."""\n    name = "same"\n'
    "    def examples(self, count, seed):\n        return []\n",
}
HOOK = "@tokensieve.hookimpl\ndef tokensieve_register(registry):\n"


@pytest.mark.parametrize("packages", [2, 3])
@pytest.mark.parametrize("kind", [*BODIES, "model", "pipeline"])
def test_packages_that_share_a_name(
    kind: str, packages: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugins._build.cache_clear()
    owners = [f"gate-{kind}-{packages}-{letter}" for letter in "abc"[:packages]]
    write(tmp_path / "files" / "same.yaml", "at: 1\nscore: ttv\nkeep: 0.5\n")
    adds = {"model": 'registry.add_model("same", "x")', "pipeline":
            f'registry.add_pipelines({str(tmp_path / "files")!r})'}  # fmt: skip
    for owner in owners:
        own = 'class O(tokensieve.Scorer):\n    """Doc."""\n' + f'    name = "{owner}"\n'
        own += "    def score(self, view):\n        return view.hidden[..., 0]\n"
        hook = f"{HOOK}    registry.add(O)\n    {adds.get(kind, 'registry.add(F)')}\n"
        install(tmp_path, monkeypatch, owner, HEAD + BODIES.get(kind, "") + own + hook)
    try:
        registry = build_registry()
        refused(lambda: registry.get(kind, "same"), *owners)
        assert [problem for problem in registry.problems if all(o in problem for o in owners)]
        assert "same" not in registry.entries[kind]
        assert set(owners) <= set(registry.entries["scorer"])  # what they do not share stays
    finally:
        plugins._build.cache_clear()


def test_one_package_that_takes_a_name_twice_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(owner="one")
    registry.add_model("same", "x")
    refused(lambda: registry.add_model("same", "y"), "'one'")
