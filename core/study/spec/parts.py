"""Helpers that the parts of a study's YAML share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationInfo

from tokensieve.core.pipeline.fields import dump_component
from tokensieve.core.pipeline.stage import ScoreTerm

COPY = "study.yaml"
"""The study as it was started, beside its cells."""


def folder_of(info: ValidationInfo) -> Path:
    """The folder where relative paths start: that of the study's file."""
    folder: Path = (info.context or {}).get("folder") or Path()
    return folder


def budget_title(budget: Mapping[str, float]) -> str:
    """``average=32``."""
    return ", ".join(f"{kind}={value:g}" for kind, value in budget.items())


def term_label(term: ScoreTerm) -> str:
    """``ttv``, or ``ttv (variant=block)``."""
    plain = dump_component(term.scorer)
    if isinstance(plain, str):
        return plain
    own = ", ".join(f"{key}={value}" for key, value in plain.items() if key != "scorer")
    return f"{plain['scorer']} ({own})"
