"""Text files that a user wrote: UTF-8, with or without a byte order mark; anything else is said."""

from __future__ import annotations

from pathlib import Path

from tokensieve.core.errors import TokensieveError
from tokensieve.core.foreign import reason, shorten


def read_text(path: Path, kind: type[TokensieveError]) -> str:
    """The text of a file, its line ends as they are.

    Raises:
        TokensieveError: of that kind: the file cannot be read, or is not UTF-8.
    """
    name = shorten(str(path))
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # a name with a NUL is a ValueError
        raise kind(f"{name}: cannot be read: {reason(error)}") from None
    try:
        return data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        place = f"(byte {error.start}) in line {line}"
        raise kind(f"{name}: is not UTF-8 text {place}: save it as UTF-8") from None


def lines_of(text: str) -> list[str]:
    """Split at ``\\n`` and ``\\r\\n`` only: other separators of Unicode may stand inside a line."""
    return [line.removesuffix("\r") for line in text.split("\n")]
