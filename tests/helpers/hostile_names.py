"""Names that somebody might try to write, draw or break something with."""

from __future__ import annotations

import pytest

NAMES = {
    "escape": "\x1b[31mred\x1b[0m",
    "screen": "\x1b]0;title\x07\x1b[2J",
    "C1": "\x9b31mred",
    "newline": "two\nlines",
    "return": "over\rwritten",
    "backspace": "abc\b\b\bxyz",
    "separator": "a\u2028b\u2029c\x85d",
    "turned": "\u202egnp.exe\u202c",
    "isolate": "\u2067abc\u2069",
    "invisible": "a\u200bb\ufeffc\u2060d",
    "tab": "a\tb",
    "null": "a\0b",
    "markup": "[red]x[/red] [link=http://x]y[/link]",
    "emoji code": ":smile: :boom:",
    "HTML": "<script>alert(1)</script><img src=x onerror=y>",
    "entity": "&lt;b&gt; &amp; &#60;",
    "Markdown": "**bold** _it_ `code` [a](http://b) ![c](d) ~~e~~",
    "pipes": "a | b || c \\| d",
    "heading": "# one\n## two\n- three\n> four",
    "dollar": "$x^{2}$ costs $\\frac{1$",
    "TeX": "\\textbf{x} \\input{/etc/passwd} %",
    "underscore": "_hidden_",
    "formula": "=cmd|' /C calc'!A0",
    "plus": "+1+cmd",
    "minus": "-2+3",
    "at": "@SUM(1)",
    "spaced formula": "  =1+1",
    "format": "{0} %s {name!r}",
    "quotes": "\"a\" 'b' ,;",
    "long": "n" * 3000,
}
UNPAIRED = {**NAMES, "half character": "a\ud83db"}  # no file in UTF-8 holds it


def cases(names: dict[str, str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", names.values(), ids=names.keys())
