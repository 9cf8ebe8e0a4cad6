"""The code that a cell runs: files of components and plugins, and what of theirs may change."""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib.machinery import PathFinder
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, Protocol

from tokensieve.core.errors import PluginError
from tokensieve.core.foreign import reason
from tokensieve.core.plugins.files import module_of
from tokensieve.core.plugins.registry import PROJECT, Registry, kind_of
from tokensieve.core.plugins.watching import changeable

SHORT = 16  # hexadecimal digits of a hash in a configuration
Files = dict[str, str]
"""Hashes by path."""


class Coded(Protocol):
    """A component, a task or an adapter, or the class of one."""

    @property
    def name(self) -> str:
        """The name that it is registered by."""
        ...


def digest_of(data: bytes) -> str:
    """The hash of a file's content, as configurations have it."""
    return hashlib.sha256(data).hexdigest()[:SHORT]


def code_of(parts: Iterable[Coded], registry: Registry) -> dict[str, str]:
    """Hashes of the code of components, tasks and adapters, wherever it is.

    Of a component the hash of its own file; of a plugin also those of the modules that it imports
    and that are no installed distribution's, of the data that it reads while it is loaded, and its
    version if it is a distribution itself. So a scorer that
    is edited is run anew, whether it is a plugin file or part of a checkout.
    """
    found: dict[str, set[str]] = {}
    for part in parts:
        owner, files = _code(part, registry)
        for file, digest in files.items():
            found.setdefault(Path(file).name, set()).add(digest)
        if owner != PROJECT and owner not in registry.sources:
            found[owner] = {version(owner)}
    return {
        name if not number else f"{name} ({number + 1})": digest
        for name, digests in sorted(found.items())
        for number, digest in enumerate(sorted(digests))
    }


def code_files(parts: Iterable[Coded], registry: Registry) -> Files:
    """The same files by their paths, for errors that name one."""
    return {file: own for part in parts for file, own in _code(part, registry)[1].items()}


def _code(part: Coded, registry: Registry) -> tuple[str, Files]:
    """The owner of a component, and the files of its code."""
    kind = part if isinstance(part, type) else type(part)
    entry = registry.entries.get(kind_of(kind), {}).get(part.name)
    owner = PROJECT if entry is None else entry.owner
    if owner in registry.sources:
        source, module = registry.sources[owner], module_of(Path(owner))
        imported = _imported(source, _Module("", module))
        read = data_files(registry.reads[owner])
        return owner, {owner: digest_of(source), **imported, **read}
    try:
        file = str(inspect.getsourcefile(kind))
        source = Path(file).read_bytes()
    except (TypeError, OSError) as error:
        name = f"{kind_of(kind)} {part.name!r}"
        raise PluginError(f"{name}: its source cannot be read: {reason(error)}") from None
    own = {file: digest_of(source)}
    if owner != PROJECT:
        own |= _imported(source, _module(sys.modules[kind.__module__]))
    return owner, own


def data_files(paths: Iterable[str]) -> Files:
    """Hashes by path of data that was read; what is gone meanwhile has none."""
    return {path: digest_of(Path(path).read_bytes()) for path in paths if Path(path).is_file()}


class _Module(NamedTuple):
    """The package that a module's relative imports start from, and itself if it is loaded."""

    package: str
    loaded: ModuleType | None


def _imported(source: bytes, module: _Module) -> Files:
    """The files that ``source`` leads to and that nobody installed, with their hashes as of now.

    Found in the text of each file, also where it imports late, and in what its module holds.
    """
    found: Files = {}
    waiting = [(source, module)]
    while waiting:
        text, at = waiting.pop()
        named = (_located(name) for name in _names(text, at.package))
        for file, inner in [*named, *_held(at.loaded)]:
            if file is not None and str(file) not in found:
                content = file.read_bytes()
                found[str(file)] = digest_of(content)
                waiting.append((content, inner))
    return found


@lru_cache(maxsize=256)
def _names(source: bytes, package: str) -> tuple[str, ...]:
    """The modules that a file says it imports; parts of a package and the package itself."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # a compiled module
        return ()
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):  # ``from .x import y`` starts at a package above
            parts = package.split(".")
            above = parts[: len(parts) - node.level + 1] if node.level else []
            start = ".".join([*above, *([node.module] if node.module else [])])
            names += [start, *(f"{start}.{alias.name}".lstrip(".") for alias in node.names)]
        elif isinstance(node, ast.Call) and node.args:
            called = getattr(node.func, "attr", None) or getattr(node.func, "id", None)
            first = node.args[0]
            if called in ("import_module", "__import__") and isinstance(first, ast.Constant):
                names += [first.value] if isinstance(first.value, str) else []
    split = (name.split(".") for name in dict.fromkeys(names) if name)
    return tuple(".".join(part[:end]) for part in split for end in range(1, len(part) + 1))


def _located(name: str) -> tuple[Path | None, _Module]:
    """The file of a module by its name; it is looked for as an import would, and not imported."""
    loaded, parent = sys.modules.get(name), name.rpartition(".")[0]
    if not _may_change(name):
        return None, _Module("", None)
    if loaded is not None:
        return changeable(getattr(loaded, "__file__", None)), _module(loaded)
    places, origin = None, None
    for part in name.split("."):
        try:
            spec = PathFinder.find_spec(part, places)
        except (ImportError, ValueError, OSError):
            spec = None
        if spec is None:
            return None, _Module("", None)
        places, origin = list(spec.submodule_search_locations or ()), spec.origin
    return changeable(origin), _Module(name if places else parent, None)


def _held(module: ModuleType | None) -> Iterator[tuple[Path | None, _Module]]:
    """Modules that a module holds, or whose classes and functions it holds."""
    for value in list(vars(module).values()) if module else ():
        inner: object = value
        if not isinstance(value, ModuleType):
            inner = sys.modules.get(str(getattr(value, "__module__", "")))
        if isinstance(inner, ModuleType) and inner is not module and _may_change(inner.__name__):
            yield changeable(getattr(inner, "__file__", None)), _module(inner)


def _module(loaded: ModuleType) -> _Module:
    return _Module(getattr(loaded, "__package__", None) or "", loaded)


def _may_change(name: str) -> bool:
    """Whether a module is neither Python's nor ours."""
    return name.partition(".")[0] not in {*sys.stdlib_module_names, PROJECT}
