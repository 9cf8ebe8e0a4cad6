"""Meters in the tree of a chat template: where it loops, compares, cuts and puts texts together."""

from __future__ import annotations

from typing import Any

from jinja2 import nodes
from jinja2.visitor import NodeTransformer

from tokensieve.core.templates.meter import MOST_ITEMS, TEXT_STEP, TooMuchError, check_length, meter

TICK, WEIGHED, ROUNDS, JOINED = "a step", "its weight", "its rounds", "its texts"
"""Names of filters; no template can write them."""


class _Meters(NodeTransformer):
    def visit_For(self, node: Any) -> Any:
        """Every round costs what its body is long, every entry what the condition is."""
        test = 0 if node.test is None else _weight([node.test])
        self._tick(node)
        node.iter = _filtered(node.iter, ROUNDS, nodes.Const(test, lineno=node.lineno))
        return node

    def visit_Macro(self, node: nodes.Macro) -> Any:
        return self._tick(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> Any:
        return self._tick(node)

    def visit_Block(self, node: nodes.Block) -> Any:
        return self._tick(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), JOINED)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _filtered(node.expr, WEIGHED)
        for operand in node.ops:
            operand.expr = _filtered(operand.expr, WEIGHED)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = _filtered(node.node, WEIGHED)
        return node

    def _tick(self, node: Any) -> Any:
        weight = nodes.Const(_weight(node.body), lineno=node.lineno)
        self.generic_visit(node)
        step = nodes.ExprStmt(_filtered(weight, TICK), lineno=node.lineno)
        node.body.insert(0, step)
        return node


def _filtered(node: nodes.Expr, name: str, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, list(args), [], None, None, lineno=node.lineno)


def _weight(body: list[Any]) -> int:
    """How long a part is: its nodes, and its text."""
    weight, waiting = 0, list(body)
    while waiting:
        node = waiting.pop()
        text = len(node.data) if isinstance(node, nodes.TemplateData) else 0
        weight += 1 + text // TEXT_STEP
        waiting += node.iter_child_nodes()
    return weight


def _rounds(value: Any, test: int) -> Any:
    """What a loop runs over, as a list that does not grow."""
    try:
        entries = list(value) if not hasattr(value, "__next__") else [*value]
    except TypeError:
        return value  # Jinja says what is wrong, with the name
    if len(entries) > MOST_ITEMS and not isinstance(value, str):
        raise TooMuchError(f"a loop of {len(entries):,} rounds, allowed: {MOST_ITEMS:,}")
    meter().spend(len(entries) * (1 + test))
    return entries


def _joined(parts: list[Any]) -> str:
    meter().weighed(parts)
    texts = [str(part) for part in parts]
    check_length(sum(map(len, texts)))
    return "".join(texts)


FILTERS = {
    TICK: lambda weight: meter().spend(weight),
    WEIGHED: lambda value: meter().weighed(value),
    ROUNDS: _rounds,
    JOINED: _joined,
}


def add_meters(tree: nodes.Template, environment: Any) -> nodes.Template:
    """The tree of a template, with meters in it; the filters that they are have to be known."""
    _Meters().visit(tree)
    tree.set_environment(environment)
    return tree
