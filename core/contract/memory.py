"""Memory of components: tensors that outlive a boundary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

Per = Literal["token", "text"]
"""The rows of remembered values: visual tokens, or text tokens of the prompt."""


class Memory(Protocol):
    """Tensors that outlive a boundary; the engine keeps them in step with the tokens."""

    def recall(self, key: str, per: Per) -> Tensor | None:
        """Values remembered under ``key`` at an earlier boundary, for the current tokens."""

    def remember(self, key: str, values: Tensor, per: Per) -> None:
        """Keep ``values`` ``[batch, tokens, ...]`` or ``[batch, text, ...]``."""


class NoMemory:
    """A memory that forgets."""

    def recall(self, key: str, per: Per) -> Tensor | None:
        """Return None: there is nothing."""
        return None

    def remember(self, key: str, values: Tensor, per: Per) -> None:
        """Forget ``values`` at once."""
