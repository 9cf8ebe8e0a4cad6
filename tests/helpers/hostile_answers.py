"""What components should never answer: tensors that are none of the ones asked for, and errors."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from tokensieve.core.errors import AttachError, BudgetError, PluginError, TokensieveError

Change = Callable[[Tensor], Any]
LATE: list[Any] = []


class Sub(Tensor):
    """A tensor that says something else under the same names."""

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        plain: Any = super().__torch_function__
        return plain(function, types, args, kwargs or {})


class Duck:
    """Looks like a tensor from afar."""

    def __init__(self, like: Tensor) -> None:
        self.shape, self.dtype, self.device = like.shape, like.dtype, like.device


def _sparse(tensor: Tensor) -> Tensor:
    return tensor.float().to_sparse()


def _compressed(tensor: Tensor) -> Any:
    indices = torch.arange(tensor.shape[0] + 1) * 0
    none = torch.empty(0, dtype=torch.long)
    return torch.sparse_csr_tensor(indices, none, torch.empty(0), size=tuple(tensor.shape))


def _masked(tensor: Tensor) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a prototype, says torch
        return torch.masked.masked_tensor(tensor.float(), torch.ones_like(tensor).bool())


def _nested(tensor: Tensor) -> Tensor:
    return torch.nested.nested_tensor(list(tensor.float()), layout=torch.jagged)


NO_TENSOR: dict[str, Change] = {
    "none": lambda t: None,
    "list": lambda t: t.tolist(),
    "tuple-of-rows": tuple,
    "dict": lambda t: {"scores": t},
    "numpy": lambda t: t.numpy(),
    "numpy-scalar": lambda t: np.float64(0.5),
    "generator": lambda t: (row for row in t),
    "text": lambda t: "0.5",
    "number": lambda t: 0.5,
    "true": lambda t: True,
    "class": lambda t: Tensor,
    "duck": Duck,
    "function": lambda t: t.sum,
    "bytes": lambda t: b"\x00\x1b[31m",
    "storage": lambda t: t.untyped_storage(),
    "size": lambda t: t.shape,
}
"""Answers that are no tensor."""

OTHER_SHAPE: dict[str, Change] = {
    "transposed": lambda t: t.mT,
    "flat": lambda t: t.flatten(),
    "extra-axis": lambda t: t[..., None],
    "batch-axis": lambda t: t[None],
    "column-less": lambda t: t[:, 1:],
    "column-more": lambda t: torch.cat([t, t[:, :1]], dim=1),
    "row-less": lambda t: t[1:],
    "row-more": lambda t: torch.cat([t, t[:1]]),
    "scalar": lambda t: t.sum(),
    "empty": lambda t: t[:0, :0],
    "one-column": lambda t: t[:, :1],
    "one-row": lambda t: t[:1],
}
"""Tensors of another shape, some of which would be broadcast."""

OTHER_KIND: dict[str, Change] = {
    "complex": lambda t: t.to(torch.complex64),
    "sparse": _sparse,
    "compressed": _compressed,
    "nested": _nested,
    "meta": lambda t: t.to("meta"),
    "subclass": lambda t: t.as_subclass(Sub),
    "masked": _masked,
    "quantized": lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8),
    "float8": lambda t: t.float().to(torch.float8_e4m3fn),
}
"""Tensors of the right shape that no operation here is meant for."""

TENSORS = {**NO_TENSOR, **OTHER_SHAPE, **OTHER_KIND}


class Mute(Exception):
    """Cannot even say what is wrong."""

    def __str__(self) -> str:
        raise ValueError("no words")


class Deadly(Exception):
    """Ends the program of whoever asks what is wrong."""

    def __str__(self) -> str:
        raise SystemExit(3)


class Numeric(Exception):
    """Says a number."""

    def __str__(self) -> str:
        return 7  # type: ignore[return-value]  # noqa: PLE0307 - that is what is tried


class Quiet(PluginError):
    """One of ours that says nothing."""

    def __str__(self) -> str:
        return ""


class Own(BaseException):
    """No `except Exception` sees it."""


class Interrupts(KeyboardInterrupt):
    """A Ctrl-C of a plugin's own."""


def _endless() -> None:
    _endless()


def _stop() -> Any:
    return next(iter(()))


def throws(error: BaseException | type[BaseException]) -> Callable[[], NoReturn]:
    def run() -> NoReturn:
        raise error

    return run


RAISED: dict[str, Callable[[], Any]] = {
    "value-error": throws(ValueError("no such thing")),
    "two-lines": throws(RuntimeError("first line\nsecond line")),
    "no-message": throws(RuntimeError()),
    "key-error": throws(KeyError("x")),
    "control-codes": throws(ValueError("\x1b[31mred\x07\r\n\x00")),
    "very-long": throws(ValueError("x" * 1_000_000)),
    "half-character": throws(ValueError("\ud800")),
    "separators": throws(ValueError("a\u2028b\u2029c\x85d")),
    "exit-0": throws(SystemExit(0)),
    "exit-text": throws(SystemExit("bye")),
    "keyboard": throws(KeyboardInterrupt),
    "own-keyboard": throws(Interrupts("mine")),
    "generator-exit": throws(GeneratorExit),
    "stop-iteration": _stop,
    "recursion": _endless,
    "memory": throws(MemoryError()),
    "cuda-memory": throws(torch.OutOfMemoryError("full")),
    "mute": throws(Mute()),
    "deadly": throws(Deadly()),
    "numeric": throws(Numeric()),
    "base": throws(Own("beyond")),
    "group": throws(ExceptionGroup("several", [ValueError("a"), TypeError("b")])),
    "canceled": throws(asyncio.CancelledError()),
    "assertion": throws(AssertionError()),
    "not-implemented": throws(NotImplementedError()),
    "warning": throws(UserWarning("careful")),
    "os-error": throws(OSError(28, "No space left on device")),
    "unicode": throws(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad")),
    "ours-two-lines": throws(TokensieveError("one\ntwo")),
    "ours-quiet": throws(Quiet()),
    "attach": throws(AttachError("cannot be pruned")),
    "budget": throws(BudgetError("cannot be met")),
}
"""Everything that can be raised."""
