"""Discovery: pluggy finds plugins once and lets each add its parts to a registry.

A plugin is a module with ``@tokensieve.hookimpl def tokensieve_register(registry)``. It is found
through the entry-point group ``tokensieve`` or named as a file. The built-in strategies and
adapters come in by the same door. A plugin that breaks is reported by name and left out.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

import pluggy

from tokensieve.core.blame import by_user
from tokensieve.core.errors import PluginError
from tokensieve.core.foreign import text_of
from tokensieve.core.plugins.files import (
    first_line,
    in_line,
    load_plugin_file,
    plugin_path,
    read_plugin_file,
)
from tokensieve.core.plugins.registry import PROJECT, Registry, claimed_by
from tokensieve.core.plugins.watching import untouched, watched

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Decorator of a plugin's function ``tokensieve_register(registry)``, by which it is found."""


class HookSpecs:
    """The hooks that a plugin may implement."""

    @hookspec
    def tokensieve_register(self, registry: Registry) -> None:
        """Add components, adapters, tasks, pipelines, studies, models, examples to ``registry``."""


def build_registry(plugins: str | Path | Sequence[str | Path] = ()) -> Registry:
    """Registry of all installed plugins and of the given plugin files.

    It is built once; a plugin file is read again when it, or data that it read, has changed.

    Raises:
        PluginError: a plugin file cannot be loaded.
    """
    given = [plugins] if isinstance(plugins, str | os.PathLike) else plugins
    paths = dict.fromkeys(plugin_path(plugin) for plugin in given)
    files = tuple((path, read_plugin_file(path)) for path in paths)
    registry = _build(files)
    if all(map(untouched, registry.reads.values())):
        return registry
    _build.cache_clear()
    return _build(files)


@lru_cache(maxsize=16)
def _build(files: tuple[tuple[Path, bytes], ...]) -> Registry:
    registry = Registry()
    points = sorted(entry_points(group=PROJECT), key=lambda p: (not _built_in(p), p.name))
    if not any(map(_built_in, points)):
        raise PluginError(
            f"{PROJECT} is not installed here, only its source is: run `pip install -e .` in it"
        )
    for point in points:
        owner = str(getattr(point.dist, "name", None) or point.value)
        try:
            _register(registry, point.load(), owner)
        except BaseException as error:  # a broken third-party plugin must not stop the others
            if owner == PROJECT or by_user(error):
                raise
            message = f"plugin {owner!r} ({point.value}) is left out: {first_line(error)}"
            registry.problems.append(message)
    for (kind, name), owners in registry.claimed.items():
        registry.problems.append(claimed_by(kind, name, owners))
    for path, source in files:
        registry.sources[str(path)] = source
        with watched() as registry.reads[str(path)]:
            _register(registry, load_plugin_file(path, source), str(path))
    return registry


def _built_in(point: EntryPoint) -> bool:
    return bool(point.dist is not None and point.dist.name == PROJECT)


def _register(registry: Registry, module: ModuleType, owner: str) -> None:
    """Let one plugin add its parts; of a plugin that fails, nothing stays."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(HookSpecs)
    try:
        manager.register(module, name=owner)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        reason = " ".join(str(error).split())
        raise PluginError(
            f"plugin {owner!r}: {reason}; the hook is tokensieve_register(registry)"
        ) from error
    if not manager.hook.tokensieve_register.get_hookimpls():
        raise PluginError(
            f"plugin {owner!r} registers nothing: define "
            "`@tokensieve.hookimpl def tokensieve_register(registry)`"
        )
    before = registry.copy()
    registry.owner = owner
    try:
        manager.hook.tokensieve_register(registry=registry)
    except BaseException as error:
        registry.entries.update(before.entries)
        registry.claimed = before.claimed
        ours = isinstance(error, PluginError)
        if by_user(error) or (ours and repr(owner) in text_of(error)):
            raise
        where = f"{'' if ours else ' failed'}{in_line(error, owner)}"
        raise PluginError(f"plugin {owner!r}{where}: {first_line(error)}") from error
    finally:
        registry.owner = PROJECT
