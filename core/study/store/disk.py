"""Folders that are whole or not there, even after a power cut."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import BinaryIO

from tokensieve.core.files.whole import part_of, sync, write_whole
from tokensieve.core.files.whole import write_new as write

__all__ = [
    "PARTS",
    "lock",
    "open_lock",
    "part_of",
    "put",
    "remove",
    "sweep_one",
    "write",
    "write_whole",
]

PARTS = ".*.part"
"""What is half written, or half removed: anybody who holds the study's folder may sweep it."""


def put(part: Path, final: Path) -> None:
    """Rename a folder whose files are on disk; what is at ``final`` goes away first."""
    sync(part)
    try:
        part.rename(final)
    except OSError:  # a folder is replaced by a rename only if it is empty
        if not final.exists():
            raise
        remove(final)
        part.rename(final)
    sync(final.parent)


def remove(path: Path) -> None:
    """Remove a file or folder; it is never seen half removed."""
    old = part_of(path)
    try:
        path.rename(old)
    except FileNotFoundError:
        return
    sweep_one(old)


def sweep_one(path: Path) -> None:
    """Remove a file or folder that nobody reads."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def open_lock(path: Path) -> BinaryIO:
    """The file to be held, to which nothing is ever written; a pipe is not waited for."""
    at_once: int = getattr(os, "O_NONBLOCK", 0)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | at_once, 0o666), "ab")


def lock(stream: BinaryIO) -> bool:
    """Hold an open file until it is closed or the process ends; False if somebody else does."""
    try:
        import fcntl
    except ImportError:  # Windows: nobody watches there
        return True
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True
