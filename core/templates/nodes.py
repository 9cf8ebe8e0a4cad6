"""Meters in the tree of a chat template: where it loops, compares, cuts and puts texts together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from jinja2 import Environment, nodes
from jinja2.visitor import NodeTransformer

from tokensieve.core.templates.meter import MOST_ITEMS, TEXT_STEP, TooMuchError, check_length, meter

TICK, WEIGHED, ROUNDS, JOINED = "a step", "its weight", "its rounds", "its texts"
"""Names of filters; no template can write them."""


Ticking = nodes.For | nodes.Macro | nodes.CallBlock | nodes.Block
"""Parts whose bodies may run many times."""


class _Meters(NodeTransformer):
    def visit_For(self, node: nodes.For) -> nodes.Node:
        """Charge each round the length of its body, and each entry that of the condition."""
        test = 0 if node.test is None else _weight([node.test])
        self._tick(node)
        node.iter = _filtered(node.iter, ROUNDS, nodes.Const(test, lineno=node.lineno))
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        return self._tick(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        return self._tick(node)

    def visit_Block(self, node: nodes.Block) -> nodes.Node:
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

    def _tick(self, node: Ticking) -> nodes.Node:
        weight = nodes.Const(_weight(node.body), lineno=node.lineno)
        self.generic_visit(node)
        step = nodes.ExprStmt(_filtered(weight, TICK), lineno=node.lineno)
        node.body.insert(0, step)
        return node


def _filtered(node: nodes.Node, name: str, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, list(args), [], None, None, lineno=node.lineno)


def _weight(body: Sequence[nodes.Node]) -> int:
    """The length of a part: its nodes, and its text."""
    weight, waiting = 0, list(body)
    while waiting:
        node = waiting.pop()
        text = len(node.data) if isinstance(node, nodes.TemplateData) else 0
        weight += 1 + text // TEXT_STEP
        waiting += node.iter_child_nodes()
    return weight


def _rounds(value: Iterable[object], test: int) -> Iterable[object]:
    """The entries that a loop runs over, as a list that does not grow."""
    try:
        entries = list(value) if not hasattr(value, "__next__") else [*value]
    except TypeError:
        return value  # Jinja says what is wrong, with the name
    if len(entries) > MOST_ITEMS and not isinstance(value, str):
        raise TooMuchError(f"a loop of {len(entries):,} rounds, allowed: {MOST_ITEMS:,}")
    meter().spend(len(entries) * (1 + test))
    return entries


def _joined(parts: list[object]) -> str:
    """Several texts in one."""
    meter().weighed(parts)
    texts = [str(part) for part in parts]
    check_length(sum(map(len, texts)))
    return "".join(texts)


FILTERS: dict[str, Callable[..., object]] = {
    TICK: lambda weight: meter().spend(weight),
    WEIGHED: lambda value: meter().weighed(value),
    ROUNDS: _rounds,
    JOINED: _joined,
}


def add_meters(tree: nodes.Template, environment: Environment) -> nodes.Template:
    """Put meters into the tree of a template; they are filters, which ``environment`` knows."""
    _Meters().visit(tree)
    tree.set_environment(environment)
    return tree
