"""Text files that a user wrote: UTF-8, with or without a byte order mark; others are refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tokensieve.core.errors import TokensieveError
from tokensieve.core.files.plain import MEGABYTE, read_plain
from tokensieve.core.foreign import reason, shorten

MARK = "\ufeff"
WIDE = {  # byte order marks, the longer ones first: one starts like another
    b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16",
}  # fmt: skip
_SIGN = re.compile(r"\S")
LOOK = 1000  # bytes that tell whether every other one is zero


def read_text(path: Path, kind: type[TokensieveError], most: int = MEGABYTE) -> str:
    """The text of a file, its line ends as they are.

    Raises:
        TokensieveError: of that kind: the file cannot be read, is larger than ``most`` bytes, or
            is not UTF-8.
    """
    name = shorten(str(path))
    try:
        data = read_plain(path, most)
    except (OSError, ValueError) as error:  # a name with a NUL is a ValueError
        raise kind(f"{name}: cannot be read: {reason(error)}") from None
    return decoded(data, name, kind)


def decoded(data: bytes, name: str, kind: type[TokensieveError]) -> str:
    """The text that ``data`` is, without a byte order mark.

    Raises:
        TokensieveError: of that kind, with ``NAME:LINE:COL``: it is not UTF-8.
    """
    wide = next((kind for mark, kind in WIDE.items() if data.startswith(mark)), "")
    if not wide and data[:LOOK].count(0) * 3 > len(data[:LOOK]):
        wide = "UTF-16 or UTF-32 without a byte order mark"
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        start = error.start
    else:
        start = 0
        if not wide:
            return text.removeprefix(MARK)
    before = b"" if wide else data[:start]
    line = before.count(b"\n") + 1
    column = len(before[before.rfind(b"\n") + 1 :].decode(errors="replace")) + 1
    what = f", but {wide}" if wide else f" (byte {start})"
    raise kind(f"{name}:{line}:{column}: is not UTF-8 text{what}: save it as UTF-8")


def filled_lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines that hold more than white space, with their numbers.

    They end with ``\\n`` or ``\\r\\n`` only: other separators of Unicode may be inside.
    """
    number, start = 1, 0
    while found := _SIGN.search(text, start):
        number += text.count("\n", start, found.start())
        begin = text.rfind("\n", start, found.start()) + 1 or start
        end = text.find("\n", found.start())
        end = len(text) if end < 0 else end
        yield number, text[begin:end].removesuffix("\r")
        start = end
