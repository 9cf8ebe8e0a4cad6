"""Make vision-language models cheaper by removing the visual tokens that do no work.

>>> import tokensieve
>>> tokensieve.load_pipeline("none").name
'none'

The import is light: torch and transformers are loaded when they are first needed.
"""

from __future__ import annotations

from tokensieve.core.components import Merger, Scorer, Selector
from tokensieve.core.errors import TokensieveError
from tokensieve.core.loading import load_pipeline
from tokensieve.core.pipeline import Pipeline
from tokensieve.core.plugins import hookimpl
from tokensieve.core.session import Session, attach
from tokensieve.core.tasks import Box, Example, Task
from tokensieve.core.view import View

__version__ = "0.1.0"

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
