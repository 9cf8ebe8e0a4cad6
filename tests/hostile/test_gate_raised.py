"""Whatever a component raises, wherever it is asked, is one line that names it."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from typing import Any

import hostile_components as parts
import pytest
from command_line import clear
from hostile_answers import (
    RAISED,
)
from hostile_components import PLUGIN, each, refused
from torch import Tensor

import tokensieve
from tokensieve.core.contract.view import View
from tokensieve.core.errors import TokensieveError
from tokensieve.core.pipeline.loading import load_pipeline
from tokensieve.core.plugins.discovery import build_registry
from tokensieve.core.study.work.worker import failure
from tokensieve.core.testing import check_component


def raising(place: str, run: Callable[[], Any]) -> dict[str, Any]:
    """A stage whose component raises at ``place``."""
    bad, good = (lambda *_: run()), (lambda merged: merged)
    stage: dict[str, Any] = {"at": 2, "score": "hidden-change", "keep": 5}
    more: dict[str, dict[str, Any]] = {
        "score": {"score": parts.Scores(answer=bad)},
        "select": {"select": parts.Mask(answer=bad)},
        "take-in-order": {"select": parts.Turns(answer=bad), "order": "selection"},
        "order": {"select": parts.Ordered(answer=bad), "order": "selection"},
        "apply": {"merge": parts.Merges(answer=bad)},
        "split": {"merge": parts.Merges(answer=good, divide=bad)},
    }
    return {**stage, **more[place]}


@pytest.mark.parametrize("place", ["score", "select", "take-in-order", "order", "apply", "split"])
@each(**RAISED)
def test_whatever_a_component_raises(case: Any, place: str) -> None:
    said = refused(lambda: parts.in_llava(raising(place, case)), PLUGIN, "'hostile-")
    assert "stage 1, boundary 2" in said
    assert len(said) < 500


@pytest.mark.parametrize("place", ["score", "select", "apply"])
@each(**{name: RAISED[name] for name in ("exit-0", "keyboard", "deadly", "base", "recursion")})
def test_whatever_a_component_raises_in_a_classifier(case: Any, place: str) -> None:
    refused(lambda: parts.in_vit(raising(place, case)), PLUGIN, "stage 1, boundary 2")


@pytest.mark.parametrize("place", ["select", "apply", "take-in-order"])
@each(builtin=signal.default_int_handler, own=None)
def test_the_users_ctrl_c_stays_one(case: Any, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, case or interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            parts.in_llava(raising(place, lambda: signal.raise_signal(signal.SIGINT)))
    finally:
        signal.signal(signal.SIGINT, before)


DECLARED = ("required", "readable", "history", "vision_depths", "rescaled")


def declaring(method: str, run: Callable[[], Any]) -> Any:
    def answer(self: Any, *_: Any) -> Any:
        return run()

    fields = {"name": "declares", "score": lambda self, view: view.hidden[..., 0], method: answer}
    return type("Declares", (tokensieve.Scorer,), fields)()


@pytest.mark.parametrize("method", DECLARED)
@each(**RAISED)
def test_whatever_a_declaration_raises(case: Any, method: str) -> None:
    scorer = declaring(method, case)
    refused(lambda: parts.in_llava({"at": 2, "score": scorer, "keep": 5}), "scorer 'declares'")


@each(none=None, text="hidden", number=3, listed=["hidden"], mapping={"hidden": 1}, nan=math.nan)
@pytest.mark.parametrize("method", ["required", "readable", "vision_depths", "rescaled"])
def test_declarations_that_mean_nothing(case: Any, method: str) -> None:
    scorer = declaring(method, lambda: case)
    refused(lambda: parts.in_llava({"at": 2, "score": scorer, "keep": 5}), "scorer 'declares'")


@each(
    number=3,
    one=(1,),
    three=(0, 1, 2),
    floats=(0.0, 1.0),
    text="01",
    bools=(False, True),
    nan=math.nan,
)
def test_spans_of_layers_that_mean_nothing(case: Any) -> None:
    scorer = declaring("history", lambda: case)
    refused(lambda: parts.in_llava({"at": 2, "score": scorer, "keep": 5}), "history(2)")


@each(**RAISED)
def test_whatever_a_parameter_raises(case: Any) -> None:
    from pydantic import field_validator

    class Picky(tokensieve.Scorer):
        """Has an opinion on its parameter."""

        name = "picky"
        depth_of_field: float = 1.0

        @field_validator("depth_of_field")
        @classmethod
        def _fits(cls, value: float) -> float:
            case()
            return value

        def score(self, view: View) -> Tensor:
            return view.hidden[..., 0]

    registry = build_registry().copy()
    registry.add(Picky)
    stage = {"at": 2, "score": {"scorer": "picky", "depth_of_field": 2}, "keep": 5}
    refused(lambda: load_pipeline(stage, registry=registry), kind=TokensieveError)


@pytest.mark.parametrize("place", ["examples", "score"])
@each(**RAISED)
def test_whatever_a_component_raises_is_a_result_of_the_conformance_suite(
    case: Any, place: str
) -> None:
    class Bad(tokensieve.Scorer):
        """Rank tokens somehow."""

        name = "bad"
        needs = frozenset({"hidden"})

        @classmethod
        def examples(cls) -> list[dict[str, Any]]:
            return case() if place == "examples" else [{}]

        def score(self, view: View) -> Tensor:
            case()
            return view.hidden[..., 0]

    failed = [result for result in check_component(Bad) if not result.passed]
    assert failed
    assert all(result.detail and "\n" not in result.detail for result in failed)


@each(**RAISED)
def test_whatever_is_raised_can_be_written_down(case: Any) -> None:
    try:
        case()
    except BaseException as error:
        said = failure(error)["error"]
    clear(said)
