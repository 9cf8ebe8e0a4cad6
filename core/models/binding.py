"""Find the adapter of a model, and see the model through it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tokensieve.core.contract.adapted import AdaptedModel
from tokensieve.core.contract.adapter import Adapter
from tokensieve.core.contract.signature import unknown_release
from tokensieve.core.errors import AttachError
from tokensieve.core.plugins.registry import Registry, build_registry


@contextmanager
def layout_errors(model: object) -> Iterator[None]:
    """Say in one line what an adapter or the engine looks for on a model and does not find."""
    try:
        yield
    except AttributeError as error:
        raise AttachError(f"{type(model).__name__}: {error}: {unknown_release()}") from error


def bind(model: object, registry: Registry | None = None) -> AdaptedModel:
    """Find the adapter of a model and bind it."""
    registry = registry or build_registry()
    adapters: list[type[Adapter]] = [entry.value for entry in registry.all("adapter")]
    known = [adapter for adapter in adapters if adapter.recognizes(model)]
    adapter = known[0] if known else find_adapter(getattr(model, "config", None), registry)
    with layout_errors(model):
        return adapter.bind(model)


def find_adapter(config: object, registry: Registry | None = None) -> type[Adapter]:
    """The adapter class for a model config; an error lists the supported families."""
    registry = registry or build_registry()
    kind = getattr(config, "model_type", None)
    supported: list[tuple[str, str]] = []
    for entry in registry.all("adapter"):
        adapter: type[Adapter] = entry.value
        supported += [(model_type, entry.name) for model_type in adapter.model_types]
        if adapter.takes(config):
            return adapter
    shown = ", ".join(f"{model_type} ({name})" for model_type, name in sorted(supported))
    raise AttachError(
        f"no adapter for model_type {kind!r}, supported: {shown}; "
        "an adapter is a plugin (see docs/architecture.md)"
    )
