"""``tiny-llava-hd``: tiny-llava with 24 x 24 visual tokens, for all tasks."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from tokensieve.adapters.zoo.families import (
    IMAGE_MEAN,
    IMAGE_STD,
    Encoded,
    Family,
    TokenLayout,
    line_positions,
    raster_cells,
)
from tokensieve.adapters.zoo.tasks.glyphs import PATCH
from tokensieve.adapters.zoo.tasks.pictures import LARGE, SMALL


class TinyLlavaHD(Family):
    """CLIP-style encoder with [CLS] and 576 patches of 8 pixels, last layer but one."""

    name = "tiny-llava-hd"
    image_token = "<image>"
    summary_width = 96
    sides = (SMALL, LARGE)
    fewer = 2
    sheet_side = LARGE

    def __init__(self, canvas: int = LARGE) -> None:
        """``canvas``: what the encoder takes, in pixels (96 in tiny-llava)."""
        self.canvas = canvas

    def build_model(self) -> LlavaForConditionalGeneration:
        """1.9 M parameters."""
        vision = CLIPVisionConfig(
            image_size=LARGE,
            patch_size=PATCH,
            hidden_size=self.summary_width,
            intermediate_size=192,
            num_hidden_layers=5,
            num_attention_heads=4,
            projection_dim=self.summary_width,
        )
        own: dict[str, Any] = {
            "image_token_id": self.ids(self.image_token)[0],
            "image_seq_length": (LARGE // PATCH) ** 2,
            "vision_feature_layer": -2,
            "vision_feature_select_strategy": "default",
            "tie_word_embeddings": True,
        }
        text = LlamaConfig(**self.text_settings())
        return LlavaForConditionalGeneration(
            LlavaConfig(vision_config=vision, text_config=text, **own)
        )

    def inherit_encoder(self, model: Any, old: Any) -> None:
        """The encoder and projector of tiny-llava; its 12 x 12 positions are in each quarter."""
        if old.config.model_type != "llava":
            return
        kept = model.model.state_dict()
        for key, weight in old.model.state_dict().items():
            if key.startswith("language_model"):
                continue
            if kept[key].shape == weight.shape:
                kept[key].copy_(weight)
            elif "position_embedding" in key:
                summary, patches = weight.split([1, len(weight) - 1])
                side, whole = math.isqrt(len(patches)), LARGE // PATCH
                grid = patches.view(side, side, -1).repeat(whole // side, whole // side, 1)
                kept[key].copy_(torch.cat([summary, grid.flatten(0, 1)]))

    def build_processor(self) -> LlavaProcessor:
        """No picture is resized: the middle 192 x 192 pixels, with black around smaller ones."""
        size = {"height": LARGE, "width": LARGE}
        return LlavaProcessor(
            image_processor=CLIPImageProcessor(
                do_resize=False,
                crop_size=size,
                image_mean=IMAGE_MEAN,
                image_std=IMAGE_STD,
            ),
            tokenizer=self.tokenizer,
            patch_size=PATCH,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=self.template(self.image_token),
        )

    def pixels(self, images: Tensor) -> Tensor:
        """Black around the pictures."""
        border = (self.canvas - images.shape[-1]) // 2
        return torch.nn.functional.pad(images, (border,) * 4, value=-IMAGE_MEAN[0] / IMAGE_STD[0])

    def encode(self, model: Any, pixels: Tensor, images: int) -> Encoded:
        """Last layer but one through the projector; [CLS] of that layer and of the last."""
        tower = model.model.vision_tower
        states = tower(pixels, output_hidden_states=True).hidden_states
        features = model.model.multi_modal_projector(states[-2][:, 1:])
        return Encoded(features, tuple(state[:, :1] for state in states[-2:]))

    def layout(self, side: int) -> TokenLayout:
        """Raster order; what surrounds a smaller picture belongs to none of its squares."""
        cells, head = raster_cells(side), len(self.head)
        rows, border = side // PATCH, (self.canvas - side) // PATCH // 2
        cells = torch.nn.functional.pad(cells.view(rows, rows), (border,) * 4, value=-1).flatten()
        positions = line_positions(head, len(cells))
        return TokenLayout(side, positions, head + len(cells), cells, cells * 0)
