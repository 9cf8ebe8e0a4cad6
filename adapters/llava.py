"""LLaVA-1.5 and its relatives: CLIP or SigLIP encoder, MLP projector, Llama-like decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tokensieve.adapters.decoder import decoder_dims
from tokensieve.adapters.projected import Layers, ProjectedVlm, check_whole_model
from tokensieve.adapters.shrinking import one_grid, resized
from tokensieve.adapters.synthetic import (
    NARROW_ENCODER,
    image_side,
    random_pixels,
    random_prompts,
    shrunk_text,
    special_ids,
    text_settings,
)
from tokensieve.adapters.vision import (
    NO_TEXT_TOWER,
    Pass,
    encoded_tokens,
)
from tokensieve.plugin import (
    VISION_SIGNALS,
    AdaptedVlm,
    Adapter,
    AttachError,
    DecoderDims,
    Grid,
    Handle,
    ModelSize,
    Panel,
    VisionRecord,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

VISION_MODELS = frozenset({"clip_vision_model", "siglip_vision_model"})
PATCH = 14
INTERPOLATE = "interpolate_pos_encoding"
CLIP_LARGE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "projection_dim": 768,
}


class LlavaModel(ProjectedVlm):
    """A LLaVA model.

    Vision signals come from the encoder layer whose output feeds the projector
    (``vision_feature_layer``, -2 in LLaVA-1.5), as in VisionZip. Without a [CLS] token (SigLIP,
    or ``vision_feature_select_strategy: full``) attention is the attention received from all
    tokens.
    """

    projections = ("self_attn.q_proj", "self_attn.k_proj")
    scaling = "self_attn.scale"
    shrink_arguments = (INTERPOLATE,)

    def __init__(self, model: Any) -> None:
        super().__init__(model, "llava")
        config = model.config
        vision = config.vision_config
        if vision.model_type not in VISION_MODELS:
            raise AttachError(
                f"adapter llava: the vision encoder is a {vision.model_type}, "
                f"supported: {', '.join(sorted(VISION_MODELS))}: how its images stand among the "
                "tokens is not known"
            )
        self.side = vision.image_size // vision.patch_size
        self.has_cls = vision.model_type == "clip_vision_model"
        crops_cls = config.vision_feature_select_strategy == "default"
        self.tokens = self.side**2 + int(self.has_cls) - int(crops_cls)
        without = {"clip_relevance": NO_TEXT_TOWER}
        if self.has_cls != crops_cls:
            reason = "the [CLS] token itself is a visual token"
            if not self.has_cls:
                reason = "the encoder has no [CLS] token, and its first patch is cut off instead"
            without |= dict.fromkeys(VISION_SIGNALS - set(without), reason)
        elif not self.has_cls:
            without["cls_feature"] = "the vision encoder has no [CLS] token"
        tower = self.inner.vision_tower
        self.find_layers(getattr(tower, "vision_model", tower).encoder.layers, without)

    def more_hooks(self, passing: Pass, signals: frozenset[str], layers: Layers) -> list[Handle]:
        """The output of the layer that feeds the projector holds the [CLS] token."""

        def output(
            module: nn.Module, args: tuple[object, ...], result: Tensor | tuple[Tensor, ...]
        ) -> None:
            passing.seen["output"] = result[0] if isinstance(result, tuple) else result

        wanted = "cls_feature" in signals & self.provides
        return [self.vision_layer.register_forward_hook(output)] if wanted else []

    def grids(self, features: Tensor, seen: Mapping[object, Any]) -> list[Grid]:
        """As many for each picture; a row where a [CLS] among them leaves no grid."""
        images, tokens = features.shape[:2]
        rows, columns = self.shrinking.seen.get("small", [(self.side, self.side)])[0]
        return [(rows, columns) if rows * columns == tokens else (1, tokens)] * images

    def record(self, features: Tensor, seen: dict[object, Any], layers: Layers) -> VisionRecord:
        """Patches in raster order, and the [CLS] tokens."""
        record = super().record(features, seen, layers)
        if "output" in seen:
            record.cls_features = seen["output"][:, 0]
        return record

    def full_grids(self, pixels: Tensor, given: Mapping[str, Any]) -> list[Grid]:
        """All pictures have one size."""
        return [(self.side, self.side)] * len(pixels)

    def smaller(
        self, pixels: Tensor, full: list[Grid], small: list[Grid]
    ) -> tuple[Tensor, dict[str, Any]]:
        """All at one size; the encoder's position embeddings are interpolated."""
        rows, columns = one_grid(small, self.name)
        patch = self.model.config.vision_config.patch_size
        return resized(pixels, rows * patch, columns * patch), {INTERPOLATE: True}

    def picture_tokens(self, given: Mapping[str, Any]) -> dict[int, list[int]] | None:
        """As many for each picture."""
        pixels, counts = given.get("pixel_values"), encoded_tokens(given, "image")
        if pixels is not None:
            counts = [self.tokens] * len(pixels)
        return None if counts is None else {self.placeholder_ids[0]: counts}

    def split_run(self, length: int) -> list[int]:
        """Touching images have the same known size."""
        return [self.tokens] * (length // self.tokens) if length % self.tokens == 0 else [length]

    def panels(self, size: tuple[int, int], processor: Any, inputs: Any) -> list[Panel]:
        """The center crop of the picture; larger than the picture where a border is added."""
        width, height = size
        images: Any = processor.image_processor
        if not getattr(images, "do_center_crop", False):
            return [Panel(self.side, self.side, (0.0, 0.0, 1.0, 1.0))]
        across, down = min(1.0, height / width), min(1.0, width / height)
        if not images.do_resize:
            crop = images.crop_size
            across, down = crop["width"] / width, crop["height"] / height
        box = ((1 - across) / 2, (1 - down) / 2, (1 + across) / 2, (1 + down) / 2)
        return [Panel(self.side, self.side, box)]


def has_pixtral(config: Any) -> bool:
    """Whether the vision encoder takes images of any size, and puts a token after each row."""
    return getattr(getattr(config, "vision_config", None), "model_type", None) == "pixtral"


class LlavaAdapter(Adapter):
    """LLaVA-1.5: CLIP encoder with [CLS], two-layer projector, Llama, Vicuna or Qwen2 decoder."""

    name = "llava"
    model_types = frozenset({"llava"})
    check_size = ModelSize(
        "check", "llava", "LLaVA for checks",
        DecoderDims(layers=4, dim=32, mlp_dim=48, heads=4, kv_heads=2, head_dim=8),
        visual_tokens=16, vocabulary=64, vision=NARROW_ENCODER,
    )  # fmt: skip

    @classmethod
    def takes(cls, config: Any) -> bool:
        """A LLaVA whose images all have one size."""
        return super().takes(config) and not has_pixtral(config)

    @classmethod
    def bind(cls, model: Any) -> AdaptedVlm:
        """Bind a ``LlavaForConditionalGeneration``."""
        check_whole_model(cls.name, model, "LlavaForConditionalGeneration")
        return LlavaModel(model)

    @classmethod
    def describe(cls, config: Any) -> tuple[DecoderDims, int]:
        """Decoder sizes; all images have the same number of tokens."""
        vision = config.vision_config
        return decoder_dims(config.text_config), (vision.image_size // vision.patch_size) ** 2

    @classmethod
    def sized_config(cls, size: ModelSize) -> Any:
        """Llama after CLIP with square images; CLIP ViT-L/14 if the size names no encoder."""
        from transformers import LlavaConfig

        vision = {**CLIP_LARGE, **size.vision, "image_size": PATCH * image_side(size)}
        return LlavaConfig(
            vision_config={"model_type": "clip_vision_model", "patch_size": PATCH, **vision},
            text_config={"model_type": "llama", **text_settings(size)},
            image_token_index=size.vocabulary - 1,
            image_seq_length=size.visual_tokens,
        )

    @classmethod
    def shrunk(cls, config: Any) -> tuple[Any, ModelSize]:
        """Pictures of 4 x 4 patches, encoder layers as many as the projector asks for."""
        shrunk, dims = shrunk_text(config)
        vision = shrunk.vision_config
        for name, value in NARROW_ENCODER.items():
            setattr(vision, name, value)
        reads = config.vision_feature_layer
        deepest = max(map(abs, [reads] if isinstance(reads, int) else reads))
        vision.num_hidden_layers = max(vision.num_hidden_layers, deepest)
        vision.image_size = 4 * vision.patch_size
        has_cls = vision.model_type == "clip_vision_model"
        tokens = 16 + int(has_cls) - int(config.vision_feature_select_strategy == "default")
        shrunk.image_seq_length = tokens
        size = ModelSize(
            "shrunk", "llava", "", dims, tokens, config.text_config.vocab_size, NARROW_ENCODER
        )
        return shrunk, size

    @classmethod
    def synthetic_inputs(
        cls, config: Any, size: ModelSize, text: tuple[int, int], batch: int
    ) -> dict[str, Tensor]:
        """Text, the image's placeholders, text."""
        side = config.vision_config.image_size
        run = [config.image_token_id] * size.visual_tokens
        return {
            "input_ids": random_prompts(size, text, run, batch, special_ids(config)),
            "pixel_values": random_pixels(batch, 3, side, side),
        }
