"""Standard output and error that no reader, disk or encoding can break a command by."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tokensieve.core.errors import TokensieveError

STANDARD = (0, 1, 2)


class OutputError(TokensieveError):
    """Standard output takes nothing more."""


class Stream:
    """A text stream; what is written after its reader has gone is lost in silence."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.lost = inner, False
        with suppress(AttributeError, ValueError, OSError):  # a test's own stream
            inner.reconfigure(errors="backslashreplace")  # signs that the encoding lacks

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def write(self, text: str) -> int:
        """Write the text, unless nothing gets through any more."""
        self._try(lambda: self.inner.write(text))
        return len(text)

    def flush(self) -> None:
        """Flush, unless nothing gets through any more."""
        self._try(self.inner.flush)

    def _try(self, act: Callable[[], object]) -> None:
        """Act on the stream, unless nothing gets through any more.

        Raises:
            OutputError: of standard output: the disk, or whatever else it is, does not take it.
        """
        if self.lost:
            return
        try:
            act()
        except BrokenPipeError:
            self.lose()
        except UnicodeEncodeError:
            raise
        except (OSError, ValueError) as error:  # a closed file is a ValueError
            self.lose()
            if self is sys.stdout:
                text = getattr(error, "strerror", None) or error
                raise OutputError(f"standard output cannot be written: {text}") from None

    def lose(self) -> None:
        """Let nothing through from now on; what is held back is dropped, not tried again."""
        self.lost = True
        with suppress(OSError, ValueError, AttributeError, io.UnsupportedOperation):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.inner.fileno())
            os.close(nowhere)

    def last_word(self, line: str, clean: str) -> None:
        """Write a line, at any moment, and nothing after it. ``clean`` tidies a terminal."""
        if self.lost:
            return
        self.lost = True
        with suppress(OSError, ValueError, AttributeError):
            text = clean + line if self.inner.isatty() else line
            try:
                os.write(self.inner.fileno(), text.encode(errors="backslashreplace"))
            except io.UnsupportedOperation:  # a test's own stream
                self.inner.write(text)


@contextmanager
def guarded() -> Iterator[Stream]:
    """Guard both streams while this lasts; yield standard error."""
    standard: Any = sys  # a Stream is no TextIO, but acts like one
    before = standard.stdout, standard.stderr
    output, errors = (Stream(stream or io.StringIO()) for stream in before)
    standard.stdout, standard.stderr = output, errors
    try:
        yield errors
    finally:
        standard.stdout, standard.stderr = before


def fill_gaps() -> None:
    """Take the places of closed standard files, so that no other file gets their numbers."""
    for number in STANDARD:
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
