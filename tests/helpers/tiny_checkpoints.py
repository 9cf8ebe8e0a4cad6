"""Hugging Face folders of the families: tiny random weights, real processors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tiny_models
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GotOcr2ImageProcessor,
    InternVLProcessor,
    InternVLVideoProcessor,
    PixtralImageProcessor,
    PixtralProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from tokensieve.adapters.zoo import tiny_llava

SPECIAL = {"<pad>": tiny_models.PAD, "<s>": tiny_models.BOS, "</s>": tiny_models.EOS, "<unk>": 3}
TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %} {{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %} w5"
)


def _tokenizer(special: Mapping[str, int], **named: str) -> PreTrainedTokenizerFast:
    """Words ``w0 .. w63``, some of them replaced by special tokens."""
    words = {f"w{number}": number for number in range(tiny_models.VOCABULARY)}
    for token, number in {**SPECIAL, **special}.items():
        del words[f"w{number}"]
        words[token] = number
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=named or [*special],
    )


def _qwen_processor() -> Qwen2_5_VLProcessor:
    special = {
        "<|image_pad|>": tiny_models.IMAGE,
        "<|vision_start|>": tiny_models.VISION_START,
        "<|vision_end|>": tiny_models.VISION_END,
        "<|video_pad|>": tiny_models.VIDEO,
    }
    patch = 8  # pixels of a visual token
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(
            patch_size=4,
            merge_size=2,
            temporal_patch_size=2,
            size={"shortest_edge": 4 * patch**2, "longest_edge": 64 * patch**2},
        ),
        tokenizer=_tokenizer(special),
        video_processor=Qwen2VLVideoProcessor(patch_size=4, merge_size=2),
        chat_template=TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"),
    )


def _internvl_processor() -> InternVLProcessor:
    side = {"height": 32, "width": 32}
    return InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(
            size=side, crop_to_patches=True, min_patches=1, max_patches=6
        ),
        tokenizer=_tokenizer(
            {
                "<IMG_CONTEXT>": tiny_models.IMAGE,
                "<img>": tiny_models.VISION_START,
                "</img>": tiny_models.VISION_END,
            },
            start_image_token="<img>",
            end_image_token="</img>",
            context_image_token="<IMG_CONTEXT>",
            video_token="<video>",
        ),
        video_processor=InternVLVideoProcessor(size=side),
        image_seq_length=16,
        chat_template=TEMPLATE.replace("IMAGE", "<IMG_CONTEXT>\n"),
    )


def _pixtral_processor() -> PixtralProcessor:
    return PixtralProcessor(
        image_processor=PixtralImageProcessor(patch_size=4, size={"longest_edge": 32}),
        tokenizer=_tokenizer(
            {
                "[IMG]": tiny_models.IMAGE,
                "[IMG_BREAK]": tiny_models.ROW_END,
                "[IMG_END]": tiny_models.IMAGE_END,
            }
        ),
        patch_size=4,
        chat_template=TEMPLATE.replace("IMAGE", "[IMG]"),
    )


def _llava() -> Any:
    torch.manual_seed(20630)
    return tiny_llava.build_model().eval()


PARTS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "llava": (_llava, tiny_llava.build_processor),
    "qwen-vl": (lambda: tiny_models.build("qwen-vl", torch.float32), _qwen_processor),
    "internvl": (lambda: tiny_models.build("internvl", torch.float32), _internvl_processor),
    "llava-pixtral": (
        lambda: tiny_models.build("llava-pixtral", torch.float32),
        _pixtral_processor,
    ),
}


def save(family: str, folder: Path) -> Path:
    """A folder that ``AutoModelForImageTextToText`` and ``AutoProcessor`` load."""
    model, processor = PARTS[family]
    model().save_pretrained(folder)
    processor().save_pretrained(folder)
    return folder
