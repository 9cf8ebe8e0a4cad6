"""Answers of components: plain tensors, of the shape and type that were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeGuard

from tokensieve.core.blame import titled
from tokensieve.core.contract.view import View
from tokensieve.core.errors import PluginError
from tokensieve.core.foreign import shown
from tokensieve.core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

FLOATS = ("float16", "bfloat16", "float32", "float64")
INTEGERS = ("uint8", "int8", "int16", "int32", "int64")
NUMBERS = ("bool", *INTEGERS, *FLOATS)
KINDS = {FLOATS: "a float tensor", INTEGERS: "an integer tensor", NUMBERS: "a tensor of numbers",
         ("bool",): "a bool tensor"}  # fmt: skip
Shape = tuple[int | None, ...]
"""Sizes of a tensor; None for one that is not known."""


def described(answer: object) -> str:
    """An answer in a few words, where another tensor was wanted."""
    if not isinstance(answer, torch.Tensor):
        return shown(type(answer).__name__ if answer is not None else None).strip("'")
    parts = [str(answer.dtype).removeprefix("torch.")]
    if type(answer) not in _plain_types():
        parts.insert(0, type(answer).__name__)
    if answer.is_nested or answer.layout is not torch.strided or answer.is_quantized:
        kind = "nested" if answer.is_nested else str(answer.layout).removeprefix("torch.")
        return " ".join([*parts, kind])
    return " ".join([*parts, str(tuple(answer.shape)), "on", str(answer.device)])


def fits(
    answer: object, shape: Shape, types: Sequence[str], device: torch.device
) -> TypeGuard[Tensor]:
    """Whether ``answer`` is a plain tensor: strided, on ``device``, of one of ``types``."""
    return (
        isinstance(answer, torch.Tensor)
        and type(answer) in _plain_types()
        and not answer.is_nested
        and answer.layout is torch.strided
        and str(answer.dtype).removeprefix("torch.") in types
        and len(answer.shape) == len(shape)
        and all(want in (None, size) for want, size in zip(shape, answer.shape, strict=True))
        and answer.device == device
    )


def checked(
    answer: object, what: str, shape: Shape, types: tuple[str, ...], device: torch.device
) -> Tensor:
    """The answer, if it is what ``what`` has to be.

    Raises:
        PluginError: it is not.
    """
    if fits(answer, shape, types, device):
        return answer.detach()
    sizes = ", ".join("any" if size is None else str(size) for size in shape)
    kind = KINDS.get(types, f"a tensor of {' or '.join(types)}")
    raise PluginError(f"{what} must return {kind} ({sizes}) on {device}, got {described(answer)}")


def _plain_types() -> tuple[type, ...]:
    """Others (masked, distributed, anybody's) may compute something else under the same names."""
    return (torch.Tensor, torch.nn.Parameter)


def check_mask(selector: object, answer: object, available: Tensor, view: View) -> Tensor:
    """A selector's answer as the mask that it has to be: numbers would be read as other tokens."""
    title = f"{titled(selector)} at {view.place}"
    mask = checked(answer, title, tuple(available.shape), ("bool",), available.device)
    return mask & available


def check_order(selector: object, answer: object, kept: Tensor, view: View) -> Tensor:
    """``[batch, tokens]`` 1, 2, ... of the ``kept`` tokens, by the order that a selector tells."""
    title = f"{titled(selector)} at {view.place}: order"
    order = checked(answer, title, tuple(kept.shape), INTEGERS, kept.device)
    return in_order(title, order.long(), kept, view)


def in_order(title: str, turns: Tensor, kept: Tensor, view: View) -> Tensor:
    """Turns as 1, 2, ...; two kept tokens that share one are an error, noticed later."""
    view.check_later(
        f"{title} is no permutation: two kept tokens share a place", shared(turns, kept)
    )
    return counted(turns, kept)


def shared(turns: Tensor, kept: Tensor) -> Tensor:
    """Whether two of the ``kept`` tokens of a row have the same turn."""
    order = _by_turn(turns, kept)
    turn, real = turns.gather(1, order), kept.gather(1, order)
    return ((turn[:, 1:] == turn[:, :-1]) & real[:, 1:]).any()


def counted(turns: Tensor, kept: Tensor) -> Tensor:
    """``[batch, tokens]`` 1, 2, ... for the ``kept`` tokens by rising turn; 0 for the others."""
    place = _by_turn(turns, kept).argsort(dim=1)
    return (place + 1).masked_fill(~kept, 0)


def _by_turn(turns: Tensor, kept: Tensor) -> Tensor:
    """Places by rising turn, those that are not kept last: sorted twice, as no turn is reserved."""
    by_turn = turns.argsort(dim=1, stable=True)
    last = (~kept.gather(1, by_turn)).to(torch.uint8)
    return by_turn.gather(1, last.argsort(dim=1, stable=True))
