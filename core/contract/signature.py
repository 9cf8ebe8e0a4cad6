"""Signatures: the arguments of a module, read off its class instead of remembered.

Instances may be wrapped (accelerate, quantization); the class says which arguments there are.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokensieve.core.errors import AttachError

if TYPE_CHECKING:
    from torch import nn

_STARRED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True)
class Signature:
    """The arguments of a module's ``forward``, in order, ``self`` left out."""

    title: str
    names: tuple[str, ...]

    @classmethod
    def of(cls, module: nn.Module, required: Iterable[str] = ()) -> Signature:
        """Read the signature of the module's class.

        Raises:
            AttachError: an argument of ``required`` is not in it.
        """
        kind = type(module)
        own, *parameters = inspect.signature(kind.forward).parameters.values()
        named = [own, *parameters] if own.kind in _STARRED else parameters
        names = tuple(p.name for p in named if p.kind not in _STARRED)
        missing = [name for name in required if name not in names]
        if missing:
            raise AttachError(
                f"{kind.__name__}.forward takes no argument {missing[0]!r} (it takes "
                f"{', '.join(names) or 'none by name'}): {unknown_release()}"
            )
        return cls(kind.__name__, names)

    def named(self, args: Iterable[object], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """All arguments of one call by name, given by position or by name."""
        return {**dict(zip(self.names, args, strict=False)), **kwargs}

    def first(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """The first argument of one call."""
        return args[0] if args else kwargs[self.names[0]]


def unknown_release() -> str:
    """The end of an error about a model that is not laid out as its adapter knows it."""
    from transformers import __version__

    return (
        f"transformers {__version__} lays this model out otherwise than tokensieve knows; "
        "`tokensieve doctor` shows what works here"
    )
