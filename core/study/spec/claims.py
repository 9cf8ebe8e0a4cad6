"""Claims of a study, ``A > B``: which pipelines or scorers its report is to compare."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from tokensieve.core.errors import StudyError, TokensieveError, did_you_mean
from tokensieve.core.files.yaml_source import read_yaml
from tokensieve.core.foreign import shorten, shown
from tokensieve.core.study.spec.parts import COPY

Pair = tuple[str, str]


def read_claim(text: str) -> Pair:
    """``A > B`` as two names.

    Raises:
        StudyError: it is not of that form.
    """
    one, sign, other = (part.strip() for part in text.partition(">"))
    if not (one and sign and other) or one == other:
        raise StudyError(f"{shorten(text)!r}: two different names with > between, such as 'A > B'")
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


def stored_claims(folder: Path) -> tuple[list[Pair], list[str]]:
    """The claims of the study whose results are in ``folder``, and a line for what is lost."""
    try:
        source = read_yaml(folder / COPY)
        if not isinstance(source.data, dict):
            raise StudyError(f"{source.where(())}: a study is a mapping with the key 'models'")
    except TokensieveError as error:
        return [], [f"{error}: what the study claims is not known"]
    given = source.data.get("claims") or []
    pairs, lost = [], []
    for number, text in enumerate(given if isinstance(given, list) else [given]):
        try:
            pairs.append(read_claim(text if isinstance(text, str) else shown(text)))
        except StudyError as error:
            lost.append(f"{source.where(('claims', number))}: claims: {error}")
    return pairs, lost
