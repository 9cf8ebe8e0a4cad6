"""The signals that components may look at: their names, and the shapes in which they come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

QueryRows = Literal["last", "after-image-text", "all-text"]
Module = Literal["attention", "mlp", "block"]
EncoderAttention = Literal["cls", "received", "auto"]
"""Who asks in an encoder layer: the [CLS] row, all rows, or [CLS] where there is one."""

SIGNALS: dict[str, str] = {
    "hidden": "hidden states at the boundary, which the next layer gets [batch, tokens, dim]",
    "previous_hidden": "hidden states that entered the layer that just ran [batch, tokens, dim]",
    "normed_states": "hidden states after the decoder's final norm, of visual and of text tokens",
    "embeddings": "what entered decoder layer 0, of visual and of text tokens",
    "previous_keys": "keys of the layer that just ran, all heads, of visual and of text tokens",
    "transitions": "input and output of decoder attention and MLP modules, per layer",
    "block_transitions": "input and output of whole decoder blocks, per layer",
    "next_attention": "attention of text rows to visual tokens in the layer about to run",
    "previous_attention": "attention of text rows to visual tokens in the layer that just ran",
    "sizes": "original tokens that each token stands for after merging [batch, tokens]",
    "vision_attention": "[CLS] row or received attention in the vision encoder "
    "[batch, tokens, heads]",
    "vision_keys": "vision-encoder keys, mean over heads [batch, tokens, head dim]",
    "vision_features": "features that enter the projector [batch, tokens, vision dim]",
    "encoder_layers": "attention and keys of chosen vision-encoder layers",
    "cls_feature": "the vision encoder's [CLS] feature, projectable [batch, 1, vision dim]",
    "clip_relevance": "cosine of patch and question in CLIP's joint space [batch, tokens]",
    "grid": "row and column of each visual token in its image or tile [batch, tokens, 2]",
    "tile": "number of the tile or frame of each visual token in its image [batch, tokens]",
}
"""Every signal that a component may declare in ``needs`` or ``uses``, and what it is."""

HISTORY_SIGNALS = frozenset(
    {
        "transitions",
        "block_transitions",
        "previous_attention",
        "previous_hidden",
        "previous_keys",
    }
)
"""Signals of layers that have run: there is none at boundary 0."""

LAST_LAYER_SIGNALS = frozenset({"previous_attention", "previous_hidden", "previous_keys"})
"""Signals of the one layer that ran just before the boundary."""

NEXT_LAYER_SIGNALS = frozenset({"next_attention"})
"""Signals of the layer that is about to run: there is none behind the last one."""

VISION_SIGNALS = frozenset(
    {
        "vision_attention",
        "vision_keys",
        "vision_features",
        "encoder_layers",
        "cls_feature",
        "clip_relevance",
        "grid",
        "tile",
    }
)
"""Signals of the vision encoder; an adapter says which of them a model gives."""


@dataclass(frozen=True)
class Transition:
    """How one module changed every token of the sequence (not only the visual ones).

    ``magnitude`` is ``|output| / |input|`` and ``cosine`` the cosine between input and output,
    both ``[batch, rows]`` over the sequence as it was when the module ran; ``valid`` marks real
    rows; ``columns`` ``[batch, tokens]`` says at which of those rows today's visual tokens stood.
    """

    layer: int
    module: Module
    magnitude: Tensor
    cosine: Tensor
    valid: Tensor
    columns: Tensor

    def at_tokens(self, values: Tensor) -> Tensor:
        """Pick today's visual tokens: ``[batch, rows]`` -> ``[batch, tokens]``."""
        return values.gather(1, self.columns)


@dataclass(frozen=True)
class TokenStates:
    """Vectors of the visual tokens and of the prompt's text tokens, at least float32.

    Text tokens stand in prompt order, the same order at every boundary.

    Attributes:
        visual: ``[batch, tokens, n]``.
        text: ``[batch, text, n]``.
        valid: ``[batch, text]`` bool, real text tokens.
        instruction: ``[batch, text]`` bool, those after the last image.
    """

    visual: Tensor
    text: Tensor
    valid: Tensor
    instruction: Tensor

    @property
    def question(self) -> Tensor:
        """``[batch, text]`` bool, the instruction; all text where none follows the image."""
        behind = self.instruction & self.valid
        return behind | (self.valid & ~behind.any(dim=1, keepdim=True))


class TextAttention(Protocol):
    """Attention probabilities from text rows to visual tokens, softmax over *all* keys."""

    def received(self, rows: QueryRows | Tensor, *, gravity: bool = False) -> Tensor:
        """Mean over the query rows: ``[batch, heads, tokens]``, at least float32.

        Args:
            rows: which text tokens ask, by name or as weights ``[batch, text]`` in the order of
                :class:`TokenStates` (a weighted mean; where all weights are 0, the last token).
            gravity: divide each probability by what RoPE alone gives that distance: the product
                of all-ones query and key, over the square root of the head width.
        """


class EncoderLayer(Protocol):
    """Attention and keys inside one layer of the vision encoder, at the decoder's tokens.

    Where a decoder token stands for several patches, their mean.
    """

    def attention(self, kind: EncoderAttention = "auto", *, joined: bool = False) -> Tensor:
        """``[batch, tokens, heads]`` float32 attention of [CLS], or received from all queries.

        ``auto`` takes the [CLS] row where the encoder has one. ``joined`` takes queries and keys
        over their full width, as a single head.
        """

    def keys(self, *, joined: bool = False) -> Tensor:
        """``[batch, tokens, head dim]`` mean over heads, or full width if ``joined``."""
