"""Configs and inputs of models that exist for their size only, with random weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tokensieve.core.errors import UnsupportedError
from tokensieve.core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from tokensieve.core.sizes import ModelSize

SEED = 2507
SPECIAL_IDS = 4  # the last ids of a vocabulary: image, its delimiters, video


def text_settings(size: ModelSize) -> dict[str, Any]:
    """Settings that all Llama-like text configs share; no token ends a text."""
    dims = size.dims
    return {
        "vocab_size": size.vocabulary,
        "hidden_size": dims.dim,
        "intermediate_size": dims.mlp_dim,
        "num_hidden_layers": dims.layers,
        "num_attention_heads": dims.heads,
        "num_key_value_heads": dims.kv_heads,
        "head_dim": dims.head_dim,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": None,
    }


def image_side(size: ModelSize) -> int:
    """Rows of a square image of ``size.visual_tokens`` tokens."""
    side = math.isqrt(size.visual_tokens)
    if side**2 != size.visual_tokens:
        raise UnsupportedError(
            f"size {size.name}: {size.visual_tokens} visual tokens are no square, but adapter "
            f"{size.adapter} takes square images"
        )
    return side


def random_prompts(
    size: ModelSize,
    text: tuple[int, int],
    image: Sequence[int],
    batch: int,
    delimiters: tuple[int, int] | None = None,
) -> Tensor:
    """``[batch, rows]`` ids: random text around ``image``; delimiters are part of the text."""
    generator = torch.Generator().manual_seed(SEED)
    before, after = text
    words = torch.randint(
        2, size.vocabulary - SPECIAL_IDS, (batch, before + after), generator=generator
    )
    if delimiters is not None:
        words[:, before - 1], words[:, before] = delimiters
    run = torch.tensor(image).expand(batch, -1)
    return torch.cat([words[:, :before], run, words[:, before:]], dim=1)


def random_pixels(*shape: int) -> Tensor:
    """Normal noise, float32."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(SEED))
