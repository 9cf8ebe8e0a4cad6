"""Qwen2.5-VL: windowed vision attention, patch merger, dynamic resolution, M-RoPE."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tokensieve.adapters.decoder import LlamaLikeModel, decoder_dims, placeholder_ids
from tokensieve.adapters.projected import check_whole_model
from tokensieve.adapters.qwen_patches import encoder_features, raster_order, resized_patches
from tokensieve.adapters.shrinking import spread_features
from tokensieve.adapters.synthetic import (
    random_pixels,
    random_prompts,
    shrunk_text,
    special_ids,
    text_settings,
)
from tokensieve.adapters.vision import (
    ATTENTION_SIGNALS,
    NO_TEXT_TOWER,
    RAN_PAST,
    CapturedLayer,
    LateHooks,
    Pass,
    encoded_tokens,
    layer_at,
    raster,
    rotated_parts,
)
from tokensieve.plugin import (
    VISION_SIGNALS,
    AdaptedVlm,
    Adapter,
    DecoderDims,
    Handle,
    ModelSize,
    Panel,
    ShrinkPlan,
    SignalError,
    Signature,
    VisionRecord,
    torch,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

TYPICAL_TOKENS = 1296  # an image of about one megapixel
NARROW_VISION = {"hidden_size": 32, "intermediate_size": 48, "depth": 4, "num_heads": 4}
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
        self.full = list(config.vision_config.fullatt_block_indexes)
        self.missing = {
            "cls_feature": "the vision encoder has no [CLS] token",
            "clip_relevance": NO_TEXT_TOWER,
        }
        if not self.full:
            reason = "no vision block attends to the whole image"
            self.missing |= dict.fromkeys(ATTENTION_SIGNALS, reason)
        self.provides = self.provides | (VISION_SIGNALS - set(self.missing))

    def watch_vision(
        self,
        signals: frozenset[str],
        depths: frozenset[float],
        deliver: Callable[[VisionRecord], None],
    ) -> list[Handle]:
        """Hooks on the encoder's entry, the chosen blocks' projections, and the merger."""
        passing = Pass()
        chosen: dict[float | None, int] = {}
        if signals & ATTENTION_SIGNALS & self.provides:
            chosen = {None: self.full[-1]}
            count = len(self.visual.blocks)
            chosen |= {depth: layer_at(depth, count, self.full) for depth in depths}

        call, merging = Signature.of(self.visual, ["grid_thw"]), Signature.of(self.visual.merger)
        attending = Signature.of(self.visual.blocks[0].attn, ["position_embeddings"])

        def begin(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
            passing.seen = {"grid": call.named(args, kwargs)["grid_thw"]}

        def angles(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
            passing.seen["angles"] = attending.named(args, kwargs)["position_embeddings"]

        def merge(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
            passing.seen["features"] = merging.first(args, kwargs)

        def finish(module: nn.Module, args: tuple[object, ...], output: object) -> None:
            seen, passing.seen = passing.seen, {}
            if not seen.keys() >= {"grid", "features", *chosen.values()}:
                raise SignalError(RAN_PAST)
            record = self._record(seen["features"], seen, chosen)
            record.outputs = encoder_features(output).detach()
            deliver(record)

        def projection(block: int) -> Callable[[], Any]:
            return lambda: self.visual.blocks[block].attn.qkv

        late = LateHooks(passing, {block: projection(block) for block in set(chosen.values())})
        handles: list[Handle] = [
            late,
            self.visual.register_forward_pre_hook(late.refresh),
            self.visual.register_forward_pre_hook(begin, with_kwargs=True),
            self.visual.merger.register_forward_pre_hook(merge, with_kwargs=True),
            self.visual.register_forward_hook(finish),
        ]
        for block in set(chosen.values()):
            attention = self.visual.blocks[block].attn
            handles.append(attention.register_forward_pre_hook(angles, with_kwargs=True))
        return handles

    def _record(
        self, hidden: Tensor, seen: dict[object, Any], chosen: dict[float | None, int]
    ) -> VisionRecord:
        grids = [[int(n) for n in grid] for grid in seen["grid"].tolist()]
        order = raster_order(self.visual, seen["grid"]).to(hidden.device)
        sizes = [t * h * w // self.unit**2 for t, h, w in grids]
        record = VisionRecord(sizes)
        members = hidden.unflatten(0, (-1, self.unit**2))
        record.features = members[order].flatten(1)
        grid = [raster(h // self.unit, w // self.unit, t) for t, h, w in grids]
        record.grid = torch.cat(grid).to(hidden.device)
        frames = [h * w for t, h, w in grids for _ in range(t)]
        tile = [frame for frame, size in enumerate(frames) for _ in range(size // self.unit**2)]
        record.tile = torch.tensor(tile).to(hidden.device)

        def pool(patches: Tensor) -> Tensor:
            """The mean over the patches of a token, tokens in raster order."""
            means: Tensor = patches.unflatten(0, (-1, self.unit**2)).mean(dim=1)
            return means[order]

        for depth, block in chosen.items():
            attention = self.visual.blocks[block].attn
            projected = seen[block].unflatten(-1, (3, attention.num_heads, -1))
            queries, keys, _ = (part.transpose(0, 1)[None] for part in projected.float().unbind(1))
            cos, sin = seen["angles"]
            parts = rotated_parts(queries, keys, (cos.float(), sin.float()), frames)
            scale = float(attention.scaling)
            record.layers[depth] = CapturedLayer(parts, scale, False, pool)
        return record

    def shrink_images(self, plan: ShrinkPlan) -> list[Handle]:
        """Patches put together to images, resized, and cut into fewer patches."""
        passing, config = Pass(), self.model.config.vision_config
        call = Signature.of(self.visual, ["grid_thw"])

        def before(
            module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
        ) -> tuple[object, object]:
            rest = call.named(args, kwargs)
            flat, thw = rest.pop(call.names[0]), rest.pop("grid_thw")
            videos = [[int(n) for n in grid] for grid in thw.tolist()]  # an image has one frame
            full = [(h // self.unit, w // self.unit) for t, h, w in videos for _ in range(t)]
            small = plan(full)
            passing.seen = {"full": full, "small": small}
            parts, less = [], []
            for patches, (t, h, w) in zip(
                flat.split([t * h * w for t, h, w in videos]), videos, strict=True
            ):
                to, small = small[0], small[t:]
                parts.append(resized_patches(patches, [t, h, w], to, config))
                less.append([t, to[0] * self.unit, to[1] * self.unit])
            return (torch.cat(parts),), {**rest, "grid_thw": torch.tensor(less, device=thw.device)}

        def after(module: nn.Module, args: tuple[object, ...], output: Any) -> Any:
            full, small = passing.seen["full"], passing.seen["small"]
            output.pooler_output = spread_features(encoder_features(output), full, small)
            return output

        return [
            self.visual.register_forward_pre_hook(before, with_kwargs=True),
            self.visual.register_forward_hook(after),
        ]

    def project(self, features: Tensor) -> Tensor:
        """The patch merger on groups of four patches."""
        merger = self.visual.merger
        vectors: Tensor = merger.forward(features.unflatten(-1, (self.unit**2, -1)).flatten(0, 1))
        return vectors

    def picture_tokens(self, given: Mapping[str, Any]) -> dict[int, list[int]] | None:
        """As the grids say, of images and of videos."""
        counts = {}
        for token, modality in zip(self.placeholder_ids, ("image", "video"), strict=True):
            grids, tokens = given.get(f"{modality}_grid_thw"), encoded_tokens(given, modality)
            if grids is not None:
                tokens = [t * h * w // self.unit**2 for t, h, w in grids.tolist()]
            if tokens is not None:
                counts[token] = tokens
        return counts or None

    def panels(self, size: tuple[int, int], processor: Any, inputs: Any) -> list[Panel]:
        """The whole picture, resized by the processor."""
        return [
            Panel(int(h) // self.unit, int(w) // self.unit, (0.0, 0.0, 1.0, 1.0))
            for t, h, w in inputs["image_grid_thw"].tolist()
            for _ in range(t)
        ]


class QwenVLAdapter(Adapter):
    """Qwen2.5-VL: windowed vision encoder without [CLS], 2x2 patch merger, M-RoPE."""

    name = "qwen-vl"
    model_types = frozenset({"qwen2_5_vl"})
    check_size = ModelSize(
        "check", "qwen-vl", "Qwen2.5-VL for checks",
        DecoderDims(layers=4, dim=64, mlp_dim=96, heads=4, kv_heads=2, head_dim=16),
        visual_tokens=12, vocabulary=64, vision=NARROW_VISION,
    )  # fmt: skip

    @classmethod
    def bind(cls, model: Any) -> AdaptedVlm:
        """Bind a ``Qwen2_5_VLForConditionalGeneration``."""
        check_whole_model(cls.name, model, "Qwen2_5_VLForConditionalGeneration")
        return QwenVLModel(model)

    @classmethod
    def describe(cls, config: Any) -> tuple[DecoderDims, int]:
        """Decoder sizes; tokens of a one-megapixel image (the resolution is dynamic)."""
        return decoder_dims(config.text_config), TYPICAL_TOKENS

    @classmethod
    def sized_config(cls, size: ModelSize) -> Any:
        """Qwen2.5 with M-RoPE after the 7B model's vision encoder, unless the size has another."""
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
    def shrunk(cls, config: Any) -> tuple[Any, ModelSize]:
        """Four blocks, every one of which sees the whole picture if one of the model's does."""
        shrunk, dims = shrunk_text(config)
        vision = shrunk.vision_config
        for name, value in NARROW_VISION.items():
            setattr(vision, name, value)
        vision.out_hidden_size = dims.dim
        # a config may leave the sections out: transformers takes those of the published models
        shrunk.text_config.rope_parameters.setdefault("mrope_section", list(MROPE_SHARES))
        whole = list(config.vision_config.fullatt_block_indexes)
        vision.fullatt_block_indexes = list(range(4)) if whole else []
        words = config.text_config.vocab_size
        size = ModelSize("shrunk", "qwen-vl", "", dims, 12, words, NARROW_VISION)
        return shrunk, size

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
        ids = random_prompts(size, text, run, batch, special_ids(config), delimiters)
        width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        return {
            "input_ids": ids,
            "pixel_values": random_pixels(batch * tokens * unit**2, width),
            "image_grid_thw": torch.tensor([grid] * batch),
            "mm_token_type_ids": (ids == config.image_token_id).int(),
        }
