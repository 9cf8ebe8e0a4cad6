"""Watching for the files that a plugin's code opens: data that its results may depend on."""

from __future__ import annotations

import linecache
import os
import site
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import FrameType

CODE = frozenset({".py", ".pyc", ".so", ".pyd"})
CACHES = frozenset({".cache", "__pycache__", ".git"})
SYSTEM = ("/proc", "/sys", "/dev", "/etc", "/usr")
DISTRIBUTIONS = frozenset({"site-packages", "dist-packages"})
Stamp = tuple[int, ...]
Seen = dict[str, Stamp | None]
"""The files, and how to tell that one has been touched since; None: it is not there."""
_OPEN: list[tuple[Seen, FrameType]] = []
"""What is found at the moment, and by whom; the innermost is last."""


@contextmanager
def watched() -> Iterator[Seen]:
    """Data files that are opened for reading inside, by whatever thread.

    Python's own ``open`` tells; what a library opens by itself is not seen. No code, no caches,
    nothing that is installed, and nothing that the first import of a library opens: whether it is
    the first one depends on the process.
    """
    _install()
    found: Seen = {}
    _OPEN.append((found, sys._getframe(2)))  # after the context manager's own
    try:
        yield found
    finally:
        _OPEN[:] = [other for other in _OPEN if other[0] is not found]
        files = [changeable(name) if os.path.exists(name) else Path(name) for name in found]
        found.clear()
        for file in files:
            if file is None or file.suffix in CODE or CACHES & set(file.parts):
                continue
            if not str(file).startswith(SYSTEM):
                found[str(file)] = _stamp(str(file))


def untouched(seen: Seen) -> bool:
    """Whether all files are as they were."""
    return all(_stamp(file) == stamp for file, stamp in seen.items())


def changeable(name: object) -> Path | None:
    """The file, if it is one and nobody installs anything there: no version speaks for it."""
    if not isinstance(name, str) or not os.path.isfile(name):
        return None
    path = Path(name).resolve()
    inside = any(path.is_relative_to(folder) for folder in _installed_places())
    return None if inside or DISTRIBUTIONS & set(path.parts) else path


def _stamp(file: str) -> Stamp | None:
    try:
        facts = os.stat(file)
    except OSError:
        return None
    return facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


@lru_cache(maxsize=1)
def _installed_places() -> tuple[Path, ...]:
    """The folders of Python and of installed distributions."""
    named = sysconfig.get_paths()
    keys = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = [*(named[key] for key in keys), *site.getsitepackages(), site.getusersitepackages()]
    return tuple(Path(folder).resolve() for folder in folders)


@lru_cache(maxsize=1)
def _install() -> None:
    """Once: such a hook stays until the process ends, and does nothing while nobody watches."""
    sys.addaudithook(_note)


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if not _OPEN or event != "open":
        return
    path, _, flags = arguments
    reading = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR) == 0
    if reading and isinstance(path, str | bytes | os.PathLike) and _by_choice(sys._getframe(1)):
        name = os.path.abspath(os.fsdecode(path))
        for found, _ in _OPEN:
            found[name] = None


def _by_choice(frame: FrameType | None) -> bool:
    """Whether a plugin wants a file: no library that is imported meanwhile, and no traceback.

    Libraries look up the lines of whoever imports them (torch does), warnings those that warn.
    """
    who = [watcher for _, watcher in _OPEN]
    while frame is not None and not any(frame is watcher for watcher in who):
        file = frame.f_code.co_filename
        if file == linecache.__file__:
            return False
        if frame.f_code.co_name == "<module>" and os.path.isfile(file) and changeable(file) is None:
            return False
        frame = frame.f_back
    return True
