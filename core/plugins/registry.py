"""The registry: everything that plugins added, by kind and name.

What every plugin may not do is refused here: a class that breaks the contract, a name that is
taken, one that is reserved.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokensieve.core.blame import note_owner
from tokensieve.core.contract.adapter import Adapter
from tokensieve.core.contract.components import Merger, Scorer, Selector
from tokensieve.core.contract.tasks import Task
from tokensieve.core.errors import PluginError, did_you_mean
from tokensieve.core.foreign import shown
from tokensieve.core.names import reserved
from tokensieve.core.plugins.classes import PluginClass, check_class
from tokensieve.core.plugins.watching import Seen

PROJECT = "tokensieve"

KINDS: dict[str, PluginClass] = {
    "scorer": Scorer,
    "selector": Selector,
    "merger": Merger,
    "adapter": Adapter,
    "task": Task,
}
FILES = ("pipeline", "study", "model", "example")


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

    def add(self, component: PluginClass) -> None:
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
            raise PluginError(claimed_by(kind, name, owners))

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

    def _put(self, kind: str, name: str, value: object) -> None:
        if not isinstance(name, str) or not name.strip():
            raise PluginError(f"{value!r} has no name: set the class attribute `name`")
        if kind == "pipeline" and self.owner != PROJECT and reserved(name):
            message = (
                f"pipeline {name!r} is added by {self.owner!r} but the name {reserved(name)!r}"
            )
            raise PluginError(f"{message} is reserved: rename it")
        taken = self.entries[kind].get(name)
        owners = self.claimed.get((kind, name), [taken.owner] if taken else [])
        chosen = {PROJECT, self.owner} & set(owners) or any(
            os.path.isabs(owner)
            for owner in (self.owner, *owners)  # the path of a plugin file
        )
        if owners and not chosen:  # nobody can undo here that two packages are installed
            self.claimed[kind, name] = [*owners, self.owner]
            self.entries[kind].pop(name, None)
        elif taken is not None:
            raise PluginError(
                f"{kind} {name!r} is added by {self.owner!r} but {taken.owner!r} already has it: "
                "rename one of them"
            )
        else:
            self.entries[kind][name] = Entry(name, kind, value, self.owner)


def claimed_by(kind: str, name: str, owners: Sequence[str]) -> str:
    """Say that several installed packages want one name."""
    listed = " and ".join(map(repr, owners))
    return (
        f"{kind} {shown(name)} is registered by {listed}: uninstall all but one of these packages, "
        "or have one renamed"
    )


def kind_of(component: object) -> str:
    """``scorer``, ``selector``, ``merger``, ``adapter`` or ``task``."""
    for kind, base in KINDS.items():
        if isinstance(component, type) and issubclass(component, base):
            return kind
        if isinstance(component, base):
            raise PluginError(f"{component!r} is an object: add the class itself")
    raise PluginError(f"{component!r} is no subclass of Scorer, Selector, Merger, Adapter or Task")
