"""Prompts from chat templates: a template is a stranger's program, so its steps are counted.

The language and the variables are those of transformers, whose rendering has no limit. Whatever a
template can do at length is weighed before it is done: rounds of loops, calls, texts and lists.
"""

from __future__ import annotations

import datetime
import importlib
import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from tokensieve.core.templates.meter import (
    MOST_TEXT,
    TooMuchError,
    check_binary,
    check_call,
    check_filter,
    meter,
    metered,
)

MOST_SOURCE = 200_000  # characters; published templates have some thousands
MOST_RANGE = 10_000
FILTERS = frozenset(
    "abs capitalize count d default dictsort e escape first float forceescape groupby indent "
    "int items join last length list lower map max min reject rejectattr replace reverse round "
    "safe select selectattr sort string title tojson trim truncate unique upper "
    "wordcount".split()
)
"""Of Jinja; the others make much of little, or something else at every call."""
_WIDTH = re.compile(r"%[^A-Za-z%]*\d")


def render_chat(processor: Any, messages: Sequence[dict[str, Any]]) -> str:
    """The text that asks a model to answer ``messages``, as its processor's template has it.

    Raises:
        Exception: there is no template or no Jinja; whatever the template raises; it wants more
            than a prompt needs.
    """
    source = _template_of(processor)
    if len(source) > MOST_SOURCE:
        raise TooMuchError(f"it has {len(source):,} characters, allowed: {MOST_SOURCE:,}")
    words = getattr(getattr(processor, "tokenizer", processor), "special_tokens_map", None) or {}
    with metered():
        text: str = _compiled(source).render(
            **{key: _plain(value) for key, value in words.items()},
            messages=_plain(messages),
            tools=None,
            documents=None,
            add_generation_prompt=True,
        )
    if len(text) > MOST_TEXT:
        raise TooMuchError(f"it makes a prompt of more than {MOST_TEXT:,} characters")
    return text


def _template_of(processor: Any) -> str:
    found = getattr(processor, "chat_template", None)
    if isinstance(found, dict):
        found = found.get("default")
    if not isinstance(found, str):
        raise ValueError("its processor has no chat template: add chat_template.jinja")
    return found.removeprefix("\ufeff")


def _plain(value: Any) -> Any:
    """Only what JSON holds: a template must not get at methods of anything else."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    known = value is None or type(value) in (bool, int, float)
    return value if known else str(value)


@lru_cache(maxsize=32)
def _compiled(source: str) -> Any:
    return _environment().from_string(source)


@lru_cache(maxsize=1)
def _environment() -> Any:
    """Jinja as transformers sets it up, with a meter in every place that can do much."""
    try:
        importlib.import_module("jinja2")
    except ImportError:
        raise RuntimeError("chat templates need jinja2: pip install jinja2") from None
    from jinja2.ext import loopcontrols
    from jinja2.runtime import BlockReference, LoopContext, Macro, Undefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Cycler, Joiner

    from tokensieve.core.templates.nodes import FILTERS as METERS
    from tokensieve.core.templates.nodes import add_meters

    class Metered(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset({"+", "-", "*", "/", "//", "**", "%"})

        def _parse(self, source: str, name: Any, filename: Any) -> Any:
            return add_meters(super()._parse(source, name, filename), self)

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            check_binary(operator, left, right)
            return meter().weighed(super().call_binop(context, operator, left, right))

        def call(__self, __context: Any, __function: Any, *args: Any, **kwargs: Any) -> Any:
            own = isinstance(__function, __self.own) or __function in __self.allowed
            check_call(__function, args, kwargs, known=own)
            return meter().weighed(super().call(__context, __function, *args, **kwargs))

        own = (Macro, LoopContext, BlockReference, Undefined, Joiner, Cycler)
        allowed: Sequence[Any] = ()

    environment = Metered(
        trim_blocks=True,
        lstrip_blocks=True,
        optimized=False,
        extensions=[_generation_tag(), loopcontrols],
        finalize=lambda value: meter().weighed(value),
    )
    environment.filters = {
        **{name: check_filter(name, environment.filters[name]) for name in sorted(FILTERS)},
        "tojson": check_filter("tojson", _to_json),
        **METERS,
    }
    environment.globals = {
        "range": _range,
        "dict": _dict,
        "namespace": _namespace_class(),
        "cycler": Cycler,
        "joiner": Joiner,
        "raise_exception": _raise,
        "strftime_now": _now,
    }
    environment.allowed = tuple(environment.globals.values())
    return environment


def _generation_tag() -> Any:
    """The extension of the one tag that transformers adds."""
    from jinja2 import nodes
    from jinja2.ext import Extension

    class Generation(Extension):
        """``{% generation %}``, which marks what a model has said; here it marks nothing."""

        tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    return Generation


def _range(*bounds: int) -> range:
    numbers = range(*bounds)
    if len(numbers) > MOST_RANGE:
        raise TooMuchError(f"a range of {len(numbers):,} numbers, allowed: {MOST_RANGE:,}")
    return numbers


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


def _namespace_class() -> Any:
    from jinja2.exceptions import SecurityError
    from jinja2.utils import Namespace

    class Plain(Namespace):
        """Without attributes that Python itself looks at."""

        def __init__(*args: Any, **kwargs: Any) -> None:
            self, *given = args
            values = dict(*given, **kwargs)
            for name in values:
                Plain.check(name)
            Namespace.__init__(self, values)

        def __setitem__(self, name: Any, value: Any) -> None:
            Plain.check(name)
            super().__setitem__(name, value)

        @staticmethod
        def check(name: Any) -> None:
            if str(name).startswith("_"):
                raise SecurityError(f"a namespace has no {name!r}")

    return Plain


def _raise(message: Any) -> None:
    from jinja2.exceptions import TemplateError

    raise TemplateError(str(message))


def _now(form: str) -> str:
    if _WIDTH.search(form):
        raise TooMuchError("a date is not padded to a width")
    return datetime.datetime.now().strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
