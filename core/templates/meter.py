"""A limit to what a chat template does: steps are spent, and what it makes is weighed before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from itertools import islice
from typing import TypeVar

from tokensieve.core.foreign import shown

STEPS = 200_000  # about a second; published templates take some hundreds
MOST_TEXT = 1_000_000  # characters of one text
MOST_ITEMS = 10_000  # of one list
MOST_BITS = 1000
MOST_NUMBER = 16  # of columns, where a text is padded
PADDING = frozenset({"indent", "round", "tojson"})
MOST_POWER = 64
TEXT_STEP = 1000  # characters that are handled in the time of one step
METHODS: dict[type, frozenset[str]] = {
    str: frozenset(
        "capitalize casefold count endswith find index isalnum isalpha isascii isdecimal isdigit "
        "islower isnumeric isspace istitle isupper join lower lstrip partition removeprefix "
        "removesuffix replace rfind rindex rpartition rsplit rstrip split splitlines startswith "
        "strip swapcase title upper".split()
    ),
    dict: frozenset({"copy", "get", "items", "keys", "values"}),
    list: frozenset({"copy", "count", "index"}),
    tuple: frozenset({"count", "index"}),
}
Value = TypeVar("Value")


class TooMuchError(ValueError):
    """A template wants more than a prompt needs, or what could be much."""


class Meter:
    """The steps that one prompt has left."""

    def __init__(self) -> None:
        self.left = STEPS

    def spend(self, steps: int) -> None:
        """Spend one step at least: a count may be wrong, but never runs backwards."""
        self.left -= max(1, steps)
        if self.left < 0:
            raise TooMuchError(f"it takes more than {STEPS:,} steps")

    def weighed(self, value: Value) -> Value:
        """``value``, whose parts have been counted, each as often as it would be written."""
        parts: list[object] = [value]
        while parts:
            part = parts.pop()
            if isinstance(part, str):
                check_length(len(part))
                self.spend(1 + len(part) // TEXT_STEP)
            elif isinstance(part, int):
                if part.bit_length() > MOST_BITS:
                    raise TooMuchError("a number is too long")
                self.spend(1)
            elif isinstance(part, Mapping):
                self.spend(1 + 2 * len(part))
                parts += [*part.keys(), *part.values()]
            elif isinstance(part, list | tuple | set):
                self.spend(1 + len(part))
                parts += part
            else:
                self.spend(1 + (len(part) if isinstance(part, range) else 0))
        return value


_METER: ContextVar[Meter] = ContextVar("meter")


def meter() -> Meter:
    """The meter of the prompt that is being made."""
    return _METER.get()


@contextmanager
def metered() -> Iterator[None]:
    """Count all that is done inside as one prompt; threads have their own."""
    token = _METER.set(Meter())
    try:
        yield
    finally:
        _METER.reset(token)


def check_length(characters: int) -> None:
    """Refuse a text before it is made."""
    if characters > MOST_TEXT:
        raise TooMuchError(f"a text of {characters:,} characters, allowed: {MOST_TEXT:,}")


def check_binary(operator: str, left: object, right: object) -> None:
    """Refuse what would be too large, before it is computed."""
    meter().weighed([left, right])
    if isinstance(left, str) and operator == "%":
        raise TooMuchError("texts are not formatted by %")
    if operator == "**" and not (isinstance(right, int) and abs(right) <= MOST_POWER):
        raise TooMuchError(f"a power of {shown(right)}, allowed: {MOST_POWER}")
    for one, other in ((left, right), (right, left)):
        if operator == "*" and isinstance(one, str | list | tuple) and isinstance(other, int):
            _check_size(one, len(one) * other)
    if operator == "+" and isinstance(left, str | list | tuple) and isinstance(right, type(left)):
        _check_size(left, len(left) + len(right))


def _check_size(like: object, size: int) -> None:
    if isinstance(like, str):
        check_length(size)
    elif size > MOST_ITEMS:
        raise TooMuchError(f"a list of {size:,} entries, allowed: {MOST_ITEMS:,}")


def check_call(
    function: object, args: Sequence[object], kwargs: Mapping[str, object], *, known: bool
) -> None:
    """Refuse a call that is not known to end, and arguments that are too large."""
    owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
    allowed = next((names for kind, names in METHODS.items() if isinstance(owner, kind)), None)
    if allowed is not None and name in allowed:
        _check_growth(name, [owner, *args])
    elif not known and not type(owner).__module__.startswith("jinja2."):
        raise TooMuchError(f"it calls {shown(str(name))}, which prompts do not need")
    else:
        meter().weighed([*args, *kwargs.values()])


def check_filter(name: str, function: Callable[..., object]) -> Callable[..., object]:
    """A filter whose arguments and result are weighed."""

    @wraps(function)
    def checked(*args: object, **kwargs: object) -> object:
        given = args[1:] if hasattr(function, "jinja_pass_arg") else args
        _check_growth(name, [*given, *kwargs.values()])
        result = function(*args, **kwargs)
        if isinstance(result, Iterator):
            result = list(islice(result, MOST_ITEMS + 1))
            _check_size(result, len(result))
        return meter().weighed(result)

    return checked


def _check_growth(name: str, given: Sequence[object]) -> None:
    """Refuse what makes much of little: long separators, widths, texts put in many times."""
    meter().weighed(list(given))
    for value in given[1:] if name in PADDING else ():
        if isinstance(value, int) and abs(value) > MOST_NUMBER:
            raise TooMuchError(f"{name} takes {shown(value)}, allowed: {MOST_NUMBER}")
    first, *more = given or [""]
    if name == "replace" and len(more) > 1:
        text, old, new = map(str, (first, *more[:2]))
        check_length(len(text) + (text.count(old) if old else len(text) + 1) * len(new))
    if name == "join" and more:
        separator, parts = (more[0], first) if isinstance(first, list) else (first, more[0])
        parts = parts if isinstance(parts, list) else list(str(parts))
        check_length(len(str(separator)) * len(parts) + sum(len(str(part)) for part in parts))
