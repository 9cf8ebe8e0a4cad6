"""Files that are written whole: the new one appears at once, or the old one stays as it is.

Nothing else in ``core`` opens a file for writing: a test walks through the code to hold this.
"""

from __future__ import annotations

import errno
import os
import stat
import uuid
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from tokensieve.core.errors import TokensieveError
from tokensieve.core.foreign import reason, shorten

LONGEST = 40  # characters of a name that its part repeats: names have an end
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL
PIPE = os.O_WRONLY | getattr(os, "O_NONBLOCK", 0)  # nobody waits for a reader
Content = str | bytes


def part_of(path: Path) -> Path:
    """A name beside ``path`` that nobody else uses, on this machine or on another."""
    return path.parent / f".{path.name[:LONGEST]}.{uuid.uuid4().hex[:12]}.part"


def save(files: Mapping[Path, Content], kind: type[TokensieveError], what: str) -> None:
    """Write or replace files; if the disk does not take one of them, all stay as they are.

    Raises:
        TokensieveError: of that kind, ``what FILE: cannot be written: reason``.
    """
    with ExitStack() as parts:
        ready = []
        for path, content in files.items():
            try:
                ready.append((path, _prepare(path, content, parts)))
            except (OSError, ValueError) as error:  # a name with a NUL is a ValueError
                raise _refused(kind, what, path, error) from None
        for path, part in ready:
            try:
                _appear(part, path)
            except OSError as error:
                raise _refused(kind, what, path, error) from None


def write_whole(path: Path, content: Content) -> None:
    """Write or replace a file at once.

    Raises:
        OSError: it cannot be written; what was there is there still.
    """
    with ExitStack() as parts:
        _appear(_prepare(path, content, parts), path)


def write_new(path: Path, content: Content) -> None:
    """Write a file that is not there yet, and wait for the disk."""
    with os.fdopen(os.open(path, NEW, 0o666), "wb") as stream:
        stream.write(_bytes(content))
        stream.flush()
        os.fsync(stream.fileno())


def sync(folder: Path) -> None:
    """Wait until the names in a folder are on disk, where the system can do that."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(handle)
    except OSError:  # nor do some network file systems
        pass
    finally:
        os.close(handle)


def _bytes(content: Content) -> bytes:
    """Encode as UTF-8; half a character, which UTF-8 cannot hold, becomes an escape."""
    return content if isinstance(content, bytes) else content.encode(errors="backslashreplace")


def _prepare(path: Path, content: Content, parts: ExitStack) -> Path | None:
    """Write what will become ``path``; None if that is a device or a pipe, written to directly."""
    try:
        mode = os.stat(path).st_mode  # of what its links lead to
    except FileNotFoundError:
        mode = None
    if mode is not None and stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    if mode is not None and not stat.S_ISREG(mode):
        handle = os.open(path, PIPE)
        os.set_blocking(handle, True)
        with os.fdopen(handle, "wb") as stream:
            stream.write(_bytes(content))
        return None
    if mode is not None and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    part = part_of(_target(path))
    parts.callback(_clear, part)
    write_new(part, content)
    if mode is not None:
        os.chmod(part, stat.S_IMODE(mode))
    return part


def _clear(part: Path) -> None:
    with suppress(OSError):
        part.unlink(missing_ok=True)


def _appear(part: Path | None, path: Path) -> None:
    if part is not None:
        target = _target(path)
        os.replace(part, target)
        sync(target.parent)


def _target(path: Path) -> Path:
    """The file that ``path`` leads to: its links stay."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _refused(
    kind: type[TokensieveError], what: str, path: Path, error: Exception
) -> TokensieveError:
    return kind(f"{what} {shorten(str(path))}: cannot be written: {reason(error)}")
