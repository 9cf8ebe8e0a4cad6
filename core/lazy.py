"""``torch`` that is imported when it is first used.

``tokensieve list``, ``validate`` and ``--help`` read every built-in plugin, and ``import torch``
alone takes seconds. Built-in modules therefore write ``from tokensieve.core.lazy import torch``;
type checkers see the real module.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any


class LazyModule(ModuleType):
    """Stands in for a module and imports it when an attribute is read."""

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self.__name__), attribute)


if TYPE_CHECKING:
    import torch as torch  # noqa: PLC0414 - the alias marks a re-export for type checkers
else:
    torch = LazyModule("torch")
    """PyTorch itself, imported when an attribute of it is first read."""
