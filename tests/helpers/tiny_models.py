"""Tiny random-weight models of the families, and inputs for them.

Built from transformers' own classes and configs; small enough for float64 on a CPU, and with what
makes each family different: CLIP [CLS] and MHA or GQA decoders (LLaVA), windowed vision attention,
patch merger and M-RoPE (Qwen2.5-VL), pixel shuffle and tiles (InternVL), pictures of any size with
a token behind each row of their tokens (Pixtral in LLaVA).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import (
    CLIPVisionConfig,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    PixtralVisionConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
)

VOCABULARY = 64
PAD, BOS, EOS, IMAGE, VISION_START, VISION_END, VIDEO = 0, 1, 2, 60, 61, 62, 63
ROW_END, IMAGE_END = 58, 59  # Pixtral's; text may hold them, too
SPECIAL = [IMAGE, VISION_START, VISION_END, VIDEO]  # never to be generated
DEPTH = 6
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "max_position_embeddings": 4096,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": None,
    "initializer_range": 0.15,
    "tie_word_embeddings": False,
}


def llava(
    kv_heads: int = 4,
    side: int = 4,
    vision_layers: int = 3,
    vision_width: int = 24,
    **text: Any,
) -> LlavaForConditionalGeneration:
    vision = CLIPVisionConfig(
        image_size=side * 4,
        patch_size=4,
        hidden_size=vision_width,
        intermediate_size=32,
        num_hidden_layers=vision_layers,
        num_attention_heads=4,
        initializer_factor=4.0,
    )
    config = LlavaConfig(  # type: ignore[call-arg]  # one of its names
        vision_config=vision,
        text_config=LlamaConfig(**{**TEXT, "num_key_value_heads": kv_heads, **text}),
        image_token_id=IMAGE,
        vision_feature_layer=-2,
    )
    return LlavaForConditionalGeneration(config)


def qwen(
    vision_layers: int = 3, whole_image: tuple[int, ...] = (1,), **text: Any
) -> Qwen2_5_VLForConditionalGeneration:
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": vision_layers,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 4,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "window_size": 16,
            "fullatt_block_indexes": [*whole_image],
            "out_hidden_size": 32,
            "initializer_range": 0.2,
        },
        text_config={
            **TEXT,
            "num_key_value_heads": 2,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [1, 1, 2],
            },
            **text,
        },
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
        tie_word_embeddings=False,
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def internvl(vision_layers: int = 3, **text: Any) -> InternVLForConditionalGeneration:
    config = InternVLConfig(
        vision_config={
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_hidden_layers": vision_layers,
            "num_attention_heads": 4,
            "image_size": [32, 32],
            "patch_size": [4, 4],
            "use_qk_norm": True,
            "layer_scale_init_value": 0.5,
            "initializer_range": 0.2,
        },
        text_config=Qwen2Config(**{**TEXT, "num_key_value_heads": 2, **text}).to_dict(),
        image_token_id=IMAGE,
        downsample_ratio=0.5,
    )
    return InternVLForConditionalGeneration(config)


def pixtral(**text: Any) -> LlavaForConditionalGeneration:
    vision = PixtralVisionConfig(
        image_size=32,
        patch_size=4,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        initializer_range=0.2,
    )
    decoder = MistralConfig(**{**TEXT, "num_key_value_heads": 2, "sliding_window": None, **text})
    config = LlavaConfig(  # type: ignore[call-arg]  # one of its names
        vision_config=vision,
        text_config=decoder,
        image_token_id=IMAGE,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    return LlavaForConditionalGeneration(config)


FAMILIES: dict[str, Callable[..., Any]] = {
    "llava": lambda **text: llava(4, **text),
    "llava-gqa": lambda **text: llava(2, **text),
    "qwen-vl": qwen,
    "internvl": internvl,
    "llava-pixtral": pixtral,
}
ANY_SIZE = ("qwen-vl", "llava-pixtral")
"""Families whose images have as many rows and columns of tokens as they like."""


def build(
    family: str, dtype: torch.dtype = torch.float64, attention: str = "sdpa", **text: Any
) -> Any:
    """A model in eval mode; weights depend on the family only."""
    torch.manual_seed(20630)
    model = FAMILIES[family](**text)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim <= 1 and bool((parameter == 0).all()):
                parameter.normal_(0, 0.1)  # zero biases and [CLS] tokens would hide mistakes
    model.generation_config.pad_token_id = PAD
    model.generation_config.eos_token_id = None
    model = model.to(dtype).eval()
    model.set_attn_implementation(attention)
    return model


@dataclass(frozen=True)
class Prompt:
    """One sample: text lengths around its images, and the images' sizes."""

    before: int
    images: tuple[Any, ...]
    after: int
    seed: int = 0


def image_tokens(family: str, image: Any) -> int:
    """Visual tokens of an image: (height, width) in tokens or, for InternVL, tiles."""
    if family in ANY_SIZE:
        return int(image[0] * image[1])
    return 16 * (image if family == "internvl" else 1)


DEFAULT_IMAGES: dict[str, tuple[Any, Any]] = {
    "llava": (1, 1),
    "llava-gqa": (1, 1),
    "qwen-vl": ((3, 4), (4, 5)),
    "internvl": (1, 2),
    "llava-pixtral": ((3, 4), (4, 5)),
}


def pixels(family: str, image: Any, generator: torch.Generator, dtype: torch.dtype) -> torch.Tensor:
    if family == "qwen-vl":
        patches = image[0] * image[1] * 4
        return torch.randn(patches, 3 * 2 * 4 * 4, generator=generator).to(dtype)
    if family == "internvl":
        return torch.randn(image, 3, 32, 32, generator=generator).to(dtype)
    if family == "llava-pixtral":
        sides = (image[0] * 4, image[1] * 4)
        return torch.randn(1, 3, *sides, generator=generator).to(dtype)
    return torch.randn(1, 3, 16, 16, generator=generator).to(dtype)


def prompt_ids(family: str, prompt: Prompt) -> list[int]:
    generator = torch.Generator().manual_seed(prompt.seed + 1)

    def text(count: int) -> list[int]:
        return torch.randint(3, 60, (count,), generator=generator).tolist()

    ids = [BOS, *text(prompt.before)]
    for number, image in enumerate(prompt.images):
        if number:
            ids += text(2)
        run = [IMAGE] * image_tokens(family, image)
        if family == "llava-pixtral":
            ids += [*(([IMAGE] * image[1] + [ROW_END]) * image[0])[:-1], IMAGE_END]
            continue
        ids += [VISION_START, *run, VISION_END] if family != "llava" else run
    return [*ids, *text(prompt.after)]


def inputs(
    family: str,
    prompts: Sequence[Prompt],
    *,
    side: str = "left",
    dtype: torch.dtype = torch.float64,
) -> dict[str, Any]:
    """A padded batch of prompts as the model's processor would make it."""
    rows = [prompt_ids(family, prompt) for prompt in prompts]
    longest = max(map(len, rows))
    ids, mask = [], []
    for row in rows:
        fill = longest - len(row)
        ids.append([PAD] * fill + row if side == "left" else row + [PAD] * fill)
        mask.append([0] * fill + [1] * len(row) if side == "left" else [1] * len(row) + [0] * fill)
    batch: dict[str, Any] = {
        "input_ids": torch.tensor(ids),
        "attention_mask": torch.tensor(mask),
    }
    images, grids = [], []
    for prompt in prompts:
        generator = torch.Generator().manual_seed(prompt.seed + 1000)
        for image in prompt.images:
            images.append(pixels(family, image, generator, dtype))
            if family == "qwen-vl":
                grids.append([1, image[0] * 2, image[1] * 2])
    if images and family == "llava-pixtral":
        sizes = [list(picture.shape[2:]) for picture in images]
        tall, wide = (max(side) for side in zip(*sizes, strict=True))
        borders = [(0, wide - w, 0, tall - h) for h, w in sizes]
        images = [pad(*each) for each in zip(images, borders, strict=True)]
        batch["image_sizes"] = torch.tensor(sizes)
    if images:
        batch["pixel_values"] = torch.cat(images)
    if family == "qwen-vl":
        if grids:
            batch["image_grid_thw"] = torch.tensor(grids)
        batch["mm_token_type_ids"] = (batch["input_ids"] == IMAGE).int()
    return batch


def continuing(model: Any, cache: Any) -> dict[str, Any]:
    """A KV cache under the name that this version of transformers has for the argument."""
    names = inspect.signature(type(model).forward).parameters
    return {"cache" if "cache" in names else "past_key_values": cache}
