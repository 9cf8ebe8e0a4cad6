"""``tiny-internvl``: InternViT-style encoder with [CLS], pixel shuffle, image tiles, thumbnail."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import (
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    Qwen2Config,
)

from tokensieve.adapters.zoo.families import (
    IMAGE_MEAN,
    IMAGE_STD,
    Encoded,
    Family,
    TokenLayout,
    line_positions,
)
from tokensieve.adapters.zoo.tasks.glyphs import PATCH
from tokensieve.adapters.zoo.tasks.pictures import LARGE, SMALL

TILE = 48  # pixels
TOKENS_PER_SIDE = TILE // PATCH
MOST_TILES = 16


class TinyInternVL(Family):
    """Tiles of 48 pixels, 36 tokens each; a picture of 192 pixels has 16 tiles and a thumbnail."""

    name = "tiny-internvl"
    image_token = "<IMG_CONTEXT>"
    delimiters = ("<img>", "</img>")
    summary_width = 64
    sides = (SMALL, LARGE)

    def special_tokens(self) -> dict[str, str]:
        """The names that ``InternVLProcessor`` asks its tokenizer for."""
        return {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": self.image_token,
            "video_token": "<video>",
        }

    def build_model(self) -> InternVLForConditionalGeneration:
        """1.7 M parameters."""
        text = self.text_settings()
        config = InternVLConfig(
            vision_config={
                "hidden_size": self.summary_width,
                "intermediate_size": 256,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "image_size": [TILE, TILE],
                "patch_size": [PATCH // 2, PATCH // 2],
                "attention_bias": True,
                "layer_scale_init_value": 0.5,
                "initializer_range": 0.06,
            },
            text_config=Qwen2Config(**text).to_dict(),
            image_token_id=self.ids(self.image_token)[0],
            image_seq_length=TOKENS_PER_SIDE**2,
            downsample_ratio=0.5,
            tie_word_embeddings=True,
        )
        model = InternVLForConditionalGeneration(config)
        embeddings = model.model.vision_tower.embeddings
        with torch.no_grad():  # transformers starts both at zero, which delays learning
            embeddings.position_embeddings.normal_(0, 0.1)
            embeddings.cls_token.normal_(0, 0.1)
        return model

    def build_processor(self) -> InternVLProcessor:
        """Tiles are chosen as in InternVL: the grid that fits the picture's shape and size."""
        size = {"height": TILE, "width": TILE}
        return InternVLProcessor(
            image_processor=GotOcr2ImageProcessor(
                size=size,
                crop_to_patches=True,
                min_patches=1,
                max_patches=MOST_TILES,
                image_mean=IMAGE_MEAN,
                image_std=IMAGE_STD,
            ),
            tokenizer=self.tokenizer,
            video_processor=InternVLVideoProcessor(size=size),
            image_seq_length=TOKENS_PER_SIDE**2,
            chat_template=self.template(self.image_token),
        )

    def pixels(self, images: Tensor) -> Tensor:
        """``[images * tiles, 3, 48, 48]``: the tiles of each picture, then its thumbnail."""
        per_side = images.shape[-1] // TILE
        tiles = images.unflatten(2, (per_side, TILE)).unflatten(4, (per_side, TILE))
        tiles = tiles.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
        thumbnail = torch.nn.functional.interpolate(
            images, size=(TILE, TILE), mode="bicubic", antialias=True
        )
        return torch.cat([tiles, thumbnail[:, None]], dim=1).flatten(0, 1)

    def encode(self, model: Any, pixels: Tensor, images: int) -> Encoded:
        """Last layer, pixel shuffle and projector; [CLS] of the last two layers."""
        tower, core = model.model.vision_tower, model.model
        output = tower(pixel_values=pixels, output_hidden_states=True)
        states, side = output.hidden_states, TILE // (PATCH // 2)
        patches = output.last_hidden_state[:, 1:].unflatten(1, (side, side))
        tokens = core.pixel_shuffle(patches, scale_factor=0.5).flatten(1, 2)
        features = core.multi_modal_projector(tokens)
        summaries = tuple(state[:, 0].unflatten(0, (images, -1)) for state in states[-2:])
        return Encoded(features.unflatten(0, (images, -1)).flatten(1, 2), summaries)

    def layout(self, side: int) -> TokenLayout:
        """Tile after tile, rows of a tile, thumbnail last."""
        per_side, rows = side // TILE, side // PATCH
        cells = torch.arange(rows**2).view(per_side, TOKENS_PER_SIDE, per_side, TOKENS_PER_SIDE)
        cells = cells.transpose(1, 2).flatten()
        cells = torch.cat([cells, torch.full((TOKENS_PER_SIDE**2,), -1)])
        tiles = torch.arange(per_side**2 + 1).repeat_interleave(TOKENS_PER_SIDE**2)
        head = len(self.head)
        return TokenLayout(side, line_positions(head, len(cells)), head + len(cells), cells, tiles)
