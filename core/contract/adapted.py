"""Models as their adapters see them: for every engine, and for the encoder engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tokensieve.core.contract.dims import DecoderDims
from tokensieve.core.contract.hooks import Handle
from tokensieve.core.contract.shrinking import Grid
from tokensieve.core.contract.signals import HISTORY_SIGNALS, Module
from tokensieve.core.errors import UnsupportedError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tokensieve.core.contract.components import Component, Merger, Selector
    from tokensieve.core.contract.panel import Panel

Branch = tuple[Module, "nn.Module", "nn.Module"]
"""A residual branch of a layer: its kind, the module that it enters, the one that it leaves."""

ENCODER_SIGNALS = frozenset(
    {
        "hidden",
        "previous_hidden",
        "block_transitions",
        "sizes",
        "grid",
        "tile",
    }
)
"""Signals that the encoder engine makes for every encoder."""

BRANCH_SIGNALS = frozenset({"transitions"})
"""Signals of encoders whose blocks have one attention and one MLP branch."""

ATTENTION_SIGNALS = frozenset(
    {"previous_attention", "vision_attention", "vision_keys", "encoder_layers"}
)
"""Signals of encoders whose blocks show queries and keys; they belong to a block that has run."""


IMAGE = -1
"""The boundary before the vision encoder, where pictures are made smaller (``at: image``)."""


@dataclass(frozen=True)
class Demands:
    """Demands of one boundary of a pipeline on a model.

    Attributes:
        boundary: number of layers that have run, or ``IMAGE``.
        components: all that run there; ``select`` and ``merge`` among them.
    """

    boundary: int
    components: tuple[Component, ...]
    select: Selector
    merge: Merger | None


class AdaptedModel(ABC):
    """A model, seen through its adapter.

    Attributes:
        engine: the engine that prunes it.
        layer_word: what its layers are called.
        name: of the adapter.
        model: what the user attached to.
        layers: the layers between which are boundaries; ``dims`` their sizes.
        provides: names of the signals this model can give.
        missing: for signals it cannot give, why.
        history: signals that there are only once a layer has run.
    """

    engine: ClassVar[Literal["decoder", "encoder"]] = "decoder"
    layer_word: ClassVar[str] = "decoder layer"

    name: str
    model: Any
    layers: Sequence[nn.Module]
    dims: DecoderDims
    provides: frozenset[str]
    missing: dict[str, str]
    history: frozenset[str] = HISTORY_SIGNALS

    @abstractmethod
    def branches(self, layer: int) -> list[Branch]:
        """The attention and the MLP branch of a layer."""

    def refusal(self, demands: Demands) -> str | None:
        """The reason why this model cannot run a boundary, signals aside; None if it can."""
        return None


class AdaptedEncoder(AdaptedModel):
    """An encoder of pictures with a head: no text, no cache, attention in both directions.

    A sequence is ``prefix`` rows ([CLS], registers) and then the patches, in raster order. The
    prefix rows are never removed.

    Attributes:
        encoder: the module that is called with the pictures.
        embedding: the module in it that runs first.
        final: the module that gets what leaves the last block.
        prefix: rows before the patches; ``has_cls``: whether the first of them is a [CLS].
        mask_argument: the blocks' argument for an attention mask; None if they take none.
    """

    engine: ClassVar[Literal["decoder", "encoder"]] = "encoder"
    layer_word: ClassVar[str] = "encoder block"

    encoder: nn.Module
    embedding: nn.Module
    final: nn.Module
    prefix: int
    has_cls: bool
    mask_argument: str | None
    history: frozenset[str] = HISTORY_SIGNALS | ATTENTION_SIGNALS

    @abstractmethod
    def pictures(self, args: Sequence[object], kwargs: dict[str, object]) -> Tensor:
        """The pictures ``[batch, ...]`` in the arguments of ``encoder``.

        Raises:
            UnsupportedError: they are in a form that cannot be pruned.
        """

    @abstractmethod
    def grid(self, pictures: Tensor) -> tuple[int, int]:
        """Rows and columns of patches."""

    @abstractmethod
    def attention_source(self, layer: int) -> nn.Module:
        """The module whose output holds the queries and keys of a block."""

    @abstractmethod
    def queries_and_keys(self, layer: int, output: Tensor) -> tuple[Tensor, Tensor]:
        """Both as they are multiplied: ``[batch, heads, rows, head dim]``."""

    @abstractmethod
    def attention_scale(self, layer: int) -> float:
        """The factor on query-key products."""

    @abstractmethod
    def layer_at(self, depth: float) -> int:
        """The block after which the share ``depth`` of all blocks has run."""

    @abstractmethod
    def watch_pooling(self, weights: Callable[[], Tensor | None]) -> Sequence[Handle]:
        """Register hooks that make the head count row ``i`` ``weights()[:, i]`` times.

        ``weights()`` is ``[batch, rows]``: 1 for prefix rows, for a patch the original patches that
        it stands for, 0 for filler; None if it is 1 everywhere. Return the hooks' handles.
        """

    def panels(self, size: tuple[int, int], processor: Any, inputs: Any) -> list[Panel]:
        """The places of the patches of a picture of ``size`` (width, height); empty: unknown."""
        return []

    def shrink_images(self, wanted: Callable[[], Grid | None]) -> Sequence[Handle]:
        """Register hooks that make the pictures smaller; return their handles.

        ``wanted()`` is the grid of patches that those of the running forward are to have; None:
        as they are. Without a forward the encoder is what it was.
        """
        raise UnsupportedError(f"adapter {self.name} cannot make pictures smaller")

    def refusal(self, demands: Demands) -> str | None:
        """Blocks that have not run yet, and masks that the blocks do not take."""
        for component in demands.components:
            for depth in sorted(component.vision_depths()):
                if self.layer_at(depth) >= demands.boundary:
                    return (
                        f"{component.name!r} reads block {self.layer_at(depth)} (depth {depth:g}), "
                        f"but only blocks 0 to {demands.boundary - 1} have run: prune later"
                    )
        merge, ragged = demands.merge, demands.select.adaptive_count
        if self.mask_argument is None and ragged:
            return (
                f"{demands.select.name!r} keeps a different number of patches of every picture, "
                f"but the blocks of this model take no attention mask: use another selector"
            )
        if self.mask_argument is None and merge is not None and merge.proportional():
            return (
                f"{merge.name!r} lets merged patches count by their size in attention, but the "
                "blocks of this model take no attention mask"
            )
        return None
