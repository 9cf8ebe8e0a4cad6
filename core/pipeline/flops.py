"""Decoder FLOPs and KV bytes under the conventions that papers use.

Convention 1 (TransPrune, SparseVLM, FitPrune): a layer with ``n`` tokens costs
``F(n) = 4 n d^2 + 2 n^2 d + 3 n d m``, visual tokens only; it counts multiply-accumulates. It
gives 3.817 T for LLaVA-1.5-7B with 576 tokens, the number all TransPrune tables start from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokensieve.core.contract.dims import DecoderDims


@dataclass(frozen=True)
class Convention:
    """A convention of counting FLOPs.

    Attributes:
        count_text: add the text tokens to every layer.
        ffn_matrices: at most so many of an MLP's matrices; DivPrune's script counts 2.
        mac_factor: 2 to count a multiply-accumulate as two operations.
        grouped_keys: count K and V projections at their real (grouped-query) width.
        include_scoring: add the scorers' own cost, where they state one.
    """

    count_text: bool = False
    ffn_matrices: int = 3
    mac_factor: int = 1
    grouped_keys: bool = False
    include_scoring: bool = False

    def __str__(self) -> str:
        parts = [
            "visual + text tokens" if self.count_text else "visual tokens only",
            f"{self.ffn_matrices} FFN matrices",
            f"a multiply-accumulate counts {self.mac_factor}",
            "grouped K/V at real width" if self.grouped_keys else "4 d^2 projections",
            "scoring included" if self.include_scoring else "scoring not counted",
        ]
        return ", ".join(parts)


PAPER = Convention()
"""Convention 1 of the TransPrune paper."""

COMPUTE = Convention(count_text=True, grouped_keys=True)
"""The work of the hardware: all tokens, real K/V width. Use it to compare with wall time."""


def layer_flops(tokens: float, dims: DecoderDims, convention: Convention = PAPER) -> float:
    """Cost of one decoder layer that processes ``tokens`` tokens in prefill."""
    projections = 2 * dims.dim + 2 * (dims.kv_dim if convention.grouped_keys else dims.dim)
    matrices = min(convention.ffn_matrices, dims.ffn_matrices)
    linear = projections * dims.dim + matrices * dims.dim * dims.mlp_dim
    return convention.mac_factor * (tokens * linear + 2 * tokens**2 * dims.dim)


def decoder_flops(
    tokens_per_layer: Sequence[float],
    dims: DecoderDims,
    convention: Convention = PAPER,
    *,
    text_tokens: int = 0,
    scoring: float = 0.0,
) -> float:
    """Cost of a prefill with ``tokens_per_layer`` visual tokens in each decoder layer.

    >>> llava = DecoderDims(32, 4096, 11008, 32, 32, 128)
    >>> round(decoder_flops([576] * 32, llava) / 1e12, 3)
    3.817
    """
    text = text_tokens if convention.count_text else 0
    total = sum(layer_flops(tokens + text, dims, convention) for tokens in tokens_per_layer)
    return total + (scoring if convention.include_scoring else 0.0)


def kv_bytes(
    tokens_per_layer: Sequence[float],
    dims: DecoderDims,
    *,
    text_tokens: int = 0,
    element_bytes: int = 2,
) -> float:
    """Bytes of the KV cache after prefill, batch 1."""
    rows = sum(tokens + text_tokens for tokens in tokens_per_layer)
    return 2 * rows * dims.kv_dim * element_bytes
