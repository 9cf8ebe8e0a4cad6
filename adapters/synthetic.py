"""Configs and inputs of models that exist for their size only, with random weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from tokensieve.plugin import DecoderDims, UnsupportedError, torch

if TYPE_CHECKING:
    from torch import Tensor

    from tokensieve.plugin import ModelSize

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


NARROW = {"layers": 4, "heads": 4, "head_dim": 16, "mlp": 96}
"""Sizes of a shrunk decoder."""
NARROW_ENCODER = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
"""Settings of a small vision encoder, as CLIP's, SigLIP's and InternViT's configs spell them."""


def shrunk_text(config: Any) -> tuple[Any, DecoderDims]:
    """A copy of ``config`` whose decoder is narrow and shallow, and its sizes.

    What kind of layers they are, RoPE and its scaling, and the share of key heads stay.
    """
    shrunk = copy.deepcopy(config)
    text, whole = shrunk.text_config, config.text_config
    groups = whole.num_attention_heads // whole.num_key_value_heads
    layers = min(NARROW["layers"], whole.num_hidden_layers)
    dims = DecoderDims(
        layers=layers,
        dim=NARROW["heads"] * NARROW["head_dim"],
        mlp_dim=NARROW["mlp"],
        heads=NARROW["heads"],
        kv_heads=max(1, NARROW["heads"] // groups),
        head_dim=NARROW["head_dim"],
    )
    text.num_hidden_layers, text.hidden_size = layers, dims.dim
    text.intermediate_size, text.num_attention_heads = dims.mlp_dim, dims.heads
    text.num_key_value_heads = dims.kv_heads
    if hasattr(text, "head_dim"):
        text.head_dim = dims.head_dim
    if hasattr(text, "layer_types"):
        text.layer_types = text.layer_types[:layers]
    sections = (text.rope_parameters or {}).get("mrope_section")
    if sections is not None:
        half, total = dims.head_dim // 2, sum(sections)
        fewer = [section * half // total for section in sections]
        text.rope_parameters["mrope_section"] = [half - sum(fewer[1:]), *fewer[1:]]
    return shrunk, dims


def special_ids(config: Any) -> set[int]:
    """All tokens that a config names: none of them may come up as a word."""
    named = [*config.to_dict().items(), *config.text_config.to_dict().items()]
    return {
        int(value)
        for name, value in named
        if name.endswith(("token_id", "token_index")) and isinstance(value, int)
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
    special: Collection[int],
    delimiters: tuple[int, int] | None = None,
) -> Tensor:
    """``[batch, rows]`` ids: random text around ``image``; delimiters are part of the text.

    No word is one of the ``special`` ids.
    """
    generator = torch.Generator().manual_seed(SEED)
    before, after = text
    words = torch.randint(
        2, size.vocabulary - SPECIAL_IDS, (batch, before + after), generator=generator
    )
    plain = next(token for token in range(2, size.vocabulary) if token not in special)
    words[torch.isin(words, torch.tensor(sorted(special)))] = plain
    if delimiters is not None:
        words[:, before - 1], words[:, before] = delimiters
    run = torch.tensor(image).expand(batch, -1)
    return torch.cat([words[:, :before], run, words[:, before:]], dim=1)


def random_pixels(*shape: int) -> Tensor:
    """Normal noise, float32."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(SEED))
