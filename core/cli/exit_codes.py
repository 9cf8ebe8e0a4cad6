"""Exit codes of the command line."""

from __future__ import annotations

import signal

from tokensieve.core.output import stopping

FAILED = 1
"""Part of the work failed: a check, a cell, a picture; or the program itself."""
USER_ERROR = 2
"""The input is wrong: a command line, a file, a name."""
INTERRUPTED = stopping.BASE + signal.SIGINT
"""Ctrl-C, as shells count it. Other signals count the same way; see :mod:`stopping`."""
