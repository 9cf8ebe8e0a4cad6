"""Blame: whatever a plugin raises becomes one line that names plugin and component."""

from __future__ import annotations

import dis
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from tokensieve.core.errors import AttachError, PluginError, TokensieveError
from tokensieve.core.foreign import said, shorten, shown, text_of

_RAISE = dis.opmap["RAISE_VARARGS"]
_KINDS = ("Scorer", "Selector", "Merger", "Adapter", "Task")
_OWNERS: WeakKeyDictionary[type, str] = WeakKeyDictionary()


def note_owner(part: type, owner: str) -> None:
    """Remember who registered a class: a distribution's name or the path of a plugin file."""
    _OWNERS[part] = owner


def owner_of(part: type) -> str:
    """The owner that registered a class; of one that nobody did, the package that defines it."""
    return _OWNERS.get(part) or part.__module__.partition(".")[0]


def titled(part: object) -> str:
    """``plugin 'their-plugin', scorer 'loud'`` of a component, an adapter, a task, or a class."""
    kind = part if isinstance(part, type) else type(part)
    words = [base.__name__ for base in kind.__mro__ if base.__name__ in _KINDS]
    word = words[-1].lower() if words else "component"
    name = getattr(kind, "name", "") or kind.__name__
    return f"plugin {shorten(owner_of(kind))!r}, {word} {shown(name)}"


@contextmanager
def blamed(
    part: object, where: str = "", passing: tuple[type[BaseException], ...] = ()
) -> Iterator[None]:
    """Run what belongs to ``part``, a component; ``where`` says at which stage.

    Everything that it raises becomes a :class:`PluginError`, ``SystemExit`` included; but for
    errors of ours that are a line already, errors of the kinds ``passing``, and the user's Ctrl-C.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, passing) or is_ours(error) or by_user(error):
            raise
        place = f" at {where}" if where else ""
        raise PluginError(f"{titled(part)}{place}: {said(error)}") from error


def is_ours(error: BaseException) -> bool:
    """Whether an error says in one line what is wrong.

    An ``AttachError`` is no component's to raise: it means that the model cannot be pruned.
    """
    ours = isinstance(error, TokensieveError) and not isinstance(error, AttachError)
    return ours and len(text_of(error).splitlines()) == 1


def by_user(error: BaseException) -> bool:
    """Whether somebody pressed Ctrl-C.

    Python raises that between two instructions, or in the handler that is installed; a plugin
    raises ``KeyboardInterrupt`` by an instruction of its own.
    """
    if not isinstance(error, KeyboardInterrupt):
        return False
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or trace.tb_lasti < 0:
        return True
    code = trace.tb_frame.f_code
    if getattr(signal.getsignal(signal.SIGINT), "__code__", None) is code:
        return True
    return code.co_code[trace.tb_lasti] != _RAISE
