"""Hooks that stay with the module they were put on.

``copy.deepcopy`` of a module copies its hooks, and with them what they belong to. Ours become
nothing in a copy, and say so when they are pickled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from tokensieve.core.errors import UnsupportedError

NOT_PICKLED = "a model with a pipeline on it cannot be pickled: detach first, save state_dict()"
FORWARD_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


class Handle(Protocol):
    """The means to take a hook off again, as torch returns it."""

    def remove(self) -> None:
        """Take the hook off; harmless if it is off already."""


class OwnHook:
    """A hook that is left out of copies, and does nothing once it is not ``alive`` any more.

    Compiled code runs it outside of what was compiled, and may keep it after it was removed.
    """

    _torchdynamo_disable = True

    def __init__(self, call: Any, alive: Callable[[], bool]) -> None:
        self._call = call
        self._alive = alive
        self.__module__ = call.__module__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the hook."""
        return self._call(*args, **kwargs) if self._alive() else None

    def __deepcopy__(self, memo: Any) -> Any:
        """In a copy nothing runs."""
        return _nothing

    def __reduce_ex__(self, protocol: Any) -> Any:
        """It belongs to one process."""
        raise UnsupportedError(NOT_PICKLED)


def _nothing(*args: Any, **kwargs: Any) -> None:
    """What a hook is in a copy."""


def own(handle: Any, alive: Callable[[], bool] = lambda: True) -> Any:
    """Make the hook of a handle one that stays; returns the handle."""
    hooks = handle.hooks_dict_ref()
    hooks[handle.id] = OwnHook(hooks[handle.id], alive)
    return handle


def forget_hooks(model: Any) -> None:
    """Take the remains of our hooks off a copy."""
    _take_off(model, lambda number, hook: hook is _nothing)


@contextmanager
def all_or_none(model: Any) -> Iterator[None]:
    """If the block fails, no hook that it registered stays on the model.

    An adapter that fails halfway never returns the handles of what it registered before.
    """
    there = {number for module in model.modules() for number in _numbers(module)}
    try:
        yield
    except BaseException:
        _take_off(model, lambda number, hook: number not in there)
        raise


def _numbers(module: Any) -> Iterator[int]:
    """The handles' numbers, which torch counts through the whole process."""
    for name in FORWARD_HOOKS:
        yield from getattr(module, name)


def _take_off(model: Any, unwanted: Callable[[int, Any], bool]) -> None:
    for module in model.modules():
        for name in FORWARD_HOOKS:
            hooks = getattr(module, name)
            for number in [number for number, hook in hooks.items() if unwanted(number, hook)]:
                del hooks[number]
                for kind in ("_with_kwargs", "_always_called"):
                    getattr(module, name + kind, {}).pop(number, None)
