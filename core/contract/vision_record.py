"""Records of the vision encoder: the signals that one pass of it showed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tokensieve.core.contract.signals import EncoderAttention, EncoderLayer

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class VisionRecord:
    """Signals of one pass of the vision encoder, flat in the order of the placeholders.

    ``T`` counts the visual tokens of all images of the call, in decoder order: whatever an
    encoder does inside (windows, pixel shuffle, patch merging) is undone.

    Attributes:
        images: visual tokens per picture that the encoder was given.
        outputs: ``[T, dim]`` what came out of the projector: the features that the decoder gets.
            By them the engine knows whose record this is.
        filled: per picture, the places among its tokens that a smaller picture fills; None: all.
        layers: captured encoder layers by depth (None: the one that feeds the projector);
            their answers are ``[T, n]``.
        features: ``[T, vision dim]`` the projector's input.
        cls_features: ``[images, vision dim]``.
        grid: ``[T, 2]`` row and column.
        tile: ``[T]`` number of the tile or frame, counted through all images.
        clip_relevance: ``[T]`` cosine of patch and question in CLIP's joint space.
    """

    images: list[int]
    outputs: Tensor | None = None
    filled: list[list[int]] | None = None
    layers: dict[float | None, EncoderLayer] = field(default_factory=dict)
    features: Tensor | None = None
    cls_features: Tensor | None = None
    grid: Tensor | None = None
    tile: Tensor | None = None
    clip_relevance: Tensor | None = None

    def picture_at(self, token: int) -> int:
        """The number of the picture that a token belongs to.

        Raises:
            IndexError: there are fewer tokens.
        """
        for number, count in enumerate(self.images):
            if token < count:
                return number
            token -= count
        raise IndexError(token)


@dataclass(frozen=True)
class MappedLayer:
    """A captured encoder layer whose answers go through ``pick``: other rows of the same values."""

    layer: EncoderLayer
    pick: Callable[[Tensor], Tensor]

    def attention(self, kind: EncoderAttention = "auto", *, joined: bool = False) -> Tensor:
        """Attention of the layer, picked."""
        return self.pick(self.layer.attention(kind, joined=joined))

    def keys(self, *, joined: bool = False) -> Tensor:
        """Keys of the layer, picked."""
        return self.pick(self.layer.keys(joined=joined))
