"""Files and folders that are whole or not there, even after a power cut."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path
from typing import Any

PARTS = ".*.part"
"""What is half written, or half removed: anybody who holds the study's folder may sweep it."""


def part_of(path: Path) -> Path:
    """A name beside ``path`` that nobody else uses, on this machine or on another."""
    return path.parent / f".{path.name}.{uuid.uuid4().hex[:12]}.part"


def write(path: Path, text: str) -> None:
    """Write a file and wait for the disk."""
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def write_whole(path: Path, text: str) -> None:
    """Write or replace a file at once."""
    part = part_of(path)
    try:
        write(part, text)
        part.replace(path)
        sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


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


def lock(stream: Any) -> bool:
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
