"""Attention backends: those that are tested, whoever names them."""

from __future__ import annotations

from tokensieve.core.errors import UnsupportedError
from tokensieve.core.foreign import shown

BACKENDS = ("sdpa", "eager")


def check_backend(implementation: object) -> None:
    """Refuse a backend whose masks we cannot write, or that CI does not run.

    So no kernel of the Hub is fetched.

    Raises:
        UnsupportedError: it is another one.
    """
    if implementation not in BACKENDS:
        raise UnsupportedError(
            f"attention implementation {shown(implementation)} is not supported while pruning: "
            f"load the model with attn_implementation= one of {', '.join(BACKENDS)}"
        )
