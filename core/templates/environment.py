"""Jinja as transformers sets it up, with a meter in every place that can do much."""

from __future__ import annotations

import datetime
import json
import re
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import BlockReference, Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Cycler, Joiner, Namespace

from tokensieve.core.templates.meter import (
    TooMuchError,
    check_binary,
    check_call,
    check_filter,
    meter,
)
from tokensieve.core.templates.nodes import FILTERS as METERS
from tokensieve.core.templates.nodes import add_meters

MOST_RANGE = 10_000
FILTERS = frozenset(
    "abs capitalize count d default dictsort e escape first float forceescape groupby indent "
    "int items join last length list lower map max min reject rejectattr replace reverse round "
    "safe select selectattr sort string title tojson trim truncate unique upper "
    "wordcount".split()
)
"""Of Jinja; the others make much of little, or something else at every call."""
CALLABLE = (Macro, LoopContext, BlockReference, Undefined, Joiner, Cycler)
"""Parts of Jinja that a template calls; all of them end."""
_WIDTH = re.compile(r"%[^A-Za-z%]*\d")


class Generation(Extension):
    """``{% generation %}``, the one tag that transformers adds.

    It marks what a model has said; here it marks nothing.
    """

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        """The statements inside."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class PlainNamespace(Namespace):
    """A namespace without attributes that Python itself looks at."""

    def __init__(*args: Any, **kwargs: object) -> None:  # a template may name one ``self``
        self, *given = args
        values = dict(*given, **kwargs)
        for name in values:
            PlainNamespace.check(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: object) -> None:
        PlainNamespace.check(name)
        super().__setitem__(name, value)

    @staticmethod
    def check(name: object) -> None:
        """Refuse a name that starts like Python's own."""
        if str(name).startswith("_"):
            raise SecurityError(f"a namespace has no {name!r}")


def short_range(*bounds: int) -> range:
    """``range``, if it is not too long."""
    numbers = range(*bounds)
    if len(numbers) > MOST_RANGE:
        raise TooMuchError(f"a range of {len(numbers):,} numbers, allowed: {MOST_RANGE:,}")
    return numbers


def new_dict(*args: Any, **kwargs: object) -> dict[Any, object]:
    """``dict``, as a function: a template must not get at the class."""
    return dict(*args, **kwargs)


def raise_exception(message: object) -> None:
    """Refuse the messages, in the template's own words."""
    raise TemplateError(str(message))


def strftime_now(form: str) -> str:
    """The time, in a form that does not pad it."""
    if _WIDTH.search(form):
        raise TooMuchError("a date is not padded to a width")
    return datetime.datetime.now().strftime(form)


def to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as transformers writes it: not escaped for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


GLOBALS = {
    "range": short_range,
    "dict": new_dict,
    "namespace": PlainNamespace,
    "cycler": Cycler,
    "joiner": Joiner,
    "raise_exception": raise_exception,
    "strftime_now": strftime_now,
}


class Metered(ImmutableSandboxedEnvironment):
    """A sandbox that weighs operands, arguments and results."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "**", "%"})

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return add_meters(super()._parse(source, name, filename), self)

    def call_binop(self, context: Context, operator: str, left: object, right: object) -> object:
        """A binary operator, whose operands are looked at first."""
        check_binary(operator, left, right)
        return meter().weighed(super().call_binop(context, operator, left, right))

    def call(
        __self, __context: Context, __function: object, *args: object, **kwargs: object
    ) -> object:
        """A call, if what is called is known to end."""
        known = isinstance(__function, CALLABLE) or __function in GLOBALS.values()
        check_call(__function, args, kwargs, known=known)
        return meter().weighed(super().call(__context, __function, *args, **kwargs))


ENVIRONMENT = Metered(
    trim_blocks=True,
    lstrip_blocks=True,
    optimized=False,
    extensions=[Generation, loopcontrols],
    finalize=lambda value: meter().weighed(value),
)
ENVIRONMENT.filters = {
    **{name: check_filter(name, ENVIRONMENT.filters[name]) for name in sorted(FILTERS)},
    "tojson": check_filter("tojson", to_json),
    **METERS,
}
ENVIRONMENT.globals = dict(GLOBALS)
