"""State of one call of a model, and of nobody else: kept in the context that runs it.

An engine is shared by everybody who uses its model; what a call knows is not. Threads that generate
on one model, and tasks that take turns in one thread, each find their own.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from tokensieve.core.engine.repeated_prompt import EarlierDecisions

if TYPE_CHECKING:
    from torch import Tensor

    from tokensieve.core.contract.vision_record import VisionRecord
    from tokensieve.core.engine.state import ForwardState

Owner = Literal["generate", "model", "inner"]
RANKS = {"generate": 0, "model": 1, "inner": 2}


@dataclass
class Call:
    """One call of ``generate``, of the model, or of its inner module: the outermost of them.

    Attributes:
        prompt: the ids that ``generate`` was called with; ``asked`` what else by name.
        arguments: of the model's own forward that runs.
        forwards: how many forwards have been checked in it; ``before`` at the model's last start.
        state: the forward that runs.
        records: of the pictures that were encoded in it.
        decided: what its prompt's forward decided, if it runs without a cache.
    """

    engine: object
    owner: Owner
    prompt: Tensor | None = None
    asked: dict[str, object] = field(default_factory=dict)
    arguments: dict[str, object] = field(default_factory=dict)
    forwards: int = 0
    before: int = 0
    state: ForwardState | None = None
    records: list[VisionRecord] = field(default_factory=list)
    decided: EarlierDecisions | None = None


_CALLS: ContextVar[tuple[Call, ...]] = ContextVar("tokensieve_calls", default=())


def current(engine: object) -> Call | None:
    """The call of this engine that runs in this context."""
    for call in reversed(_CALLS.get()):
        if call.engine is engine:
            return call
    return None


def enter(engine: object, owner: Owner) -> Call:
    """The running call, or a new one of ``owner``; one that was cut off is forgotten.

    A ``generate`` is never cut off: who runs one inside of a call goes on with that afterwards.
    """
    call = current(engine)
    if call is not None and RANKS[call.owner] < RANKS[owner]:
        return call
    if owner != "generate":
        leave(engine, call)
    call = Call(engine, owner)
    _CALLS.set((*_CALLS.get(), call))
    return call


def leave(engine: object, call: Call | None) -> None:
    """Forget a call."""
    if call is not None:
        _CALLS.set(tuple(other for other in _CALLS.get() if other is not call))


def decided_before(call: Call, ids: Tensor | None) -> EarlierDecisions | None:
    """What was decided for the prompt of a call without a cache, if its forwards repeat it.

    The first forward of a call is its own; others may run other prompts in between (guidance,
    criteria that ask the model).
    """
    if call.owner != "generate" or ids is None:
        return None
    if call.decided is None and not call.forwards:
        call.decided = EarlierDecisions(ids)
    return call.decided if call.decided is not None and call.decided.holds(ids) else None
