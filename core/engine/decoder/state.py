"""State of one forward of a decoder, besides what every forward holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tokensieve.core.engine.matched_records import MatchedRecords
from tokensieve.core.engine.repeated_prompt import EarlierDecisions
from tokensieve.core.engine.state import ForwardState

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.cache_utils import Cache

Embeddings = tuple["Tensor", "Tensor"]
"""Cosines and sines of the rotary embeddings, ``[batch, rows, head dim]`` each."""
Reductions = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class LayerArguments:
    """What a decoder layer gets for its current rows.

    Attributes:
        mask: None where the backend's own causal rule says the same.
        position_offset: ``[batch]`` what positions of later tokens have to move by in this layer;
            None for nothing.
    """

    mask: Tensor | None
    embeddings: Embeddings
    position_offset: Tensor | None


@dataclass
class DecoderState(ForwardState):
    """One forward of a decoder.

    Attributes:
        decided: what the prompt's forward decided, in a call without a cache.
        evidence: which record of the vision encoder belongs to which image, if one is read.
        positions: ``[axes, batch, rows]`` ids that the model computed, for all input tokens.
        other_mask: whether the model's own mask hides other tokens than pruning takes for hidden;
            None if it was not looked at.
        arguments: of layers, by what made the rows in their cache and the current ones.
    """

    cache: Cache | None = None
    decided: EarlierDecisions | None = None
    evidence: MatchedRecords | None = None
    positions: Tensor | None = None
    other_mask: Tensor | None = None
    arguments: dict[tuple[Reductions, Reductions, str], LayerArguments] = field(
        default_factory=dict
    )
