"""Discovery: pluggy finds plugins once, a :class:`Registry` holds what they add.

A plugin is a module with ``@tokensieve.hookimpl def tokensieve_register(registry)``. It is found
through the entry-point group ``tokensieve`` or named as a file. The built-in strategies and
adapters come in by the same door. A plugin that breaks is reported by name and left out.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from tokensieve.core.adapter import Adapter
from tokensieve.core.components import Component, Merger, Scorer, Selector
from tokensieve.core.errors import PluginError, did_you_mean

PROJECT = "tokensieve"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

KINDS: dict[str, type[Any]] = {
    "scorer": Scorer,
    "selector": Selector,
    "merger": Merger,
    "adapter": Adapter,
}


class HookSpecs:
    """The hooks that a plugin may implement."""

    @hookspec
    def tokensieve_register(self, registry: Registry) -> None:
        """Add scorers, selectors, mergers, adapters, pipelines or models to ``registry``."""


@dataclass(frozen=True)
class Entry:
    """One registered thing and who brought it."""

    name: str
    kind: str
    value: Any
    owner: str


@dataclass
class Registry:
    """Everything that plugins added, by kind and name."""

    entries: dict[str, dict[str, Entry]] = field(
        default_factory=lambda: {kind: {} for kind in (*KINDS, "pipeline", "model")}
    )
    problems: list[str] = field(default_factory=list)
    owner: str = "tokensieve"

    def add(self, component: type[Component] | type[Adapter]) -> None:
        """Register a component or adapter class under its ``name``."""
        kind = next(
            (
                kind
                for kind, base in KINDS.items()
                if isinstance(component, type) and issubclass(component, base)
            ),
            None,
        )
        if kind is None:
            raise PluginError(
                f"{component!r} is no subclass of Scorer, Selector, Merger or Adapter"
            )
        self._put(kind, component.name, component)

    def add_pipelines(self, folder: Path) -> None:
        """Register every ``*.yaml`` of ``folder`` as a preset named like the file."""
        for path in sorted(folder.glob("*.yaml")):
            self._put("pipeline", path.stem, path)

    def add_model(self, name: str, folder: Path) -> None:
        """Register a local checkpoint folder under a short name."""
        self._put("model", name, folder)

    def get(self, kind: str, name: str) -> Any:
        """The registered value; an error with suggestions if there is none."""
        entries = self.entries[kind]
        if name not in entries:
            raise PluginError(f"unknown {kind} {name!r}{did_you_mean(name, entries)}")
        return entries[name].value

    def all(self, kind: str) -> Iterator[Entry]:
        """All entries of a kind, by name."""
        yield from (entry for _, entry in sorted(self.entries[kind].items()))

    def _put(self, kind: str, name: str, value: Any) -> None:
        if not name:
            raise PluginError(f"{value!r} has no name: set the class attribute `name`")
        taken = self.entries[kind].get(name)
        if taken is not None:
            raise PluginError(
                f"{kind} {name!r} is added by {self.owner!r} but {taken.owner!r} already has it: "
                "rename one of them"
            )
        self.entries[kind][name] = Entry(name, kind, value, self.owner)


def build_registry(plugins: Sequence[str | Path] = ()) -> Registry:
    """Registry of all installed plugins and of the given plugin files."""
    files = [Path(plugin).expanduser().resolve() for plugin in plugins]
    return _build(tuple((path, path.stat().st_mtime_ns if path.exists() else 0) for path in files))


@lru_cache(maxsize=16)
def _build(files: tuple[tuple[Path, int], ...]) -> Registry:
    registry = Registry()
    for point in sorted(entry_points(group=PROJECT), key=lambda p: (not _built_in(p), p.name)):
        _load_installed(registry, point)
    for path, _ in files:
        module = load_plugin_file(path)
        _register(registry, module, str(path))
    return registry


def _built_in(point: Any) -> bool:
    return bool(point.dist is not None and point.dist.name == PROJECT)


def _load_installed(registry: Registry, point: Any) -> None:
    owner = PROJECT if _built_in(point) else f"{point.dist.name if point.dist else point.value}"
    try:
        _register(registry, point.load(), owner)
    except Exception as error:  # a broken third-party plugin must not stop the others
        if owner == PROJECT:
            raise
        registry.problems.append(f"plugin {owner!r} ({point.value}) is left out: {_first(error)}")


def _register(registry: Registry, module: ModuleType, owner: str) -> None:
    """Let one plugin add to a copy, so that a failing plugin leaves nothing half-added."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(HookSpecs)
    try:
        manager.register(module, name=owner)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(f"plugin {owner!r}: {_first(error)}; the hook is tokensieve_register") from error
    if not manager.hook.tokensieve_register.get_hookimpls():
        raise PluginError(
            f"plugin {owner!r} registers nothing: define "
            "`@tokensieve.hookimpl def tokensieve_register(registry)`"
        )
    before = {kind: dict(entries) for kind, entries in registry.entries.items()}
    registry.owner = owner
    try:
        manager.hook.tokensieve_register(registry=registry)
    except Exception as error:
        registry.entries.update(before)
        if isinstance(error, PluginError):
            raise
        raise PluginError(f"plugin {owner!r} failed: {_first(error)}") from error
    finally:
        registry.owner = PROJECT


def load_plugin_file(path: Path) -> ModuleType:
    """Import the plugin file that the user named."""
    if not path.is_file():
        raise PluginError(f"plugin file {path} does not exist")
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:12]
    name = f"_tokensieve_plugin_{path.stem}_{digest}".replace("-", "_")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"plugin file {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise PluginError(f"plugin file {path} failed to import: {_first(error)}") from error
    return module


def _first(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else 'no message'}"
