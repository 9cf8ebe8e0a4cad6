"""Every number that a file can say to a component, task, pipeline or study, with its bounds."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

import tokensieve.adapters
import tokensieve.core
import tokensieve.strategies
from tokensieve.core.plugins.discovery import build_registry
from tokensieve.core.study.plan.records import Record

NUMBERS = (int, float)


@dataclass(frozen=True)
class Number:
    """A number of a field: the lists around it, its kind, and its bounds (None: there is none)."""

    model: Any  # a class of fields; a component has a name and a kind too
    field: str
    entries: int
    kind: type
    low: float | None
    high: float | None

    @property
    def title(self) -> str:
        return f"{getattr(self.model, 'name', '') or self.model.__name__}.{self.field}"

    def wrapped(self, value: Any) -> Any:
        """The value as the field takes it."""
        return [value] * self.entries if self.entries else value


def numbers_of(model: type[BaseModel]) -> Iterator[Number]:
    """All of a model's numeric fields."""
    for name, field in model.model_fields.items():
        for entries, kind, metadata in _leaves(field.annotation, list(field.metadata), 0):
            low = _bound(metadata, "ge", "gt")
            yield Number(model, name, entries, kind, low, _bound(metadata, "le", "lt"))


def _leaves(
    annotation: Any, metadata: list[Any], entries: int
) -> Iterator[tuple[int, type, list[Any]]]:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _leaves(parts[0], [*metadata, *parts[1:]], entries)
    elif origin in (Union, UnionType):
        for part in parts:
            yield from _leaves(part, metadata, entries)
    elif origin in (tuple, list, set, frozenset):
        count = 3 if ... in parts or origin is not tuple else len(parts)
        for part in dict.fromkeys(part for part in parts if part is not ...):
            yield from _leaves(part, [], count)
    elif annotation in NUMBERS:
        yield entries, annotation, metadata


def _bound(metadata: list[Any], *names: str) -> float | None:
    for one in metadata:
        inner = one.metadata if isinstance(one, FieldInfo) else [one]
        for bound in inner:
            for name in names:
                value: float | None = getattr(bound, name, None)
                if value is not None:
                    return value
    return None


def import_everything() -> None:
    """Every module of the project, so that no model of a file is forgotten."""
    for package in (tokensieve.core, tokensieve.strategies, tokensieve.adapters):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            skipped = (".cli", ".lmms.model", ".executors", ".zoo.train", ".zoo.recipe")
            if not any(word in found.name for word in skipped):
                importlib.import_module(found.name)


def models(base: type[BaseModel] = BaseModel) -> set[type[BaseModel]]:
    """Every class of what files say, private ones too; records are what we write ourselves."""
    found: set[type[BaseModel]] = set()
    for kind in base.__subclasses__():
        found |= {kind, *models(kind)}
    own = {kind for kind in found if kind.__module__.startswith("tokensieve.")}
    return {kind for kind in own if not issubclass(kind, Record)}


def components() -> list[Number]:
    """The numbers of every registered component and task."""
    registry = build_registry()
    kinds = ("scorer", "selector", "merger", "task")
    return [n for kind in kinds for entry in registry.all(kind) for n in numbers_of(entry.value)]
