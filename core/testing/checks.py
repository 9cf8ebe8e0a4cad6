"""A check: one rule of the contract, with a name, a meaning, and a way to run it."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from tokensieve.core.blame import by_user
from tokensieve.core.errors import TokensieveError
from tokensieve.core.foreign import said, text_of
from tokensieve.core.testing.trials import CheckFailed, ComponentUnderTest, Trial, require


@dataclass(frozen=True)
class CheckResult:
    """One check of one component; ``detail`` says what is wrong."""

    component: str
    kind: str
    check: str
    passed: bool
    detail: str = ""


@dataclass(frozen=True)
class Check:
    """One rule of the contract.

    Called with a component class it raises an ``AssertionError`` if the class breaks the rule, so
    it can be a pytest parameter.

    Attributes:
        name: kebab-case.
        meaning: the rule in one line.
        run: raises :class:`CheckFailed`.
        gate: where this fails, the checks that follow make no sense.
    """

    name: str
    meaning: str
    run: Callable[[ComponentUnderTest], None] = field(repr=False)
    gate: bool = False

    def __call__(self, component_class: type[object]) -> None:
        """Raise :class:`CheckFailed` if the class breaks the rule."""
        result = self.result(ComponentUnderTest(component_class))
        require(result.passed, f"{result.kind} {result.component!r}: {self.name}: {result.detail}")

    def __str__(self) -> str:
        return self.name

    def result(self, tested: ComponentUnderTest) -> CheckResult:
        """Run the check; whatever the component raises counts as a failure."""
        name = str(tested.cls.name or tested.cls.__name__)
        try:
            with torch.no_grad():
                self.run(tested)
        except BaseException as error:  # what a component raises is a result, not a crash
            if by_user(error):
                raise
            return CheckResult(name, tested.kind, self.name, False, explained(error, tested.cls))
        return CheckResult(name, tested.kind, self.name, True)


def check(function: Callable[[ComponentUnderTest], None], *, gate: bool = False) -> Check:
    """A check of the class: named like the function, explained by its docstring."""
    name = function.__name__.replace("_", "-")
    return Check(name, (function.__doc__ or "").strip().splitlines()[0], function, gate)


def check_each(function: Callable[[Trial], None], *, gate: bool = False) -> Check:
    """A check of every parameter set of the class."""

    def run(tested: ComponentUnderTest) -> None:
        for trial in tested.trials:
            try:
                function(trial)
            except BaseException as error:  # see Check.result
                if by_user(error):
                    raise
                detail = explained(error, tested.cls)
                raise CheckFailed(f"{detail}{trial.suffix}") from error

    run.__name__, run.__doc__ = function.__name__, function.__doc__
    return check(run, gate=gate)


def explained(error: BaseException, cls: type[object]) -> str:
    """The error in one line, with the line of the component's own file that led to it."""
    text = (text_of(error).splitlines() or ["no message"])[0]
    if isinstance(error, CheckFailed):
        return text
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    where = f" (line {frames[-1].lineno})" if frames else ""
    if isinstance(error, TokensieveError):
        return f"{text}{where}"
    return f"raised {said(error)}{where}"
