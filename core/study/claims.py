"""Claims of a study, ``A > B``: which pipelines or scorers its report is to compare."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import yaml

from tokensieve.core.errors import StudyError, did_you_mean
from tokensieve.core.study.disk import COPY

Pair = tuple[str, str]


def read_claim(text: str) -> Pair:
    """``A > B`` as two names.

    Raises:
        StudyError: it is not of that form.
    """
    one, sign, other = (part.strip() for part in text.partition(">"))
    if not (one and sign and other) or one == other:
        raise StudyError(f"{text!r}: two different names with > between, such as 'A > B'")
    return one, other


def check_claim(text: str, pipelines: Collection[str], scorers: Collection[str]) -> None:
    """Refuse a claim about what the study does not run, or about a pipeline and a scorer.

    Raises:
        StudyError: saying what is allowed.
    """
    pair = read_claim(text)
    for name in pair:
        if name not in (*pipelines, *scorers):
            hint = did_you_mean(name, [*pipelines, *scorers])
            raise StudyError(f"{text!r}: the study has no pipeline or scorer {name!r}{hint}")
    if not (set(pair) <= set(pipelines) or set(pair) <= set(scorers)):
        raise StudyError(f"{text!r}: one is a pipeline and one a scorer, they cannot be compared")


def stored_claims(folder: Path) -> list[Pair]:
    """The claims of the study whose results lie in ``folder``; none if its file cannot be read."""
    try:
        document = yaml.safe_load((folder / COPY).read_text(encoding="utf-8"))
        given = document.get("claims") or []
        listed = given if isinstance(given, list) else [given]
        return [read_claim(str(text)) for text in listed]
    except (OSError, ValueError, AttributeError, yaml.YAMLError, StudyError):
        return []
