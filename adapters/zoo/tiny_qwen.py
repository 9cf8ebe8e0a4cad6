"""``tiny-qwen2.5-vl``: windowed vision attention, patch merger, dynamic resolution, M-RoPE."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from tokensieve.adapters.zoo import lean_attention
from tokensieve.adapters.zoo.families import (
    DECODER_WIDTH,
    IMAGE_MEAN,
    IMAGE_STD,
    Encoded,
    Family,
    TokenLayout,
    raster_cells,
)
from tokensieve.adapters.zoo.tasks.glyphs import PATCH
from tokensieve.adapters.zoo.tasks.pictures import LARGE, SMALL

UNIT = 2  # patches of a visual token down and across
SMALL_PATCH = PATCH // UNIT
FRAMES = 2
WINDOW = 48  # pixels
FULL_BLOCKS = (3,)  # one in four


class TinyQwen(Family):
    """Patches of 4 pixels, four of them a token; windows of 48 pixels; no [CLS]."""

    name = "tiny-qwen2.5-vl"
    image_token = "<|image_pad|>"
    delimiters = ("<|vision_start|>", "<|vision_end|>")
    sides = (SMALL, LARGE)

    def special_tokens(self) -> dict[str, str]:
        """The names that ``Qwen2_5_VLProcessor`` asks its tokenizer for."""
        return {"image_token": self.image_token, "video_token": "<|video_pad|>"}

    def build_model(self) -> Qwen2_5_VLForConditionalGeneration:
        """1.7 M parameters.

        Positions stay small, for a picture takes as many as it has rows: the decoder's RoPE turns
        faster than usual, or rows and columns would all look alike.
        """
        image, start, end, video = self.ids(self.image_token, *self.delimiters, "<|video_pad|>")
        config = Qwen2_5_VLConfig(
            vision_config={
                "depth": 4,
                "hidden_size": 64,
                "intermediate_size": 128,
                "num_heads": 4,
                "patch_size": SMALL_PATCH,
                "temporal_patch_size": FRAMES,
                "spatial_merge_size": UNIT,
                "window_size": WINDOW,
                "fullatt_block_indexes": list(FULL_BLOCKS),
                "out_hidden_size": DECODER_WIDTH,
                "initializer_range": 0.06,
                "rope_parameters": {"rope_type": "axial", "rope_theta": 100.0},
            },
            text_config={
                **self.text_settings(),
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 100.0,
                    "mrope_section": [4, 6, 6],
                },
            },
            image_token_id=image,
            video_token_id=video,
            vision_start_token_id=start,
            vision_end_token_id=end,
            tie_word_embeddings=True,
        )
        return Qwen2_5_VLForConditionalGeneration(config)

    def build_processor(self) -> Qwen2_5_VLProcessor:
        """A picture keeps its resolution up to 256 x 256 pixels."""
        return Qwen2_5_VLProcessor(
            image_processor=Qwen2VLImageProcessor(
                patch_size=SMALL_PATCH,
                merge_size=UNIT,
                temporal_patch_size=FRAMES,
                size={"shortest_edge": WINDOW**2, "longest_edge": 256**2},
                image_mean=IMAGE_MEAN,
                image_std=IMAGE_STD,
            ),
            tokenizer=self.tokenizer,
            video_processor=Qwen2VLVideoProcessor(patch_size=SMALL_PATCH, merge_size=UNIT),
            chat_template=self.template(
                "".join((self.delimiters[0], self.image_token, self.delimiters[1]))
            ),
        )

    def pixels(self, images: Tensor) -> Tensor:
        """``[images * patches, 96]`` in window order: windows, tokens of a window, patches."""
        windows, inside = images.shape[-1] // WINDOW, WINDOW // PATCH
        for axis in (2, 6):
            images = images.unflatten(axis, (windows, inside, UNIT, SMALL_PATCH))
        # images, channels, then (window, token, patch, pixel) down and the same across
        patches = images.permute(0, 2, 6, 3, 7, 4, 8, 1, 5, 9).flatten(1, 6).flatten(0, 1)
        return patches[:, :, None].expand(-1, -1, FRAMES, -1, -1).flatten(1)

    def encode(self, model: Any, pixels: Tensor, images: int) -> Encoded:
        """The encoder without its bookkeeping: all pictures have the same whole windows."""
        visual = model.model.visual
        hidden = visual.patch_embed(pixels)
        per_image = hidden.shape[0] // images
        angles = self._angles(visual, per_image).to(hidden.device)
        turns = angles.cos(), angles.sin()
        hidden = hidden.view(images, per_image, -1)
        per_window = (WINDOW // SMALL_PATCH) ** 2
        for number, block in enumerate(visual.blocks):
            group = per_image if number in FULL_BLOCKS else per_window
            hidden = hidden + _attend(block.attn, block.norm1(hidden), turns, group)
            hidden = hidden + block.mlp(block.norm2(hidden))
        features = visual.merger(hidden.flatten(0, 1)).unflatten(0, (images, -1))
        side = round((per_image // UNIT**2) ** 0.5) * PATCH
        return Encoded(features[:, torch.argsort(_window_order(side)).to(hidden.device)])

    def _angles(self, visual: Any, patches: int) -> Tensor:
        """``[patches, head_dim]``: rotary angles of one picture's patches in window order."""
        side = round(patches**0.5) * SMALL_PATCH
        rows = side // PATCH
        token = _window_order(side)
        within = torch.arange(UNIT)
        down = (token // rows * UNIT)[:, None, None] + within[:, None]
        across = (token % rows * UNIT)[:, None, None] + within
        both = torch.stack(torch.broadcast_tensors(down, across), -1).view(-1, 2)
        rotary = visual.rotary_pos_emb
        freqs = (both[..., None] * rotary.inv_freq.cpu().float()).flatten(1)
        return torch.cat([freqs, freqs], dim=-1)

    def layout(self, side: int) -> TokenLayout:
        """Raster order; time, row and column count from the same start."""
        rows, head = side // PATCH, len(self.head)
        cells = raster_cells(side)
        positions = torch.stack([torch.zeros_like(cells), cells // rows, cells % rows]) + head
        return TokenLayout(side, positions, head + rows, cells, torch.zeros_like(cells))


def _window_order(side: int) -> Tensor:
    """Raster numbers of a picture's tokens, window by window."""
    windows, inside = side // WINDOW, WINDOW // PATCH
    raster = raster_cells(side).view(windows, inside, windows, inside)
    return raster.transpose(1, 2).flatten()


def _attend(attention: Any, states: Tensor, turns: tuple[Tensor, Tensor], group: int) -> Tensor:
    """Attention within groups of ``group`` neighbors in ``[images, patches, width]``."""
    images, patches, _ = states.shape
    cos, sin = (turn.to(torch.float32)[:, None] for turn in turns)
    heads = attention.num_heads
    queries, keys, values = attention.qkv(states).unflatten(-1, (3, heads, -1)).unbind(2)
    queries, keys = (
        (part.float() * cos + _turned(part.float()) * sin).to(values.dtype)
        for part in (queries, keys)
    )
    split = (images * patches // group, group, heads, -1)
    queries, keys, values = (p.reshape(split).transpose(1, 2) for p in (queries, keys, values))
    mixed, _ = lean_attention.attend(attention, queries, keys, values, None, attention.scaling)
    result: Tensor = attention.proj(mixed.reshape(images, patches, -1))
    return result


def _turned(states: Tensor) -> Tensor:
    first, second = states.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


__all__ = ["TinyQwen"]
