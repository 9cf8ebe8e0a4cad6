"""Values, paths and errors that come from elsewhere, in one short line."""

from __future__ import annotations

import re
import reprlib
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

from tokensieve.core.errors import TokensieveError

MOST = 200  # characters of what others say
JOINERS = "\u200c\u200d"
SPEAKING = (OSError, SyntaxError, ValueError, RuntimeError)  # their text says enough by itself
PANIC = "PanicException"  # of libraries in Rust; it is no Exception, and has no name to import
_NO_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


class _Short(reprlib.Repr):
    """``repr``, cut off early: of texts, of lists, and in depth."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 60
        self.maxlevel = self.maxlist = self.maxdict = 3


_SHORT = _Short()


def shown(value: object) -> str:
    """``repr(value)`` in 200 characters at most, however long, deep or wide it is."""
    try:
        return shorten(_SHORT.repr(value))
    except ValueError:  # an integer of more digits than Python writes down
        return f"a very long {type(value).__name__}"


def shorten(text: str, most: int = MOST) -> str:
    """The text in one line that any terminal takes, its middle left out where it is long."""
    if len(text) > most:
        half = most // 2
        text = f"{text[:half]} ... ({len(text):,} characters) ... {text[-half // 2 :]}"
    return plain(text)


def plain(text: str) -> str:
    """The text in one line, whole, with escapes for whatever a terminal or an editor would obey.

    Those are control codes, ends of lines, marks that turn the direction of writing, and half
    characters. Spaces of all kinds and the joiners of Indic and Persian writing stay.
    """
    if text.isprintable():
        return text
    return "".join(
        sign
        if sign.isprintable() or sign in JOINERS or unicodedata.category(sign) == "Zs"
        else _escaped(sign)
        for sign in text
    )


def unwritable(text: str) -> str | None:
    """A character that no text holds, as it would be escaped: control codes, half characters."""
    found = _NO_TEXT.search(text)
    return _escaped(found[0]) if found else None


def half_character(text: str) -> str | None:
    """A lone surrogate: half a character, or a byte that was not UTF-8; None if there is none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return _escaped(text[error.start])
    return None


def text_of(error: BaseException) -> str:
    """The text of an error, empty if it has none to give: its ``__str__`` may be anybody's."""
    try:
        return str(error).strip()
    except BaseException:
        return ""


def said(error: BaseException) -> str:
    """``KeyError: 'x'``: kind and first line of an error, whatever it is."""
    first = _first(text_of(error))
    return f"{type(error).__name__}: {shorten(first) if first else 'no message'}"


def _first(text: str) -> str:
    """The first line; with the next one where it ends in a colon, and so says nothing alone."""
    first, *more = text.strip().splitlines() or [""]
    return f"{first.rstrip()} {more[0].strip()}" if more and first.rstrip().endswith(":") else first


def reason(error: BaseException) -> str:
    """The first line of what ``error`` says; its kind where that alone says little."""
    spoken = error.strerror if isinstance(error, OSError) else None
    first = _first(str(spoken or text_of(error)))
    kind = type(error).__name__
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    if not first:
        return kind
    speaks = isinstance(error, (*SPEAKING, TokensieveError))
    return shorten(first if speaks else f"{kind}: {first}")


@contextmanager
def foreign(kind: type[TokensieveError], message: str) -> Iterator[None]:
    """Turn whatever is raised inside, that is not ours, into ``message: reason`` in one line."""
    try:
        yield
    except TokensieveError:
        raise
    except BaseException as error:
        if not (isinstance(error, Exception) or type(error).__name__ == PANIC):
            raise
        raise kind(f"{message}: {reason(error)}") from error


def _escaped(sign: str) -> str:
    return sign.encode("unicode_escape").decode("ascii")
