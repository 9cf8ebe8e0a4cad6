"""YAML with positions: plain Python data, and the line and column of every key and value.

Reads YAML with the scalar rules of YAML 1.2 (``1e-3`` is a number, ``on`` is text, ``010`` is
ten), on top of PyYAML's *safe* loader. Duplicate keys are errors.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml

from tokensieve.core.errors import PipelineError
from tokensieve.core.files.text import read_text
from tokensieve.core.foreign import reason, shorten, shown, unwritable

KeyPath = tuple[str | int, ...]
Mark = tuple[int, int]

_INT = re.compile(r"[-+]?[0-9]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_SPECIAL = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True,
    "false": False, "False": False, "FALSE": False,
    ".inf": math.inf, "+.inf": math.inf, "-.inf": -math.inf, ".nan": math.nan,
}  # fmt: skip
_PREFIX = "tag:yaml.org,2002:"
_PLAIN = {_PREFIX + kind for kind in ("null", "bool", "int", "float", "str", "timestamp", "merge",
                                      "value", "map", "seq")}  # fmt: skip
_FALSE_BREAKS = re.compile("[\x85\u2028\u2029]")  # they end a line in YAML 1.1, and for PyYAML
_ESCAPE_IT = "is not allowed: leave it out, or escape it in double quotes"
MAX_BYTES = 1 << 18  # a large study has some thousands
MAX_NODES = 20_000  # a pipeline has dozens; aliases that expand without end stop here
MAX_DEPTH = 40  # a study has eight or so
TOO_DEEP = f"lists and mappings in more than {MAX_DEPTH} others"
MAX_TEXT = 10_000  # a description has hundreds
MAX_TEXTS = 1_000_000  # characters of all texts together, those that aliases repeat included


@dataclass
class Source:
    """A parsed document, and the place of each of its keys and values."""

    name: str
    data: Any
    keys: dict[KeyPath, Mark] = field(default_factory=dict)
    values: dict[KeyPath, Mark] = field(default_factory=dict)

    def where(self, path: KeyPath, *, key: bool = False) -> str:
        """``FILE:LINE:COL`` of the closest known ancestor of ``path``."""
        marks = self.keys if key and path in self.keys else self.values
        for end in range(len(path), -1, -1):
            mark = marks.get(path[:end])
            if mark is not None:
                return f"{self.name}:{mark[0]}:{mark[1]}"
        return self.name


def read_yaml(path: Path) -> Source:
    """Parse a file of YAML.

    Raises:
        PipelineError: with ``FILE:LINE:COL``, or why it cannot be read.
    """
    return parse_yaml(read_text(path, PipelineError, MAX_BYTES), shorten(str(path)))


def parse_yaml(text: str, name: str) -> Source:
    """Parse ``text``; ``name`` is what errors call the file."""
    node = _compose(text, name)
    if node is None:
        raise PipelineError(f"{name}:1:1: the file is empty, allowed: a pipeline (see the docs)")
    source = Source(name, None)
    source.data = _Reader(source).read(node, ())
    return source


def _compose(text: str, name: str) -> yaml.Node | None:
    """Parse to PyYAML's tree of nodes; whatever it raises gets a place."""
    loader: yaml.SafeLoader | None = None
    try:
        breaks = _FALSE_BREAKS.search(text)
        if breaks:
            raise yaml.reader.ReaderError(name, breaks.start(), ord(breaks[0]), "unicode", "")
        loader = _Loader(text)
        return loader.get_single_node()
    except yaml.reader.ReaderError as error:  # raised before anything is parsed
        before = text[: error.position]
        line, column = before.count("\n") + 1, error.position - before.rfind("\n")
        sign = shorten(text[error.position])
        place, problem = f"{name}:{line}:{column}", f"the character {sign} {_ESCAPE_IT}"
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        problem = shorten(str(error.problem))
    except Exception as error:  # numbers of escapes and versions, and nesting
        mark = loader.get_mark() if loader else None
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        problem = reason(error)
    finally:
        if loader:
            loader.dispose()
    raise PipelineError(f"{place}: not valid YAML: {problem}")


class _Loader(yaml.SafeLoader):
    """A loader that stops at what is too deep or too much as soon as it comes to it."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = self.composed = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Count one level deeper and one part more, and compose it."""
        self.depth += 1
        self.composed += 1
        problem = None
        if self.depth > MAX_DEPTH + 1:
            problem = TOO_DEEP
        elif self.composed > MAX_NODES:
            problem = f"more than {MAX_NODES:,} values"
        if problem:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, problem, mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Reader:
    """Makes plain data of a tree of nodes, and notes the places in ``source``."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.seen = self.texts = 0
        self.open: set[int] = set()

    def read(self, node: yaml.Node, path: KeyPath) -> object:
        self.seen += 1
        mark = (node.start_mark.line + 1, node.start_mark.column + 1)
        self.source.values[path] = mark
        if node.tag not in _PLAIN:
            self._fail(mark, f"tag {shown(node.tag)} is not allowed: write plain values")
        if self.seen > MAX_NODES or id(node) in self.open:
            self._fail(mark, "aliases expand too far")
        if len(path) > MAX_DEPTH:
            self._fail(mark, TOO_DEEP)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(mark, node)
        self.open.add(id(node))
        value = (
            self._mapping(node, path)
            if isinstance(node, yaml.MappingNode)
            else [self.read(item, (*path, i)) for i, item in enumerate(node.value)]
        )
        self.open.discard(id(node))
        return value

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, object]:
        result: dict[str, object] = {}
        for key_node, value_node in node.value:
            mark = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            if not isinstance(key_node, yaml.ScalarNode):
                self._fail(mark, "a key must be plain text")
            key = self._text(mark, key_node)
            if key in result:
                first = self.source.keys[(*path, key)]
                self._fail(mark, f"duplicate key {shown(key)}, first given in line {first[0]}")
            self.source.keys[(*path, key)] = mark
            result[key] = self.read(value_node, (*path, key))
        return result

    def _scalar(self, mark: Mark, node: yaml.ScalarNode) -> object:
        text = self._text(mark, node)
        if node.style is not None:  # quoted or block text
            return text
        if text in _SPECIAL:
            return _SPECIAL[text]
        try:
            if _INT.match(text):
                return int(text)
            return float(text) if _FLOAT.match(text) else text
        except ValueError:  # Python reads no integers of thousands of digits
            self._fail(mark, f"{shown(node.value)} is too long for a number")

    def _text(self, mark: Mark, node: yaml.ScalarNode) -> str:
        """The text of a node; escapes may fill it with characters that no file holds plainly."""
        halves = str(node.value).encode("utf-16-le", "surrogatepass")
        text = halves.decode("utf-16-le", "surrogatepass")  # pairs, as JSON escapes them, are one
        sign = unwritable(text)
        if sign:
            self._fail(mark, f"the character {sign} is not allowed")
        self.texts += len(text)
        if self.texts > MAX_TEXTS:
            self._fail(mark, f"texts of more than {MAX_TEXTS:,} characters in all")
        if len(text) > MAX_TEXT:
            self._fail(mark, f"a text of {len(text):,} characters, allowed: {MAX_TEXT:,}")
        return text

    def _fail(self, mark: Mark, message: str) -> NoReturn:
        raise PipelineError(f"{self.source.name}:{mark[0]}:{mark[1]}: {message}")
