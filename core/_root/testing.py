"""The public conformance suite: does a scorer, selector or merger keep the contract?

In pytest, for your own class::

    from tokensieve.testing import all_checks

    @pytest.mark.parametrize("check", all_checks(MyScorer), ids=str)
    def test_conforms(check):
        check(MyScorer)

or all at once ``assert_conforms(MyScorer)``, or without Python ``tokensieve check my_scorer.py``.
The checks run on synthetic views (:func:`synthetic_batch`); no model is needed. They load torch,
so a name is looked up when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokensieve.core.testing import (
        CHECKS,
        Check,
        CheckFailed,
        CheckResult,
        Scene,
        SyntheticBatch,
        all_checks,
        assert_conforms,
        check_component,
        check_plugin_files,
        synthetic_batch,
    )

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


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module("tokensieve.core.testing"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
