"""YAML with positions: plain Python data, and the line and column of every key and value.

Reads YAML with the scalar rules of YAML 1.2 (``1e-3`` is a number, ``on`` is text, ``010`` is
ten), on top of PyYAML's *safe* loader. Duplicate keys are errors.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from tokensieve.core.errors import PipelineError

Path = tuple[str | int, ...]
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
MAX_NODES = 20_000  # a pipeline has dozens; aliases that expand without end stop here


@dataclass
class Source:
    """A parsed document and where each of its parts stands."""

    name: str
    data: Any
    keys: dict[Path, Mark] = field(default_factory=dict)
    values: dict[Path, Mark] = field(default_factory=dict)

    def where(self, path: Path, *, key: bool = False) -> str:
        """``FILE:LINE:COL`` of the closest known ancestor of ``path``."""
        marks = self.keys if key and path in self.keys else self.values
        for end in range(len(path), -1, -1):
            mark = marks.get(path[:end])
            if mark is not None:
                return f"{self.name}:{mark[0]}:{mark[1]}"
        return self.name


def parse_yaml(text: str, name: str) -> Source:
    """Parse ``text``; ``name`` is what errors call the file."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise PipelineError(f"{place}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise PipelineError(f"{name}: not valid YAML: {error}".splitlines()[0]) from None
    finally:
        loader.dispose()
    if node is None:
        raise PipelineError(f"{name}:1:1: the file is empty, allowed: a pipeline (see the docs)")
    source = Source(name, None)
    source.data = _Reader(source).read(node, ())
    return source


class _Reader:
    def __init__(self, source: Source) -> None:
        self.source = source
        self.seen = 0
        self.open: set[int] = set()

    def read(self, node: yaml.Node, path: Path) -> Any:
        self.seen += 1
        mark = (node.start_mark.line + 1, node.start_mark.column + 1)
        self.source.values[path] = mark
        if node.tag not in _PLAIN:
            self._fail(mark, f"tag {node.tag!r} is not allowed: write plain values")
        if self.seen > MAX_NODES or id(node) in self.open:
            self._fail(mark, "aliases expand too far")
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        self.open.add(id(node))
        value = (
            self._mapping(node, path)
            if isinstance(node, yaml.MappingNode)
            else [self.read(item, (*path, i)) for i, item in enumerate(node.value)]
        )
        self.open.discard(id(node))
        return value

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            mark = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            if not isinstance(key_node, yaml.ScalarNode):
                self._fail(mark, "a key must be plain text")
            key = str(key_node.value)
            if key in result:
                first = self.source.keys[(*path, key)]
                self._fail(mark, f"duplicate key {key!r}, first given in line {first[0]}")
            self.source.keys[(*path, key)] = mark
            result[key] = self.read(value_node, (*path, key))
        return result

    def _fail(self, mark: Mark, message: str) -> None:
        raise PipelineError(f"{self.source.name}:{mark[0]}:{mark[1]}: {message}")


def _scalar(node: yaml.ScalarNode) -> Any:
    text = str(node.value)
    if node.style is not None:  # quoted or block text
        return text
    if text in _SPECIAL:
        return _SPECIAL[text]
    if _INT.match(text):
        return int(text)
    if _FLOAT.match(text):
        return float(text)
    return text
