"""Every registered component keeps the contract; the suite that says so can fail.

Nothing here lists components by hand: a scorer that is registered is covered.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Any

import broken_scorers
import broken_selectors_and_mergers
import pytest
import torch
from broken_scorers import Norm

import tokensieve
from tokensieve import strategies
from tokensieve.core.contract.components import Component
from tokensieve.core.contract.view import View
from tokensieve.core.plugins.discovery import build_registry
from tokensieve.core.plugins.registry import Entry
from tokensieve.core.testing import (
    CHECKS,
    Check,
    CheckFailed,
    all_checks,
    assert_conforms,
    check_component,
)

ENTRIES = [entry for kind in CHECKS for entry in build_registry().all(kind)]
CASES = [(entry, check) for entry in ENTRIES for check in all_checks(entry.value)]
BROKEN = [*broken_scorers.BROKEN, *broken_selectors_and_mergers.BROKEN]


@pytest.mark.parametrize(("entry", "check"), CASES, ids=[f"{e.name}-{c}" for e, c in CASES])
def test_registered_component_keeps_the_contract(entry: Entry, check: Check) -> None:
    check(entry.value)


def test_every_component_in_strategies_is_registered() -> None:
    defined = set()
    for found in pkgutil.walk_packages(strategies.__path__, f"{strategies.__name__}."):
        for value in vars(importlib.import_module(found.name)).values():
            is_component = isinstance(value, type) and issubclass(value, Component)
            if is_component and not inspect.isabstract(value):
                defined.add(value)
    built_in = {c for c in defined if c.__module__.startswith(strategies.__name__)}
    assert built_in
    assert built_in <= {entry.value for entry in ENTRIES}


@pytest.mark.parametrize("component", BROKEN, ids=lambda component: component.__name__)
def test_broken_component_is_caught_by_its_check_alone(component: Any) -> None:
    failed = [result for result in check_component(component) if not result.passed]
    assert [result.check for result in failed] == [component.breaks]
    assert failed[0].detail
    with pytest.raises(CheckFailed, match=component.breaks):
        assert_conforms(component)


def test_every_check_has_a_component_that_it_catches() -> None:
    names = {check.name for checks in CHECKS.values() for check in checks}
    assert names == {component.breaks for component in BROKEN} | {"registers"}


def test_class_that_cannot_be_registered_is_caught_by_registers_alone() -> None:
    class Nameless(Norm):
        """It has no name."""

    (result,) = check_component(Nameless)
    assert (result.check, result.passed) == ("registers", False)
    assert "name" in result.detail


def test_checks_that_make_no_sense_are_not_run() -> None:
    wrong_shape = next(c for c in BROKEN if c.breaks == "score-shape")
    results = check_component(wrong_shape)
    assert results[-1].check == "score-shape"
    assert len(results) < len(all_checks(wrong_shape))


def test_every_option_of_a_parameter_is_tried() -> None:
    class Moody(Norm):
        """Rank tokens, but not in every mood."""

        name = "moody"
        friendly: bool = True

        def score(self, view: View) -> torch.Tensor:
            if not self.friendly:
                raise RuntimeError("not today")
            return super().score(view)

    failed = [result for result in check_component(Moody) if not result.passed]
    assert [result.check for result in failed] == ["runs"]
    assert "not today" in failed[0].detail
    assert "with {'friendly': False}" in failed[0].detail
    assert not [r for r in check_component(Moody, {"friendly": True}) if not r.passed]


def test_examples_are_tried_as_parameter_sets() -> None:
    class Steep(Norm):
        """Rank tokens by a power of their length."""

        name = "steep"
        power: int

        @classmethod
        def examples(cls) -> list[dict[str, Any]]:
            return [{"power": 1}, {"power": 400}]

        def score(self, view: View) -> torch.Tensor:
            return super().score(view) ** self.power

    failed = {r.check: r.detail for r in check_component(Steep) if not r.passed}
    assert "with {'power': 400}" in failed["finite"]


def test_check_called_with_a_class_raises_if_the_class_breaks_it() -> None:
    wrong = next(component for component in BROKEN if component.breaks == "name")
    check = next(check for check in all_checks(wrong) if check.name == "name")
    with pytest.raises(AssertionError, match=r"scorer 'Bad_Name': name: .*not kebab-case"):
        check(wrong)


def test_scorer_of_the_documentation_conforms() -> None:
    class NormScorer(tokensieve.Scorer):
        """Rank visual tokens by the length of their hidden state."""

        name = "norm"
        needs = frozenset({"hidden"})
        power: float = 1.0

        def score(self, view: View) -> torch.Tensor:
            lengths: torch.Tensor = view.hidden.norm(dim=-1)
            return lengths**self.power

    assert_conforms(NormScorer)
