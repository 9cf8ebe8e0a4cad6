"""Which files a plugin's code opens while it runs: data that its results may depend on."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

_OPEN: list[set[str]] = []
"""What is being watched for at the moment, the innermost last."""


@contextmanager
def watched() -> Iterator[set[str]]:
    """The absolute paths of files that are opened for reading inside, by whatever thread.

    Python's own ``open`` tells; what a library opens by itself is not seen.
    """
    _install()
    found: set[str] = set()
    _OPEN.append(found)
    try:
        yield found
    finally:
        _OPEN.remove(found)


@lru_cache(maxsize=1)
def _install() -> None:
    """Once: such a hook stays until the process ends, and does nothing while nobody watches."""
    sys.addaudithook(_note)


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if not _OPEN or event != "open":
        return
    path, _, flags = arguments
    reading = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR) == 0
    if reading and isinstance(path, str | bytes | os.PathLike):
        name = os.path.abspath(os.fsdecode(path))
        for found in _OPEN:
            found.add(name)
