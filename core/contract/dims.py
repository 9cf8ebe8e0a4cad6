"""Sizes that costs depend on: of a decoder, and of a model without its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class DecoderDims:
    """The numbers of a decoder (or of an encoder) that costs depend on.

    Attributes:
        layers: number of layers.
        dim: width of the hidden states.
        mlp_dim: width inside the MLPs.
        heads: attention heads of a layer.
        kv_heads: heads of its keys and values, fewer where queries share them.
        head_dim: width of one head.
        ffn_matrices: matrices of an MLP, 3 for gated ones, 2 for plain ones.
    """

    layers: int
    dim: int
    mlp_dim: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn_matrices: int = 3

    @property
    def kv_dim(self) -> int:
        """Width of the keys (and of the values) of one token."""
        return self.kv_heads * self.head_dim


@dataclass(frozen=True)
class ModelSize:
    """A model without its weights.

    Attributes:
        name: how the command line calls it.
        adapter: name of the adapter of its family.
        summary: one line for people.
        dims: sizes of the decoder.
        visual_tokens: visual tokens of one image.
        vocabulary: rows of the embedding table.
        vision: settings of the family's vision config; empty for the encoder of the published
            7-8B models.
    """

    name: str
    adapter: str
    summary: str
    dims: DecoderDims
    visual_tokens: int
    vocabulary: int
    vision: Mapping[str, int] = field(default_factory=dict)

    @property
    def decoder_parameters(self) -> int:
        """Weights of the decoder, embeddings and output head included, norms left out."""
        dims = self.dims
        attention = 2 * dims.dim * (dims.heads * dims.head_dim + dims.kv_dim)
        layers = dims.layers * (attention + 3 * dims.dim * dims.mlp_dim)
        return layers + 2 * self.vocabulary * dims.dim
