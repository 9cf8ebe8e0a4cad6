"""Sizes of published models, as data: what ``show`` and ``bench`` need to know of them.

A size names the adapter that can build it; nothing is downloaded for any of them.
"""

from __future__ import annotations

from tokensieve.core.contract.dims import DecoderDims, ModelSize
from tokensieve.core.errors import ModelError, did_you_mean

_QWEN_7B = DecoderDims(layers=28, dim=3584, mlp_dim=18944, heads=28, kv_heads=4, head_dim=128)
_SMALL_CLIP = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}

SIZES = {
    size.name: size
    for size in (
        ModelSize(
            "tiny",
            "llava",
            "LLaVA, 8 layers of width 64: to try the program itself, not to time anything",
            DecoderDims(layers=8, dim=64, mlp_dim=176, heads=4, kv_heads=4, head_dim=16),
            visual_tokens=144,
            vocabulary=512,
            vision={**_SMALL_CLIP, "hidden_size": 32, "intermediate_size": 64},
        ),
        ModelSize(
            "small",
            "llava",
            "LLaVA, 16 layers of width 1024: for a CPU; a small vision encoder",
            DecoderDims(layers=16, dim=1024, mlp_dim=2816, heads=16, kv_heads=16, head_dim=64),
            visual_tokens=576,
            vocabulary=32064,
            vision=_SMALL_CLIP,
        ),
        ModelSize(
            "llava-1.5-7b",
            "llava",
            "LLaVA-1.5-7B: CLIP ViT-L/14-336 and Vicuna-7B",
            DecoderDims(layers=32, dim=4096, mlp_dim=11008, heads=32, kv_heads=32, head_dim=128),
            visual_tokens=576,
            vocabulary=32064,
        ),
        ModelSize(
            "pixtral-12b",
            "llava-pixtral",
            "Pixtral-12B with an image of 1024 x 1024 pixels",
            DecoderDims(layers=40, dim=5120, mlp_dim=14336, heads=32, kv_heads=8, head_dim=128),
            visual_tokens=4096,
            vocabulary=131072,
        ),
        ModelSize(
            "qwen2.5-vl-7b",
            "qwen-vl",
            "Qwen2.5-VL-7B with an image of about one megapixel",
            _QWEN_7B,
            visual_tokens=1296,
            vocabulary=152064,
        ),
        ModelSize(
            "internvl3-8b",
            "internvl",
            "InternVL3-8B: InternViT-300M, one tile, and Qwen2.5-7B",
            _QWEN_7B,
            visual_tokens=256,
            vocabulary=151674,
        ),
    )
}


def find_size(name: str) -> ModelSize:
    """The size of that name; an error lists all."""
    if name not in SIZES:
        raise ModelError(f"unknown model size {name!r}{did_you_mean(name, SIZES)}")
    return SIZES[name]
