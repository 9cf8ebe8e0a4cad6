"""InternVL 2.5, 3 and 3.5 in Hugging Face format: InternViT, pixel shuffle, image tiles."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

from tokensieve.adapters.decoder import decoder_dims, placeholder_ids
from tokensieve.adapters.encoders import EncodedModel, Layers, check_whole_model
from tokensieve.adapters.shrinking import one_grid, resized, spread_images
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
    CapturedLayer,
    Pass,
    raster,
    seen_heads,
)
from tokensieve.core.contract.adapter import AdaptedVlm, Adapter
from tokensieve.core.contract.dims import DecoderDims, ModelSize
from tokensieve.core.contract.panel import Panel
from tokensieve.core.contract.shrinking import Grid, ShrinkPlan
from tokensieve.core.contract.signals import VISION_SIGNALS
from tokensieve.core.contract.signature import Signature
from tokensieve.core.contract.vision_record import VisionRecord
from tokensieve.core.errors import UnsupportedError
from tokensieve.core.lazy import torch

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


class InternVLModel(EncodedModel):
    """An InternVL model.

    [CLS] attention of the encoder layer that feeds the projector, pooled (mean) over the patches
    that pixel shuffle puts into one token: the same 2-D neighborhoods, never four in a row.
    """

    projections = ("attention.q_norm", "attention.k_norm")

    def __init__(self, model: Any) -> None:
        super().__init__(model, "internvl")
        config = model.config
        self.placeholder_ids = placeholder_ids(config, ["image_token_id"])
        self.rows, self.columns = tokens_per_tile(config)
        self.heads = config.vision_config.num_attention_heads
        without = {
            "cls_feature": "the projector takes groups of patches, not single tokens",
            "clip_relevance": NO_TEXT_TOWER,
        }
        if config.vision_feature_select_strategy != "default":
            reason = "the projector is fed with the [CLS] token"
            without |= dict.fromkeys(VISION_SIGNALS - set(without), reason)
        tower: Any = self.inner.vision_tower
        self.find_layers(tower.encoder.layer, without)

    def record(self, features: Tensor, seen: dict[Any, Any], layers: Layers) -> VisionRecord:
        """Tokens of all tiles in raster order."""
        tiles, tokens = features.shape[:2]
        record = VisionRecord([tokens] * tiles)
        record.features = features.flatten(0, 1)
        side = math.isqrt(tokens)
        rows, columns = (side, side) if tokens != self.rows * self.columns else self.tile
        record.grid = raster(rows, columns, tiles).to(features.device)
        record.tile = torch.arange(tiles, device=features.device).repeat_interleave(tokens)
        for depth, layer in layers.items():
            queries, keys = seen_heads(seen, depth, self.heads)
            scale = float(layer.attention.scale)
            pool = partial(self._pooled, tiles=tiles)
            record.layers[depth] = CapturedLayer([(queries, keys)], scale, True, pool)
        return record

    @property
    def tile(self) -> Grid:
        """Rows and columns of visual tokens in a tile."""
        return self.rows, self.columns

    def shrink_images(self, plan: ShrinkPlan) -> list[Any]:
        """Smaller tiles for the encoder, which interpolates its position embeddings itself."""
        passing = Pass()
        inner: Any = self.inner
        config = self.model.config
        down, across = _pair(config.vision_config.patch_size)
        join = int(1 / config.downsample_ratio)

        call = Signature.of(inner.vision_tower)

        def before(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            rest = call.named(args, kwargs)
            pixels = rest.pop(call.names[0])
            # squares, as pixel shuffle wants
            small = passing.seen["small"] = plan([self.tile] * pixels.shape[0], square=True)
            rows, columns = (side * join for side in one_grid(small, "internvl"))
            return (resized(pixels, rows * down, columns * across),), rest

        def after(module: Any, args: Any, output: Tensor) -> Tensor:
            return spread_images(output, self.tile, passing.seen.pop("small"))

        return [
            inner.vision_tower.register_forward_pre_hook(before, with_kwargs=True),
            inner.multi_modal_projector.register_forward_hook(after),
        ]

    def _pooled(self, flat: Tensor, tiles: int) -> Tensor:
        """``[tiles * patches, n]`` -> ``[tiles * tokens, n]``, mean over the shuffled patches."""
        inner: Any = self.inner
        patches = flat.view(tiles, -1, flat.shape[-1])
        side = int(patches.shape[1] ** 0.5)
        ratio = self.model.config.downsample_ratio
        places = torch.arange(side * side, device=patches.device).view(1, side, side, 1)
        members = inner.pixel_shuffle(places, scale_factor=ratio).reshape(-1, int(1 / ratio) ** 2)
        pooled: Tensor = patches[:, members].mean(dim=2).flatten(0, 1)
        return pooled

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
        """Qwen2 behind InternViT-300M with tiles of 448 pixels, unless the size says otherwise."""
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
