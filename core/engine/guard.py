"""Checks that a forward ran as pruning needs it: made after every forward, else no answer.

Nothing here knows a version of transformers. A layer whose hook did not run, a cache that was
copied or hidden, and rows that nobody stored are noticed by their effects; all comparisons
are of integers on the host.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tokensieve.core.errors import GuardError

if TYPE_CHECKING:
    from transformers.cache_utils import Cache

ADVICE = (
    "no answer is given, it would not be the pruned model's; run the model itself, not a copy or a "
    "compiled version of it (`tokensieve doctor` shows what works here)"
)


def refuse(what: str) -> GuardError:
    """The error for something that was seen in a forward."""
    return GuardError(f"{what}: {ADVICE}")


@dataclass
class ForwardGuard:
    """What one forward was seen to do.

    Attributes:
        first, depth: hooks are on the layers ``first`` to ``depth - 1``.
        after_last: whether one runs after the last of them; it counts as that of layer ``depth``.
        word: what a layer is called.
        watched: layers and branches whose transitions are recorded.
        layer: the layer that has to run next.
        stored: by layer, the rows that its reduced cache has to hold at the end.
        cached: whether a layer was looked at for its cache.
        reduced, restored: whether rows were removed, and the caller was given them back as zeros.
    """

    first: int
    depth: int
    word: str
    watched: frozenset[tuple[int, str]] = frozenset()
    after_last: bool = False
    layer: int = -1
    stored: dict[int, int] = field(default_factory=dict)
    cached: bool = False
    reduced: bool = False
    restored: bool = False

    def __post_init__(self) -> None:
        self.layer = self.first

    def enter(self, index: int) -> None:
        """A layer's hook runs."""
        if index != self.layer:
            raise refuse(f"the hook of {self.word} {index} ran where {self.layer} was to be next")
        self.layer += 1

    def require(self, names: Set[str], given: Mapping[str, object], title: str) -> None:
        """A module was called with what is replaced in its arguments."""
        if not names <= given.keys():
            raise refuse(f"{title} was called without {min(names - given.keys())!r}")

    def same_cache(self, known: Cache | None, given: Cache | None) -> Cache | None:
        """The cache of this forward; all layers have to share the one that the caller gave."""
        if given is not known and (self.cached or known is not None):
            raise refuse(f"{self.word} {self.layer - 1} was given another KV cache")
        self.cached = True
        return given

    def check_recorded(
        self, recorded: Iterable[tuple[int, str]], kinds: tuple[str, ...], boundary: int
    ) -> None:
        """The transitions of all watched branches of these kinds are there."""
        wanted = {(at, kind) for at, kind in self.watched if at < boundary and kind in kinds}
        missing = wanted - set(recorded)
        if missing:
            layer, kind = min(missing)
            raise refuse(f"the hooks on the {kind} of {self.word} {layer} did not run")

    def check_layers(self) -> None:
        """Every hooked layer ran its hook."""
        if self.after_last and self.layer == self.depth:
            raise refuse(f"the hook behind the last {self.word} did not run")
        if self.layer != self.depth + self.after_last:
            raise refuse(
                f"the hook of {self.word} {self.layer} did not run "
                f"(of {self.word}s {self.first} to {self.depth - 1})"
            )
