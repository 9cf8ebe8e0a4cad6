"""Find the adapter of a model, and see the model through it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tokensieve.core.contract.adapted import AdaptedModel
from tokensieve.core.contract.signature import unknown_release
from tokensieve.core.errors import AttachError
from tokensieve.core.plugins.discovery import build_registry
from tokensieve.core.plugins.registry import Registry


@contextmanager
def layout_errors(model: Any) -> Iterator[None]:
    """What an adapter or the engine looks for on a model and does not find: one line."""
    try:
        yield
    except AttributeError as error:
        raise AttachError(f"{type(model).__name__}: {error}: {unknown_release()}") from error


def bind(model: Any, registry: Registry | None = None) -> AdaptedModel:
    """Find the adapter of a model and bind it."""
    registry = registry or build_registry()
    known = [entry.value for entry in registry.all("adapter") if entry.value.recognizes(model)]
    adapter = known[0] if known else find_adapter(getattr(model, "config", None), registry)
    with layout_errors(model):
        bound: AdaptedModel = adapter.bind(model)
    return bound


def find_adapter(config: Any, registry: Registry | None = None) -> Any:
    """The adapter class for a model config; an error lists the supported families."""
    registry = registry or build_registry()
    kind = getattr(config, "model_type", None)
    supported: list[tuple[str, str]] = []
    for entry in registry.all("adapter"):
        supported += [(model_type, entry.name) for model_type in entry.value.model_types]
        if entry.value.takes(config):
            return entry.value
    shown = ", ".join(f"{model_type} ({name})" for model_type, name in sorted(supported))
    raise AttachError(
        f"no adapter for model_type {kind!r}, supported: {shown}; "
        "an adapter is a plugin (see docs/architecture.md)"
    )
