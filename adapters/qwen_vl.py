"""Qwen2.5-VL: windowed vision attention, patch merger, dynamic resolution, M-RoPE."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tokensieve.adapters.decoder import LlamaLikeModel, decoder_dims, placeholder_ids
from tokensieve.adapters.synthetic import random_pixels, random_prompts, text_settings
from tokensieve.adapters.vision import raster, received
from tokensieve.core.adapter import Adapter, BoundModel, Panel, VisionRecord
from tokensieve.core.errors import AttachError
from tokensieve.core.flops import DecoderDims
from tokensieve.core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from tokensieve.core.sizes import ModelSize

TYPICAL_TOKENS = 1296  # an image of about one megapixel
VISION_7B = {"hidden_size": 1280, "intermediate_size": 3420, "depth": 32, "num_heads": 16}
MROPE_SHARES = (2, 3, 3)  # of the half head: time, height, width (16, 24, 24 of 64)


class QwenVLModel(LlamaLikeModel):
    """A Qwen2.5-VL model.

    The encoder has no [CLS]: vision attention is the attention each patch receives from its whole
    image in the last full-attention block, mean over queries. Every vision signal is pooled (mean)
    over the four patches of a token and brought from window order to raster order.
    """

    mrope = True

    def __init__(self, model: Any) -> None:
        super().__init__(model, "qwen-vl")
        config = model.config
        self.placeholder_ids = placeholder_ids(config, ["image_token_id", "video_token_id"])
        self.visual: Any = self.inner.visual
        self.unit = config.vision_config.spatial_merge_size
        full = list(config.vision_config.fullatt_block_indexes)
        self.missing = {"cls_feature": "the vision encoder has no [CLS] token"}
        names = {"vision_attention", "vision_keys", "vision_features", "grid"}
        if not full:
            reason = "no vision block attends to the whole image"
            self.missing |= dict.fromkeys({"vision_attention", "vision_keys"}, reason)
            names -= {"vision_attention", "vision_keys"}
        else:
            encoder: Any = self.visual
            blocks: Any = encoder.blocks
            self.block: Any = blocks[full[-1]]
        self.provides = self.provides | names

    def watch_vision(
        self, signals: frozenset[str], deliver: Callable[[VisionRecord], None]
    ) -> list[Any]:
        """Hooks on the encoder's entry, one block's projection, and the merger."""
        if not signals & (self.provides - LlamaLikeModel.provides):
            return []
        seen: dict[str, Any] = {}

        def begin(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            seen.clear()
            seen["grid"] = kwargs["grid_thw"] if "grid_thw" in kwargs else args[1]

        def angles(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            seen["angles"] = kwargs["position_embeddings"]

        def projected(module: Any, args: Any, output: Tensor) -> None:
            seen["qkv"] = output

        def finish(module: Any, args: Any) -> None:
            deliver(self._record(args[0], seen, signals))
            seen.clear()

        handles = [
            self.visual.register_forward_pre_hook(begin, with_kwargs=True),
            self.visual.merger.register_forward_pre_hook(finish),
        ]
        if signals & {"vision_attention", "vision_keys"}:
            hook = self.block.attn.register_forward_pre_hook(angles, with_kwargs=True)
            handles += [hook, self.block.attn.qkv.register_forward_hook(projected)]
        return handles

    def _record(
        self, hidden: Tensor, seen: dict[str, Any], signals: frozenset[str]
    ) -> VisionRecord:
        grids = [[int(n) for n in grid] for grid in seen["grid"].tolist()]
        order = self._raster_order(seen["grid"]).to(hidden.device)
        sizes = [t * h * w // self.unit**2 for t, h, w in grids]
        record = VisionRecord(sizes)
        members = hidden.unflatten(0, (-1, self.unit**2))
        record.features = members[order].flatten(1)
        grid = [raster(h // self.unit, w // self.unit, t) for t, h, w in grids]
        record.grid = torch.cat(grid).to(hidden.device)
        if "qkv" in seen:
            self._add_attention(record, grids, order, seen, signals)
        return record

    def _add_attention(
        self,
        record: VisionRecord,
        grids: list[list[int]],
        order: Tensor,
        seen: dict[str, Any],
        signals: frozenset[str],
    ) -> None:
        attention = self.block.attn
        patches = seen["qkv"].unflatten(-1, (3, attention.num_heads, -1))
        cos, sin = (part[:, None].float() for part in seen["angles"])
        queries, keys = (
            (part.float() * cos + _turned(part.float()) * sin)[None].transpose(1, 2)
            for part in patches.unbind(1)[:2]
        )
        record.keys = self._pooled(keys[0].transpose(0, 1).mean(dim=1), order)
        if "vision_attention" not in signals:
            return
        frames = [h * w for t, h, w in grids for _ in range(t)]
        per_frame = [
            received(q, k, float(attention.scaling))[0]
            for q, k in zip(queries.split(frames, 2), keys.split(frames, 2), strict=True)
        ]
        record.attention = self._pooled(torch.cat(per_frame, dim=1).transpose(0, 1), order)

    def _raster_order(self, grid: Tensor) -> Tensor:
        """For each token in raster order, its place in window order."""
        from transformers.vision_utils import get_vision_window_index

        window, _ = get_vision_window_index(
            grid,
            spatial_merge_size=self.unit,
            window_size=self.visual.window_size,
            patch_size=self.visual.patch_size,
        )
        order: Tensor = torch.argsort(window)
        return order

    def _pooled(self, patches: Tensor, order: Tensor) -> Tensor:
        """``[patches, n]`` in window order -> ``[tokens, n]`` in raster order, mean of four."""
        grouped: Tensor = patches.unflatten(0, (-1, self.unit**2)).mean(dim=1)
        return grouped[order]

    def project(self, features: Tensor) -> Tensor:
        """The patch merger on groups of four patches."""
        merger = self.visual.merger
        vectors: Tensor = merger.forward(features.unflatten(-1, (self.unit**2, -1)).flatten(0, 1))
        return vectors

    def panels(self, size: tuple[int, int], processor: Any, inputs: Any) -> list[Panel]:
        """The whole picture, resized by the processor."""
        return [
            Panel(int(h) // self.unit, int(w) // self.unit, (0.0, 0.0, 1.0, 1.0))
            for t, h, w in inputs["image_grid_thw"].tolist()
            for _ in range(t)
        ]


def _turned(states: Tensor) -> Tensor:
    first, second = states.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


class QwenVLAdapter(Adapter):
    """Qwen2.5-VL: windowed vision encoder without [CLS], 2x2 patch merger, M-RoPE."""

    name = "qwen-vl"
    model_types = frozenset({"qwen2_5_vl"})

    @classmethod
    def bind(cls, model: Any) -> BoundModel:
        """Bind a ``Qwen2_5_VLForConditionalGeneration``."""
        if not hasattr(model, "model") or not hasattr(model.model, "language_model"):
            message = "adapter qwen-vl: attach to Qwen2_5_VLForConditionalGeneration itself"
            raise AttachError(message)
        return QwenVLModel(model)

    @classmethod
    def describe(cls, config: Any) -> tuple[DecoderDims, int]:
        """Decoder sizes; tokens of a one-megapixel image (the resolution is dynamic)."""
        return decoder_dims(config.text_config), TYPICAL_TOKENS

    @classmethod
    def sized_config(cls, size: ModelSize) -> Any:
        """Qwen2.5 with M-RoPE behind the 7B model's vision encoder, unless the size has another."""
        from transformers import Qwen2_5_VLConfig

        unit = size.dims.head_dim // 2 // sum(MROPE_SHARES)
        sections = [share * unit for share in MROPE_SHARES]
        rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections}
        vision = {**VISION_7B, **size.vision, "out_hidden_size": size.dims.dim}
        full = [vision["depth"] * quarter // 4 - 1 for quarter in (1, 2, 3, 4)]
        vocabulary = size.vocabulary
        return Qwen2_5_VLConfig(
            vision_config={**vision, "fullatt_block_indexes": full},
            text_config={**text_settings(size), "rope_parameters": rope},
            image_token_id=vocabulary - 1,
            vision_start_token_id=vocabulary - 2,
            vision_end_token_id=vocabulary - 3,
            video_token_id=vocabulary - 4,
            tie_word_embeddings=False,
        )

    @classmethod
    def synthetic_inputs(
        cls, config: Any, size: ModelSize, text: tuple[int, int], batch: int
    ) -> dict[str, Tensor]:
        """Text, vision start, the image's placeholders, vision end, text; the squarest image."""
        vision = config.vision_config
        unit, tokens = vision.spatial_merge_size, size.visual_tokens
        rows = next(n for n in range(math.isqrt(tokens), 0, -1) if tokens % n == 0)
        grid = [1, rows * unit, tokens // rows * unit]
        run = [config.image_token_id] * tokens
        delimiters = (config.vision_start_token_id, config.vision_end_token_id)
        ids = random_prompts(size, text, run, batch, delimiters)
        width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        return {
            "input_ids": ids,
            "pixel_values": random_pixels(batch * tokens * unit**2, width),
            "image_grid_thw": torch.tensor([grid] * batch),
            "mm_token_type_ids": (ids == config.image_token_id).int(),
        }
