"""InternVL 2.5, 3 and 3.5 in Hugging Face format: InternViT, pixel shuffle, image tiles."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tokensieve.adapters.decoder import decoder_dims
from tokensieve.adapters.projected import ProjectedVlm, check_whole_model
from tokensieve.adapters.shrinking import one_grid, resized
from tokensieve.adapters.synthetic import (
    NARROW_ENCODER,
    random_pixels,
    random_prompts,
    shrunk_text,
    special_ids,
    text_settings,
)
from tokensieve.adapters.vision import (
    NO_TEXT_TOWER,
)
from tokensieve.plugin import (
    VISION_SIGNALS,
    AdaptedVlm,
    Adapter,
    DecoderDims,
    Grid,
    ModelSize,
    Panel,
    UnsupportedError,
    torch,
)

if TYPE_CHECKING:
    from torch import Tensor


PATCH = 14


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def tokens_per_tile(config: Any) -> tuple[int, int]:
    """Rows and columns of visual tokens in a tile."""
    vision = config.vision_config
    (height, width), (down, across) = _pair(vision.image_size), _pair(vision.patch_size)
    ratio = config.downsample_ratio
    return int(height // down * ratio), int(width // across * ratio)


class InternVLModel(ProjectedVlm):
    """An InternVL model.

    [CLS] attention of the encoder layer that feeds the projector, pooled (mean) over the patches
    that pixel shuffle puts into one token: the same 2-D neighborhoods, never four in a row.
    """

    projections = ("attention.q_norm", "attention.k_norm")
    scaling = "attention.scale"
    square = True  # as pixel shuffle wants
    has_cls = True

    def __init__(self, model: Any) -> None:
        super().__init__(model, "internvl")
        config = model.config
        self.rows, self.columns = tokens_per_tile(config)
        without = {
            "cls_feature": "the projector takes groups of patches, not single tokens",
            "clip_relevance": NO_TEXT_TOWER,
        }
        if config.vision_feature_select_strategy != "default":
            reason = "the projector is fed with the [CLS] token"
            without |= dict.fromkeys(VISION_SIGNALS - set(without), reason)
        tower = self.inner.vision_tower
        self.find_layers(tower.encoder.layer, without)

    def grids(self, features: Tensor, seen: Mapping[object, Any]) -> list[Grid]:
        """As many for each tile; a row where a [CLS] among them leaves no grid."""
        tiles, tokens = features.shape[:2]
        side = math.isqrt(tokens)
        if tokens == self.rows * self.columns:
            return [(self.rows, self.columns)] * tiles
        return [(side, side) if side**2 == tokens else (1, tokens)] * tiles

    def full_grids(self, pixels: Tensor, given: Mapping[str, Any]) -> list[Grid]:
        """All tiles have one size."""
        return [(self.rows, self.columns)] * len(pixels)

    def smaller(
        self, pixels: Tensor, full: list[Grid], small: list[Grid]
    ) -> tuple[Tensor, dict[str, Any]]:
        """All at one size; the encoder interpolates its position embeddings itself."""
        config = self.model.config
        down, across = _pair(config.vision_config.patch_size)
        join = int(1 / config.downsample_ratio)
        rows, columns = one_grid(small, self.name)
        return resized(pixels, rows * join * down, columns * join * across), {}

    def pooled(self, patches: Tensor, images: int) -> Tensor:
        """The mean over the patches that pixel shuffle puts into one token."""
        inner = self.inner
        tiles = patches.view(images, -1, patches.shape[-1])
        side = int(tiles.shape[1] ** 0.5)
        ratio = self.model.config.downsample_ratio
        places = torch.arange(side * side, device=tiles.device).view(1, side, side, 1)
        members = inner.pixel_shuffle(places, scale_factor=ratio).reshape(-1, int(1 / ratio) ** 2)
        means: Tensor = tiles[:, members].mean(dim=2).flatten(0, 1)
        return means

    def panels(self, size: tuple[int, int], processor: Any, inputs: Any) -> list[Panel]:
        """Tiles in raster order, then the thumbnail of the whole picture."""
        tiles = int(inputs["pixel_values"].shape[0])
        whole = Panel(self.rows, self.columns, (0.0, 0.0, 1.0, 1.0))
        if tiles == 1:
            return [whole]
        columns, rows = tile_canvas(size, processor.image_processor, tiles - 1)
        panels = [
            Panel(
                self.rows,
                self.columns,
                (column / columns, row / rows, (column + 1) / columns, (row + 1) / rows),
            )
            for row in range(rows)
            for column in range(columns)
        ]
        return [*panels, whole]


def tile_canvas(size: tuple[int, int], image_processor: Any, tiles: int) -> tuple[int, int]:
    """Columns and rows of the tiling that the image processor chose."""
    from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

    tile = image_processor.size
    side = (tile["height"], tile["width"])
    canvas = get_optimal_tiled_canvas(
        (size[1], size[0]), side, image_processor.min_patches, image_processor.max_patches
    )
    columns, rows = int(canvas[0]), int(canvas[1])
    return (columns, rows) if columns * rows == tiles else (tiles, 1)


class InternVLAdapter(Adapter):
    """InternVL: InternViT with [CLS], pixel shuffle and tiles, Qwen2, Qwen3 or Llama decoder."""

    name = "internvl"
    model_types = frozenset({"internvl"})
    check_size = ModelSize(
        "check", "internvl", "InternVL for checks",
        DecoderDims(layers=4, dim=32, mlp_dim=48, heads=4, kv_heads=2, head_dim=8),
        visual_tokens=8, vocabulary=64, vision={**NARROW_ENCODER, "image_size": 4 * PATCH},
    )  # fmt: skip

    @classmethod
    def bind(cls, model: Any) -> AdaptedVlm:
        """Bind an ``InternVLForConditionalGeneration``."""
        check_whole_model(cls.name, model, "InternVLForConditionalGeneration")
        return InternVLModel(model)

    @classmethod
    def describe(cls, config: Any) -> tuple[DecoderDims, int]:
        """Decoder sizes; tokens of one tile."""
        rows, columns = tokens_per_tile(config)
        return decoder_dims(config.text_config), rows * columns

    @classmethod
    def sized_config(cls, size: ModelSize) -> Any:
        """Qwen2 after InternViT-300M with tiles of 448 pixels, unless the size says otherwise."""
        from transformers import InternVLConfig

        return InternVLConfig(
            vision_config={"model_type": "internvl_vision", "attention_bias": True, **size.vision},
            text_config={"model_type": "qwen2", **text_settings(size)},
            image_token_id=size.vocabulary - 1,
            tie_word_embeddings=False,
        )

    @classmethod
    def shrunk(cls, config: Any) -> tuple[Any, ModelSize]:
        """Two tiles of 4 x 4 patches."""
        shrunk, dims = shrunk_text(config)
        vision = shrunk.vision_config
        for name, value in NARROW_ENCODER.items():
            setattr(vision, name, value)
        down, across = _pair(vision.patch_size)
        vision.image_size = [4 * down, 4 * across]
        rows, columns = tokens_per_tile(shrunk)
        size = ModelSize(
            "shrunk", "internvl", "", dims, 2 * rows * columns, config.text_config.vocab_size,
            NARROW_ENCODER,
        )  # fmt: skip
        return shrunk, size

    @classmethod
    def synthetic_inputs(
        cls, config: Any, size: ModelSize, text: tuple[int, int], batch: int
    ) -> dict[str, Tensor]:
        """Text, ``<img>``, the placeholders of all tiles, ``</img>``, text."""
        rows, columns = tokens_per_tile(config)
        tiles = size.visual_tokens // (rows * columns)
        if tiles * rows * columns != size.visual_tokens:
            raise UnsupportedError(
                f"size {size.name}: {size.visual_tokens} visual tokens are no whole number of "
                f"tiles of {rows * columns}"
            )
        run = [config.image_token_id] * size.visual_tokens
        special = special_ids(config)
        end, start = [n for n in reversed(range(size.vocabulary)) if n not in special][:2]
        height, width = _pair(config.vision_config.image_size)
        return {
            "input_ids": random_prompts(size, text, run, batch, special, (start, end)),
            "pixel_values": random_pixels(tiles * batch, 3, height, width),
        }
