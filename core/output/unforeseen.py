"""What nobody foresaw: one line for people, and the traceback in a file to report with."""

from __future__ import annotations

import os
import tempfile
import traceback
from pathlib import Path

from tokensieve.core.files.whole import write_whole
from tokensieve.core.foreign import reason

ISSUES = "please report it with that file"


def unforeseen(error: BaseException) -> str:
    """Write the traceback down; the line that says what happened and where it lies."""
    what = _named(error)
    text = "".join(traceback.format_exception(error))
    try:
        handle, name = tempfile.mkstemp(prefix="tokensieve-", suffix=".txt")
        os.close(handle)
        write_whole(Path(name), text)
    except OSError as full:
        return f"{what}: unforeseen; please report it (its traceback fits nowhere: {reason(full)})"
    return f"{what}: unforeseen, the traceback is in {name}: {ISSUES}"


def _named(error: BaseException) -> str:
    """Kind and first line."""
    kind = type(error).__name__
    try:
        said = reason(error)
    except Exception:  # even its text is broken
        return kind
    return said if said.startswith(kind) else f"{kind}: {said}"
