"""The registry refuses what would fail later; a view gives what a component declared."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

import tokensieve
from tokensieve.core.contract.components import Component
from tokensieve.core.contract.view import View
from tokensieve.core.errors import PluginError, SignalError
from tokensieve.core.plugins.registry import Registry


def _class(**body: Any) -> type[Component]:
    def score(self: Any, view: View) -> torch.Tensor:
        return view.hidden[..., 0]

    members = {"__module__": __name__, "__doc__": "A scorer.", "score": score, **body}
    return type("Made", (tokensieve.Scorer,), members)


def _annotated(parameter: str, kind: Any, value: Any) -> type[Component]:
    return _class(**{"name": "made", "__annotations__": {parameter: kind}, parameter: value})


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "no class": (lambda: 3, "3 is no subclass of Scorer, Selector, Merger, Adapter or Task"),
    "other class": (lambda: dict, "is no subclass"),
    "object": (
        lambda: _class(name="made").model_validate({}),
        "is an object: add the class itself",
    ),
    "no name": (_class, "has no name: set the class attribute `name`"),
    "blank name": (lambda: _class(name=" "), "has no name"),
    "number as name": (lambda: _class(name=5), "has no name"),
    "abstract": (
        lambda: type("Made", (tokensieve.Scorer,), {"__module__": __name__, "name": "made"}),
        "scorer 'Made' is not complete: define score",
    ),
    "reserved parameter": (
        lambda: _annotated("weight", float, 1.0),
        "parameter 'weight' is a key of its own in YAML: rename it",
    ),
    "unknown signal": (
        lambda: _class(name="made", needs=frozenset({"hiden"})),
        r"`needs` names the unknown signal 'hiden' \(did you mean 'hidden'\?\)",
    ),
    "unknown optional signal": (
        lambda: _class(name="made", uses=frozenset({"cls"})),
        "`uses` names the unknown signal 'cls'",
    ),
    "letters as signals": (
        lambda: _class(name="made", needs=frozenset("hidden")),
        "unknown signal 'd'",
    ),
    "text as signals": (
        lambda: _class(name="made", needs="hidden"),
        r"`needs` is 'hidden', allowed: a set of signals such as frozenset\(\{\"hidden\"\}\)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_registry_refuses_what_would_fail_later(case: str) -> None:
    make, reason = REFUSED[case]
    registry = Registry()
    with pytest.raises(PluginError, match=reason):
        registry.add(make())
    assert not any(registry.entries.values())


@pytest.mark.parametrize(("attribute", "kind"), [("name", str), ("needs", frozenset)])
def test_annotated_class_attribute_is_not_mistaken_for_a_parameter(
    attribute: str, kind: type
) -> None:
    with pytest.warns(UserWarning, match=f'"{attribute}".*shadows'):
        component = _annotated(attribute, kind, kind())
    with pytest.raises(PluginError, match=f"`{attribute} = ...` without a type"):
        Registry().add(component)


# ------------------------------------------------------------------ what a plugin may read


@pytest.fixture
def view() -> View:
    valid = torch.ones(1, 2, dtype=torch.bool)
    signals = {"hidden": lambda: torch.zeros(1, 2, 3)}
    return View(valid, valid.long(), signals, boundary=4)


def test_reading_an_undeclared_signal_names_reader_signal_and_remedy(view: View) -> None:
    reader = view.restricted("scorer 'mine'", frozenset({"grid"}))
    with pytest.raises(SignalError) as caught:
        _ = reader.hidden
    message = str(caught.value)
    assert "scorer 'mine' reads 'hidden' but does not declare it: add it to `needs`" in message
    assert "(declared: grid)" in message
    assert not reader.has("hidden")


def test_reading_a_signal_that_is_not_there_names_boundary_and_remedy(view: View) -> None:
    reader = view.restricted("scorer 'mine'", frozenset({"cls_feature"}))
    assert not reader.has("cls_feature")
    with pytest.raises(SignalError, match=r"boundary 4: ask `view\.has\('cls_feature'\)` first"):
        _ = reader.cls_feature


@pytest.mark.parametrize("access", [View.has, View.read])
def test_misspelt_signal_is_an_error_not_an_absent_one(view: View, access: Any) -> None:
    with pytest.raises(SignalError, match=r"no signal 'hiden' \(did you mean 'hidden'\?\)"):
        access(view, "hiden")


def test_misspelt_attribute_names_reader_and_alternatives(view: View) -> None:
    reader = view.restricted("scorer 'mine'", frozenset({"hidden"}))
    expected = r"scorer 'mine': a view has no 'hiden' \(did you mean 'hidden'\?\)"
    with pytest.raises(AttributeError, match=expected):
        _ = reader.hiden  # type: ignore[attr-defined]
    assert not hasattr(reader, "tokens")
    assert copy.copy(reader).valid is reader.valid


def test_failure_inside_a_signal_is_not_taken_for_a_missing_attribute() -> None:
    def fail() -> torch.Tensor:
        raise AttributeError("the vision tower has no attribute 'heads'")

    valid = torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(AttributeError, match="the vision tower"):
        _ = View(valid, valid.long(), {"hidden": fail}).hidden
