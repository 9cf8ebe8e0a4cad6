"""The public conformance suite: does a scorer, selector or merger keep the contract?

Not here: the checks of every answer while a model runs (``gate``), and the tests of this project
(``tests``).

In pytest, for your own class::

    from tokensieve.testing import all_checks

    @pytest.mark.parametrize("check", all_checks(MyScorer), ids=str)
    def test_conforms(check):
        check(MyScorer)

or all at once ``assert_conforms(MyScorer)``, or without Python ``tokensieve check my_scorer.py``.
The checks run on synthetic views (:func:`synthetic_batch`); no model is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tokensieve.core.errors import PluginError, TokensieveError
from tokensieve.core.pipeline.loading import load_pipeline
from tokensieve.core.plugins.discovery import build_registry
from tokensieve.core.plugins.files import plugin_path
from tokensieve.core.plugins.registry import Registry, kind_of
from tokensieve.core.testing.batch import SyntheticBatch
from tokensieve.core.testing.checks import Check, CheckResult
from tokensieve.core.testing.kind_checks import CHECKS
from tokensieve.core.testing.synthetic import Scene, synthetic_batch
from tokensieve.core.testing.trials import CheckFailed, ComponentUnderTest

__all__ = [
    "CHECKS",
    "Check",
    "CheckFailed",
    "CheckResult",
    "Scene",
    "SyntheticBatch",
    "all_checks",
    "assert_conforms",
    "check_component",
    "check_plugin_files",
    "synthetic_batch",
]


def all_checks(component_class: type[object]) -> list[Check]:
    """The checks that apply to a class, in the order in which they run."""
    return list(CHECKS[kind_of(component_class)])


def check_component(
    component_class: type[object],
    parameters: Mapping[str, object] | None = None,
    *,
    registry: Registry | None = None,
    device: str = "cpu",
) -> list[CheckResult]:
    """Run all checks on a class.

    Where a check fails without which later ones make no sense (it cannot be built, it raises, its
    result has the wrong shape or changes from call to call), the list ends there.

    Args:
        component_class: a subclass of Scorer, Selector or Merger; it need not be registered.
        parameters: check this parameter set only. By default those of the class's ``examples()``,
            and every option of its ``Literal`` and ``bool`` parameters.
        registry: where components named in the parameters are looked up; default: all installed.
        device: where the tensors are, such as ``cuda``.
    """
    tested = ComponentUnderTest(component_class, parameters, registry, device)
    results = []
    for check in all_checks(component_class):
        results.append(check.result(tested))
        if check.gate and not results[-1].passed:
            break
    return results


def assert_conforms(
    component_class: type[object], parameters: Mapping[str, object] | None = None
) -> None:
    """Raise an ``AssertionError`` that lists every broken rule."""
    failed = [r for r in check_component(component_class, parameters) if not r.passed]
    if failed:
        lines = [f"{r.kind} {r.component!r}: {r.check}: {r.detail}" for r in failed]
        raise CheckFailed("\n".join(lines))


def check_plugin_files(paths: Sequence[str | Path], *, device: str = "cpu") -> list[CheckResult]:
    """Load plugin files on top of what is installed, and check what they add.

    Raises:
        PluginError: a file cannot be loaded, or adds nothing that can be checked.
    """
    registry = build_registry(paths)
    owners = {str(plugin_path(path)) for path in paths}
    entries = [
        entry
        for kind in (*CHECKS, "pipeline")
        for entry in registry.all(kind)
        if entry.owner in owners
    ]
    if not entries:
        raise PluginError(f"{', '.join(map(str, paths))}: adds no component, nothing to check")
    results = []
    for entry in entries:
        if entry.kind != "pipeline":
            results += check_component(entry.value, registry=registry, device=device)
            continue
        detail = ""
        try:
            load_pipeline(entry.value, registry=registry)
        except TokensieveError as error:
            detail = str(error)
        results.append(CheckResult(entry.name, "pipeline", "valid", not detail, detail))
    return results
