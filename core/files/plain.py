"""Files that somebody else wrote: regular ones only, opened once, read to a limit."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

MEGABYTE = 1 << 20
_FLAGS = os.O_RDONLY | sum(
    getattr(os, flag, 0) for flag in ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY")
)
"""Without blocking: a pipe that nobody writes to would be waited for."""


class UnreadableError(OSError):
    """There is no file that can be read whole; the text, written after a name, says why."""


@contextmanager
def open_plain(path: Path, most: int) -> Iterator[BinaryIO]:
    """A regular file of ``most`` bytes at most, to be read.

    What is checked is what has been opened, so nobody can exchange it in between.

    Raises:
        OSError: it cannot be opened, is a folder, a pipe or a device, or is larger.
        ValueError: the name holds what no name can.
    """
    handle = os.open(path, _FLAGS)
    try:
        state = os.fstat(handle)
        if stat.S_ISDIR(state.st_mode):
            raise IsADirectoryError("it is a folder, not a file")
        if not stat.S_ISREG(state.st_mode):
            raise UnreadableError("it is no regular file, but a pipe, a socket or a device")
        if state.st_size > most:
            raise _too_large(state.st_size, most)
    except OSError:
        os.close(handle)
        raise
    with os.fdopen(handle, "rb") as stream:
        yield stream


def read_plain(path: Path, most: int) -> bytes:
    """Read the whole content of a file, as :func:`open_plain` opens it."""
    with open_plain(path, most) as stream:
        data = stream.read(most + 1)  # it may have grown, or have no size at all
    if len(data) > most:
        raise _too_large(len(data), most)
    return data


def _too_large(size: int, most: int) -> UnreadableError:
    return UnreadableError(f"it has {size:,} bytes or more, allowed: {most:,}")
