"""Make vision-language models cheaper by removing the visual tokens that do no work.

>>> import tokensieve
>>> tokensieve.load_pipeline("none").name
'none'

The import is light: a name is looked up when it is first used, torch and transformers are loaded
when they are first needed.
"""

from __future__ import annotations

import importlib
import typing

if typing.TYPE_CHECKING:
    from tokensieve.core.contract.components import Merger, Scorer, Selector
    from tokensieve.core.contract.tasks import Box, Example, Task
    from tokensieve.core.contract.view import View
    from tokensieve.core.engine.session import Session, attach
    from tokensieve.core.errors import TokensieveError
    from tokensieve.core.pipeline.loading import load_pipeline
    from tokensieve.core.pipeline.pipeline import Pipeline
    from tokensieve.core.plugins.registry import hookimpl

__version__ = "0.1.0"
"""The version of the project."""

__all__ = [
    "Box",
    "Example",
    "Merger",
    "Pipeline",
    "Scorer",
    "Selector",
    "Session",
    "Task",
    "TokensieveError",
    "View",
    "__version__",
    "attach",
    "hookimpl",
    "load_pipeline",
]

_HOMES = {
    "contract.components": ("Merger", "Scorer", "Selector"),
    "contract.tasks": ("Box", "Example", "Task"),
    "contract.view": ("View",),
    "engine.session": ("Session", "attach"),
    "errors": ("TokensieveError",),
    "pipeline.loading": ("load_pipeline",),
    "pipeline.pipeline": ("Pipeline",),
    "plugins.registry": ("hookimpl",),
}


def __getattr__(name: str) -> typing.Any:
    for home, names in _HOMES.items():
        if name in names:
            value = getattr(importlib.import_module(f"{__name__}.core.{home}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
