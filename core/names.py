"""Reserved names of pipelines, and names that differ in case or Unicode form only."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

UNTOUCHED = "none"
"""The preset that prunes nothing."""
PRUNING_BASELINES = ("random", "uniform", "downsample")
"""Presets that prune without looking for what matters."""
BASELINES = (UNTOUCHED, *PRUNING_BASELINES)
"""Presets that every method is held against."""
CONTROLS = ("schedule-attention", "schedule-random")
"""Pipelines of the built-in studies that rank otherwise on a method's own schedule."""
RESERVED = (*BASELINES, *CONTROLS)


def folded(name: str) -> str:
    """A name as file systems and screens see it that know no case and one Unicode form.

    Names that fold alike are one folder there, or look alike: invisible characters count for
    nothing, and white space is one space.
    """
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    visible = "".join(sign for sign in text if unicodedata.category(sign) != "Cf")
    return " ".join(visible.split())


def reserved(name: str) -> str | None:
    """The reserved name that ``name`` is, or would be taken for."""
    return next((own for own in RESERVED if folded(name) == own), None)


def taken_for(names: Iterable[str]) -> tuple[str, str] | None:
    """The first name that an earlier one would be taken for, and that one."""
    seen: dict[str, str] = {}
    for name in names:
        if folded(name) in seen:
            return name, seen[folded(name)]
        seen[folded(name)] = name
    return None
