"""What stands in a file or is given to a component: numbers are numbers, and everything has bounds.

:class:`StrictModel` is the base of everything that people write down. Whatever a field is for,
yes and no, texts and ``1_000`` are no numbers, no number is infinite or wider than 64 bits, and no
list is longer than anybody would write it. The types below are the bounds that fields share.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo
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

Path = tuple[str | int, ...]
NUMBERS = frozenset({int, float})


class StrictModel(BaseModel):
    """A mapping of a file; unknown keys are mistakes, and so are values of another kind."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _plain_values(cls, value: Any) -> Any:
        if isinstance(value, dict):
            for name, given in value.items():
                field = cls.model_fields.get(name) if isinstance(name, str) else None
                kinds = frozenset() if field is None else leaves(field.annotation)
                if field is not None and _reads_itself(field, kinds):
                    kinds = frozenset({StrictModel})
                for message, path in _misfits(given, kinds, ()):
                    raise located(message, (str(name), *path))
        return value


def located(message: str, path: Path, *, at_key: bool = False) -> PydanticCustomError:
    """A problem at ``path`` below the validated value; ``at_key`` points at the key itself."""
    context = {"message": message, "path": path, "at_key": at_key}
    return PydanticCustomError("located", "{message}", context)


def _reads_itself(field: FieldInfo, kinds: frozenset[Any]) -> bool:
    """Whether a field takes spellings of its own, or models: they check what stands in them."""
    spells = any(isinstance(one, BeforeValidator) for one in field.metadata)
    return spells or any(isinstance(kind, type) and issubclass(kind, BaseModel) for kind in kinds)


def leaves(annotation: Any) -> frozenset[Any]:
    """The plain types that a field's values, or the entries of its lists, may have; None aside."""
    if get_origin(annotation) is Annotated:
        return leaves(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType, tuple, list, set, frozenset):
        parts = [leaves(part) for part in get_args(annotation) if part is not ...]
        return frozenset[Any]().union(*parts)
    return frozenset() if annotation in (NoneType, None) else frozenset({annotation})


def _misfits(value: Any, kinds: frozenset[Any], path: Path) -> Iterator[tuple[str, Path]]:
    """What no field takes, and what is of no kind that this one takes."""
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
            yield from _misfits(entry, frozenset(), (*path, str(key)))
    else:
        wrong = _wrong_number(value) or _wrong_kind(value, kinds)
        if wrong:
            yield wrong, path


def _wrong_number(value: Any) -> str:
    """What no number of a file may be."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is not a finite number"
    if isinstance(value, int) and not -WIDEST <= value < 2 * WIDEST:
        return f"{shown(value)} is wider than 64 bits"
    return ""


def _wrong_kind(value: Any, kinds: frozenset[Any]) -> str:
    """Whether ``value`` is of another kind that would be taken for the one that was wanted."""
    if value is None:
        return ""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    if kinds == {int} and not (plain and isinstance(value, int)):
        return f"must be a valid integer, not {shown(value)}"
    if kinds and kinds <= NUMBERS and not plain:
        return f"must be a valid number, not {shown(value)}"
    if kinds == {bool} and not isinstance(value, bool):
        return f"must be a valid boolean, not {shown(value)}"
    return ""
