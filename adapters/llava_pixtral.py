"""LLaVA with a Pixtral encoder (Pixtral 12B): images of any size, a separator after each row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tokensieve.adapters.decoder import decoder_dims
from tokensieve.adapters.llava import has_pixtral
from tokensieve.adapters.projected import Layers, ProjectedVlm, check_whole_model
from tokensieve.adapters.shrinking import resized
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
    RAN_PAST,
    Pass,
    encoded_tokens,
    rotated_parts,
)
from tokensieve.plugin import (
    AdaptedVlm,
    Adapter,
    AttachError,
    DecoderDims,
    Grid,
    Handle,
    ModelSize,
    Panel,
    SignalError,
    Signature,
    UnsupportedError,
    torch,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

NARROW_PIXTRAL = {**NARROW_ENCODER, "hidden_size": 32}  # 2-D RoPE turns a head in quarters
PATCH = 16
IMAGE_SIZES = "image_sizes"


class LlavaPixtralModel(ProjectedVlm):
    """A LLaVA model with Pixtral's encoder.

    An image is as many tokens as it has patches; after each row of them is a separator
    ([IMG_BREAK], [IMG_END]), which is text and stays. Vision attention is the attention that each
    patch receives from its own image, mean over queries; there is no [CLS].
    """

    separated = True
    projections = ("attention.q_proj", "attention.k_proj")
    scaling = "attention.scaling"
    shrink_arguments = (IMAGE_SIZES,)
    has_cls = False

    def __init__(self, model: Any) -> None:
        super().__init__(model, "llava-pixtral")
        config = model.config
        if config.vision_feature_select_strategy != "full":
            raise AttachError(
                "adapter llava-pixtral: vision_feature_select_strategy "
                f"{config.vision_feature_select_strategy!r} cuts the first patch off, allowed: full"
            )
        tower = self.inner.vision_tower
        self.patch = int(tower.patch_size)
        self.find_layers(
            tower.transformer.layers,
            {
                "cls_feature": "the vision encoder has no [CLS] token",
                "clip_relevance": NO_TEXT_TOWER,
            },
        )

    def more_hooks(self, passing: Pass, signals: frozenset[str], layers: Layers) -> list[Handle]:
        """The encoder's entry tells the pictures' sizes, its attention the angles of 2-D RoPE."""
        tower = self.inner.vision_tower
        call = Signature.of(tower, [IMAGE_SIZES])
        attending = Signature.of(
            self.encoder_layers[0].get_submodule("attention"), ["position_embeddings"]
        )

        def begin(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
            named = call.named(args, kwargs)
            passing.seen = {"grids": self.full_grids(named[call.names[0]], named)}

        def angles(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
            passing.seen["angles"] = attending.named(args, kwargs)["position_embeddings"]

        watched = [(tower, begin), *((layer.attention, angles) for layer in set(layers.values()))]
        return [
            module.register_forward_pre_hook(hook, with_kwargs=True) for module, hook in watched
        ]

    def grids(self, features: Tensor, seen: Mapping[object, Any]) -> list[Grid]:
        """As the encoder was told."""
        if "grids" not in seen:
            raise SignalError(RAN_PAST)
        grids: list[Grid] = seen["grids"]
        return grids

    def parts(
        self, queries: Tensor, keys: Tensor, seen: Mapping[object, Any], sizes: list[int]
    ) -> list[tuple[Tensor, Tensor]]:
        """Each picture on its own, with 2-D RoPE."""
        if "angles" not in seen:
            raise SignalError(RAN_PAST)
        return rotated_parts(queries, keys, seen["angles"], sizes)

    def full_grids(self, pixels: Tensor | None, given: Mapping[str, Any]) -> list[Grid]:
        """Rows and columns of patches of each picture; without sizes all fill the tensor."""
        sizes = given.get(IMAGE_SIZES)
        if sizes is None:
            sizes = [] if pixels is None else [pixels.shape[-2:]] * len(pixels)
        return [(int(height) // self.patch, int(width) // self.patch) for height, width in sizes]

    def smaller(
        self, pixels: Tensor, full: list[Grid], small: list[Grid]
    ) -> tuple[Tensor, dict[str, Any]]:
        """Each picture without its border at its own size, in one tensor with new borders."""
        sides = [(rows * self.patch, columns * self.patch) for rows, columns in small]
        shape = (len(pixels), pixels.shape[1], *(max(side) for side in zip(*sides, strict=True)))
        pictures = pixels.new_zeros(shape)
        for number, ((rows, columns), (height, width)) in enumerate(zip(full, sides, strict=True)):
            picture = pixels[number, None, :, : rows * self.patch, : columns * self.patch]
            pictures[number, :, :height, :width] = resized(picture, height, width)[0]
        return pictures, {IMAGE_SIZES: torch.tensor(sides, device=pixels.device)}

    def picture_tokens(self, given: Mapping[str, Any]) -> dict[int, list[int]] | None:
        """As the pictures' sizes say.

        Raises:
            UnsupportedError: nothing says how large they are, and a run of placeholders is a row.
        """
        pixels, sizes = given.get("pixel_values"), given.get(IMAGE_SIZES)
        counts = encoded_tokens(given, "image")
        if sizes is not None or pixels is not None:
            counts = [rows * columns for rows, columns in self.full_grids(pixels, given)]
        if counts is None:
            raise UnsupportedError(
                "adapter llava-pixtral: a row of placeholders is not an image: give pixel_values "
                "or image_sizes beside the tokens, to say how large the images are"
            )
        return {self.placeholder_ids[0]: counts}

    def panels(self, size: tuple[int, int], processor: Any, inputs: Any) -> list[Panel]:
        """The whole picture, resized by the processor."""
        grids = self.full_grids(inputs["pixel_values"], inputs)
        return [Panel(rows, columns, (0.0, 0.0, 1.0, 1.0)) for rows, columns in grids]


class LlavaPixtralAdapter(Adapter):
    """Pixtral 12B and its like: Pixtral encoder, images of any size, Mistral decoder."""

    name = "llava-pixtral"
    model_types = frozenset({"llava"})
    check_size = ModelSize(
        "check", "llava-pixtral", "Pixtral in LLaVA for checks",
        DecoderDims(layers=4, dim=32, mlp_dim=48, heads=4, kv_heads=2, head_dim=8),
        visual_tokens=16, vocabulary=64, vision=NARROW_PIXTRAL,
    )  # fmt: skip

    @classmethod
    def takes(cls, config: Any) -> bool:
        """A LLaVA with Pixtral's encoder."""
        return super().takes(config) and has_pixtral(config)

    @classmethod
    def bind(cls, model: Any) -> AdaptedVlm:
        """Bind a ``LlavaForConditionalGeneration``."""
        check_whole_model(cls.name, model, "LlavaForConditionalGeneration")
        return LlavaPixtralModel(model)

    @classmethod
    def describe(cls, config: Any) -> tuple[DecoderDims, int]:
        """Decoder sizes; tokens of the largest square image (the resolution is dynamic)."""
        vision = config.vision_config
        return decoder_dims(config.text_config), (vision.image_size // vision.patch_size) ** 2

    @classmethod
    def sized_config(cls, size: ModelSize) -> Any:
        """Mistral after Pixtral's encoder as published, unless the size names another."""
        from transformers import LlavaConfig

        vision = {**size.vision, "image_size": PATCH * image_side(size), "patch_size": PATCH}
        text = {**text_settings(size), "sliding_window": None}
        return LlavaConfig(
            vision_config={"model_type": "pixtral", **vision},
            text_config={"model_type": "mistral", **text},
            image_token_index=size.vocabulary - 1,
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
        )

    @classmethod
    def shrunk(cls, config: Any) -> tuple[Any, ModelSize]:
        """Pictures of 4 x 4 patches, encoder layers as many as the projector asks for."""
        shrunk, dims = shrunk_text(config)
        vision = shrunk.vision_config
        for name, value in NARROW_PIXTRAL.items():
            setattr(vision, name, value)
        vision.head_dim = vision.hidden_size // vision.num_attention_heads
        reads = config.vision_feature_layer
        deepest = max(map(abs, [reads] if isinstance(reads, int) else reads))
        vision.num_hidden_layers = max(vision.num_hidden_layers, deepest)
        vision.image_size = 4 * vision.patch_size
        words = config.text_config.vocab_size
        return shrunk, ModelSize("shrunk", cls.name, "", dims, 16, words, NARROW_PIXTRAL)

    @classmethod
    def synthetic_inputs(
        cls, config: Any, size: ModelSize, text: tuple[int, int], batch: int
    ) -> dict[str, Tensor]:
        """Text, the rows of the image with a separator between two, text."""
        special = special_ids(config)
        between = next(token for token in range(2, size.vocabulary) if token not in special)
        side, patch = image_side(size), config.vision_config.patch_size
        row = [config.image_token_id] * side
        run = [*row, *[between, *row] * (side - 1)]
        return {
            "input_ids": random_prompts(size, text, run, batch, special),
            "pixel_values": random_pixels(batch, 3, side * patch, side * patch),
            IMAGE_SIZES: torch.tensor([[side * patch, side * patch]] * batch),
        }
