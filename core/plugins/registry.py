"""Discovery: pluggy finds plugins once, a :class:`Registry` holds what they add.

A plugin is a module with ``@tokensieve.hookimpl def tokensieve_register(registry)``. It is found
through the entry-point group ``tokensieve`` or named as a file. The built-in strategies and
adapters come in by the same door. A plugin that breaks is reported by name and left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from tokensieve.core.blame import by_user, note_owner
from tokensieve.core.contract.adapter import Adapter
from tokensieve.core.contract.components import Component, Merger, Scorer, Selector
from tokensieve.core.contract.tasks import Task
from tokensieve.core.errors import PluginError, did_you_mean
from tokensieve.core.foreign import shown, text_of
from tokensieve.core.names import reserved
from tokensieve.core.plugins.classes import check_class
from tokensieve.core.plugins.files import (
    first_line,
    in_line,
    load_plugin_file,
    plugin_path,
    read_plugin_file,
)
from tokensieve.core.plugins.watching import Seen, untouched, watched

PROJECT = "tokensieve"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Decorator of a plugin's function ``tokensieve_register(registry)``, by which it is found."""

KINDS: dict[str, type[Any]] = {
    "scorer": Scorer,
    "selector": Selector,
    "merger": Merger,
    "adapter": Adapter,
    "task": Task,
}
FILES = ("pipeline", "study", "model", "example")


class HookSpecs:
    """The hooks that a plugin may implement."""

    @hookspec
    def tokensieve_register(self, registry: Registry) -> None:
        """Add components, adapters, tasks, pipelines, studies, models, examples to ``registry``."""


@dataclass(frozen=True)
class Entry:
    """One registered thing and who brought it."""

    name: str
    kind: str
    value: Any
    owner: str


@dataclass(frozen=True)
class Example:
    """A picture to try things on, and a question that it answers."""

    image: Path
    question: str


@dataclass
class Registry:
    """Everything that plugins added, by kind and name.

    Attributes:
        entries: per kind, the entries by name.
        problems: one line for each installed plugin that was left out.
        owner: who is registering at the moment.
        sources: what the plugin files held that were loaded, by path: the code that runs.
        reads: the data that each of them read meanwhile.
        claimed: by kind and name, the installed packages that both have it: nobody's, therefore.
    """

    entries: dict[str, dict[str, Entry]] = field(
        default_factory=lambda: {kind: {} for kind in (*KINDS, *FILES)}
    )
    problems: list[str] = field(default_factory=list)
    owner: str = PROJECT
    sources: dict[str, bytes] = field(default_factory=dict)
    reads: dict[str, Seen] = field(default_factory=dict)
    claimed: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def add(self, component: type[Component] | type[Adapter] | type[Task]) -> None:
        """Register a component, adapter or task class under its ``name``.

        Raises:
            PluginError: the class breaks the contract, or its name is taken.
        """
        kind = kind_of(component)
        check_class(kind, KINDS[kind], component)
        self._put(kind, component.name, component)
        note_owner(component, self.owner)

    def add_pipelines(self, folder: str | Path) -> None:
        """Register every ``*.yaml`` of ``folder`` as a preset named like the file."""
        self._put_files("pipeline", Path(folder))

    def add_studies(self, folder: str | Path) -> None:
        """Register every ``*.yaml`` of ``folder`` as a study named like the file."""
        self._put_files("study", Path(folder))

    def add_model(self, name: str, folder: str | Path) -> None:
        """Register a local checkpoint folder under a short name."""
        self._put("model", name, Path(folder))

    def add_example(self, name: str, image: str | Path, question: str) -> None:
        """Register a picture and a question, for ``tokensieve run`` without ``--image``."""
        self._put("example", name, Example(Path(image), question))

    def get(self, kind: str, name: str) -> Any:
        """The registered value; an error with suggestions if there is none."""
        entries = self.entries[kind]
        self.refuse_claimed(kind, name)
        if name not in entries:
            left_out = f"; {'; '.join(self.problems)}" if self.problems else ""
            hint = did_you_mean(name, entries)
            raise PluginError(f"unknown {kind} {shown(name)}{hint}{left_out}")
        return entries[name].value

    def refuse_claimed(self, kind: str, name: str) -> None:
        """Two installed packages with one name: neither is taken for the other.

        Raises:
            PluginError: it names both.
        """
        owners = self.claimed.get((kind, name))
        if owners:
            raise PluginError(_claimed(kind, name, owners))

    def all(self, kind: str) -> Iterator[Entry]:
        """All entries of a kind, by name."""
        yield from (entry for _, entry in sorted(self.entries[kind].items()))

    def copy(self) -> Registry:
        """A registry with the same entries, to which more can be added."""
        entries = {kind: dict(named) for kind, named in self.entries.items()}
        claimed = {place: list(owners) for place, owners in self.claimed.items()}
        sources, reads = dict(self.sources), dict(self.reads)
        return Registry(entries, list(self.problems), self.owner, sources, reads, claimed)

    def _put_files(self, kind: str, folder: Path) -> None:
        if not folder.is_dir():
            raise PluginError(f"{kind} files of {self.owner!r}: there is no folder {folder}")
        for path in sorted(folder.glob("*.yaml")):
            self._put(kind, path.stem, path)

    def _put(self, kind: str, name: str, value: Any) -> None:
        if not isinstance(name, str) or not name.strip():
            raise PluginError(f"{value!r} has no name: set the class attribute `name`")
        if kind == "pipeline" and self.owner != PROJECT and reserved(name):
            message = (
                f"pipeline {name!r} is added by {self.owner!r} but the name {reserved(name)!r}"
            )
            raise PluginError(f"{message} is reserved: rename it")
        taken = self.entries[kind].get(name)
        if self._claimed_by_others(kind, name):
            self.entries[kind].pop(name, None)
            return
        if taken is not None:
            raise PluginError(
                f"{kind} {name!r} is added by {self.owner!r} but {taken.owner!r} already has it: "
                "rename one of them"
            )
        self.entries[kind][name] = Entry(name, kind, value, self.owner)

    def _claimed_by_others(self, kind: str, name: str) -> bool:
        """Whether two installed packages want the name; what nobody chose cannot be undone here."""
        taken = self.entries[kind].get(name)
        owners = self.claimed.get((kind, name), [taken.owner] if taken else [])
        if not owners or {PROJECT, self.owner} & set(owners) or not _installed(self.owner, *owners):
            return False
        self.claimed[kind, name] = [*owners, self.owner]
        return True


def _installed(*owners: str) -> bool:
    """Whether all of them are distributions; others are plugin files, by their absolute paths."""
    return not any(os.path.isabs(owner) for owner in owners)


def _claimed(kind: str, name: str, owners: Sequence[str]) -> str:
    listed = " and ".join(map(repr, owners))
    return (
        f"{kind} {shown(name)} is registered by {listed}: uninstall all but one of these packages, "
        "or have one renamed"
    )


def kind_of(component: Any) -> str:
    """``scorer``, ``selector``, ``merger``, ``adapter`` or ``task``."""
    for kind, base in KINDS.items():
        if isinstance(component, type) and issubclass(component, base):
            return kind
        if isinstance(component, base):
            raise PluginError(f"{component!r} is an object: add the class itself")
    raise PluginError(f"{component!r} is no subclass of Scorer, Selector, Merger, Adapter or Task")


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
        _load_installed(registry, point)
    for (kind, name), owners in registry.claimed.items():
        registry.problems.append(_claimed(kind, name, owners))
    for path, source in files:
        registry.sources[str(path)] = source
        with watched() as registry.reads[str(path)]:
            _register(registry, load_plugin_file(path, source), str(path))
    return registry


def _built_in(point: EntryPoint) -> bool:
    return bool(point.dist is not None and point.dist.name == PROJECT)


def _load_installed(registry: Registry, point: EntryPoint) -> None:
    owner = str(getattr(point.dist, "name", None) or point.value)
    try:
        _register(registry, point.load(), owner)
    except BaseException as error:  # a broken third-party plugin must not stop the others
        if owner == PROJECT or by_user(error):
            raise
        registry.problems.append(
            f"plugin {owner!r} ({point.value}) is left out: {first_line(error)}"
        )


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
