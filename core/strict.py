"""Strict models of files and parameters: numbers are numbers, and everything has bounds.

:class:`StrictModel` is the base of everything that people write down. In no
field is a boolean, a text or ``1_000`` a number; no number is infinite or wider than 64 bits, and
no list is longer than anybody would write it. The types below are the bounds that fields share.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from tokensieve.core.foreign import shown

MOST_TOKENS = 1_000_000
"""Visual tokens of an image; more than the widest model takes."""
MOST_LAYERS = 10_000
MOST_SAMPLES = 1_000_000
MOST_NEW_TOKENS = 100_000
MOST_BATCH = 65_536
MOST_SEED = 2**63 - 1
MOST_ENTRIES = 10_000
"""Entries of a list; with fewer cells than that in one direction a study is a large one."""
WIDEST = 2**63
_DEEP = 64

TokenCount = Annotated[int, Field(ge=1, le=MOST_TOKENS)]
"""A number of visual tokens, at least 1."""
Share = Annotated[float, Field(gt=0, le=1)]
"""A part of a whole: above 0, at most 1."""
Factor = Annotated[float, Field(ge=1e-4, le=1e4)]
"""A temperature or a weight: what it divides or multiplies stays a number of float32."""
Layer = Annotated[int, Field(ge=0, lt=MOST_LAYERS)]
"""The number of a layer, counted from 0."""
Seed = Annotated[int, Field(ge=0, le=MOST_SEED)]
"""A number by which random draws are repeated."""

Place = tuple[str | int, ...]
NUMBERS = frozenset({int, float})
NOTHING = frozenset[object]()


class StrictModel(BaseModel):
    """A mapping of a file; unknown keys are mistakes, and so are values of another kind."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _plain_values(cls, value: object) -> object:
        if isinstance(value, dict):
            for name, given in value.items():
                field = cls.model_fields.get(name) if isinstance(name, str) else None
                kinds = NOTHING if field is None else leaves(field.annotation)
                spells = field is not None and any(
                    isinstance(one, BeforeValidator | WrapValidator) for one in field.metadata
                )
                models = any(
                    isinstance(kind, type) and issubclass(kind, BaseModel) for kind in kinds
                )
                if spells or models:  # they check their own values
                    kinds = frozenset({StrictModel})
                for message, path in _misfits(given, kinds, ()):
                    raise error_at(message, (str(name), *path))
        return value


def error_at(message: str, path: Place, *, at_key: bool = False) -> PydanticCustomError:
    """A problem at ``path`` below the validated value; ``at_key`` points at the key itself."""
    context = {"message": message, "path": path, "at_key": at_key}
    return PydanticCustomError("located", "{message}", context)


def leaves(annotation: object) -> frozenset[object]:
    """The plain types that a field's values, or the entries of its lists, may have; None aside."""
    if get_origin(annotation) is Annotated:
        return leaves(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType, tuple, list, set, frozenset):
        parts = [leaves(part) for part in get_args(annotation) if part is not ...]
        return NOTHING.union(*parts)
    return NOTHING if annotation in (NoneType, None) else frozenset({annotation})


def _misfits(value: object, kinds: frozenset[object], path: Place) -> Iterator[tuple[str, Place]]:
    """Find what no field takes, and what is of no kind that this one takes."""
    if isinstance(value, list | tuple | dict) and len(value) > MOST_ENTRIES:
        yield f"{len(value):,} entries, allowed: {MOST_ENTRIES:,}", path
    elif kinds == {StrictModel}:
        return
    elif len(path) > _DEEP:
        yield f"lists and mappings in more than {_DEEP} others", path
    elif isinstance(value, list | tuple):
        for number, entry in enumerate(value):
            yield from _misfits(entry, kinds, (*path, number))
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from _misfits(entry, NOTHING, (*path, str(key)))
    else:
        wrong = _wrong_value(value, kinds)
        if wrong:
            yield wrong, path


def _wrong_value(value: object, kinds: frozenset[object]) -> str:
    """Refuse what no number may be, and what would be taken for another kind than it is."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is not a finite number"
    if isinstance(value, int) and not -WIDEST <= value < 2 * WIDEST:
        return f"{shown(value)} is wider than 64 bits"
    if value is None:
        return ""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    wanted = ""
    if kinds == {int} and not (plain and isinstance(value, int)):
        wanted = "integer"
    elif kinds and kinds <= NUMBERS and not plain:
        wanted = "number"
    elif kinds == {bool} and not isinstance(value, bool):
        wanted = "boolean"
    return f"must be a valid {wanted}, not {shown(value)}" if wanted else ""
