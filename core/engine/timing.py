"""Time of the engine's own code, for whoever wants to measure it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

Hook = TypeVar("Hook", bound=Callable[..., object])


class Timer:
    """Measures nothing: what an engine has unless it is given another one."""

    def hook(self, call: Hook, *, captures: bool) -> Hook:
        """A hook as it is registered; ``captures``: all that it does is to record signals."""
        return call

    def measured(self) -> AbstractContextManager[None]:
        """A block in which signals are captured, or a boundary decides."""
        return nullcontext()


NO_TIMER = Timer()
