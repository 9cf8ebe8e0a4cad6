"""Errors that nobody foresaw: a line for people, and the traceback in a file to report with."""

from __future__ import annotations

import os
import tempfile
import traceback
from contextlib import suppress
from pathlib import Path

from tokensieve.core.files.whole import write_whole
from tokensieve.core.foreign import reason

ISSUES = "please report it with that file"


def unforeseen(error: BaseException) -> str:
    """Write the traceback down; the line that says what happened and where the file is."""
    what = type(error).__name__
    with suppress(Exception):  # even its text may be broken
        said = reason(error)
        what = said if said.startswith(what) else f"{what}: {said}"
    text = "".join(traceback.format_exception(error))
    try:
        handle, name = tempfile.mkstemp(prefix="tokensieve-", suffix=".txt")
        os.close(handle)
        write_whole(Path(name), text)
    except OSError as full:
        return f"{what}: unforeseen; please report it (its traceback fits nowhere: {reason(full)})"
    return f"{what}: unforeseen, the traceback is in {name}: {ISSUES}"
