"""Vision transformers of timm: picture classifiers, pruned between their blocks."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tokensieve.adapters.timm_pictures import resizable, seen_box, shrinking_hooks
from tokensieve.adapters.vision import layer_at, split_heads
from tokensieve.plugin import (
    ATTENTION_SIGNALS,
    BRANCH_SIGNALS,
    ENCODER_SIGNALS,
    IMAGE,
    SIGNALS,
    AdaptedEncoder,
    Adapter,
    AttachError,
    Branch,
    DecoderDims,
    Demands,
    Grid,
    Handle,
    Panel,
    UnsupportedError,
    torch,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

CHECK_SEED = 20630
NO_TEXT = "a classifier has no text"
NO_PROJECTOR = "a classifier has no projector"
WHY_MISSING = {
    "normed_states": NO_TEXT,
    "embeddings": NO_TEXT,
    "previous_keys": NO_TEXT,
    "next_attention": NO_TEXT,
    "clip_relevance": NO_TEXT,
    "vision_features": NO_PROJECTOR,
    "cls_feature": NO_PROJECTOR,
}
MEANS = frozenset({"avg", "avgmax", "max"})
"""Kinds of pooling that look at patches, without weights of their own."""
ATTENTION_POOLS = frozenset({"map", "prr"})


class TimmVitModel(AdaptedEncoder):
    """A ``VisionTransformer`` of timm.

    Position embeddings are added before the first block, so a patch that survives keeps its own.
    """

    encoder: Any  # timm's modules, whose parts no type names
    layers: list[Any]

    def __init__(self, model: Any, vit: Any) -> None:
        self.name = "timm-vit"
        self.model = model
        self.encoder = vit
        self.embedding = vit.patch_embed
        self.final = vit.norm
        self.layers = list(vit.blocks)
        self.prefix = int(vit.num_prefix_tokens)
        self.has_cls = bool(vit.has_class_token)
        self.pooling = str(vit.global_pool)
        _check(vit)
        self.dims = block_dims(vit)
        parameters = inspect.signature(vit.blocks[0].forward).parameters
        self.mask_argument = "attn_mask" if "attn_mask" in parameters else None
        blocks: Any = importlib.import_module("timm.models.vision_transformer")
        self.provides, self.missing = ENCODER_SIGNALS, dict(WHY_MISSING)
        block = type(self.layers[0]).__name__
        attention = getattr(self.layers[0], "attn", None)
        if attention is not None:
            self.provides |= BRANCH_SIGNALS
        if isinstance(attention, blocks.Attention):
            self.provides |= ATTENTION_SIGNALS
        reason = f"blocks of type {block} compute attention and MLP as one"
        if attention is not None:
            reason = f"attention of type {type(attention).__name__} is no softmax of one product"
        self.missing |= dict.fromkeys(SIGNALS.keys() - self.provides - self.missing.keys(), reason)

    def pictures(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
        """The one argument of ``VisionTransformer.forward`` that pruning can handle."""
        vit = self.encoder
        names = list(inspect.signature(vit.forward).parameters)
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        pictures = given.pop(names[0])
        for name, value in given.items():
            if value is not None and value is not False:
                raise UnsupportedError(f"{name} is not supported while pruning: leave it out")
        if getattr(vit, "grad_checkpointing", False):
            raise UnsupportedError("gradient checkpointing is not supported while pruning")
        return pictures  # type: ignore[no-any-return]

    def grid(self, pictures: Tensor) -> tuple[int, int]:
        """Of the model, or of the pictures where the model takes any size."""
        vit = self.encoder
        if getattr(vit, "dynamic_img_size", False):
            rows, columns = vit.patch_embed.dynamic_feat_size(tuple(pictures.shape[-2:]))
        else:
            rows, columns = vit.patch_embed.grid_size
        return int(rows), int(columns)

    def branches(self, layer: int) -> list[Branch]:
        """From the input after the norm to what is added to the residual stream."""
        block = self.layers[layer]
        last = ("ls1", "ls2") if hasattr(block, "ls1") else ("norm1", "norm2")
        ends = [getattr(block, name) for name in last]
        return [("attention", block.attn, ends[0]), ("mlp", block.mlp, ends[1])]

    def attention_source(self, layer: int) -> nn.Module:
        """The joint projection."""
        block = self.layers[layer]
        projection: nn.Module = block.attn.qkv
        return projection

    def queries_and_keys(self, layer: int, output: Tensor) -> tuple[Tensor, Tensor]:
        """The first two thirds, normalized per head where the model does."""
        attention = self.layers[layer].attn
        queries, keys, _ = (split_heads(part, self.dims.heads) for part in output.chunk(3, dim=-1))
        return attention.q_norm.forward(queries), attention.k_norm.forward(keys)

    def attention_scale(self, layer: int) -> float:
        """Factor on query-key products."""
        block = self.layers[layer]
        return float(block.attn.scale)

    def layer_at(self, depth: float) -> int:
        """The nearest block."""
        return layer_at(depth, len(self.layers))

    def refusal(self, demands: Demands) -> str | None:
        """What the blocks cannot do, odd embeddings, and pooling that cannot weigh patches."""
        if demands.boundary == IMAGE and not resizable(self.encoder):
            kind = type(self.embedding).__name__
            return f"it cannot make pictures smaller: patches of type {kind} have one size"
        uneven = demands.select.adaptive_count or demands.merge is not None
        if uneven and self.pooling in ATTENTION_POOLS and self._pool_mask() is None:
            return (
                f"pooling {self.pooling!r} can neither leave out nor weigh patches: use a "
                "selector with a fixed number of them, and no merger"
            )
        return super().refusal(demands)

    def _pool_mask(self) -> str | None:
        vit = self.encoder
        parameters = inspect.signature(vit.attn_pool.forward).parameters
        return "attn_mask" if "attn_mask" in parameters else None

    def watch_pooling(self, weights: Callable[[], Tensor | None]) -> list[Handle]:
        """[CLS] needs nothing; means are taken anew, an attention pool gets a mask."""
        vit = self.encoder
        first = 0 if vit.pool_include_prefix else self.prefix
        normed: list[Tensor] = []

        def mask(
            module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, object]
        ) -> tuple[object, object] | None:
            counted = weights()
            if counted is None:
                return None
            wide = torch.promote_types(args[0].dtype, torch.float32)
            logs = counted[:, None, None, first:].to(wide).log().to(args[0].dtype)
            return args, {**kwargs, "attn_mask": logs}

        def keep(module: nn.Module, args: tuple[object, ...], output: Tensor) -> None:
            normed[:] = [output]

        def replace(module: nn.Module, args: tuple[object, ...]) -> tuple[Tensor] | None:
            counted, hidden = weights(), normed.pop()
            if counted is None:
                return None
            return (pooled(hidden[:, first:], counted[:, first:], self.pooling),)

        if self.pooling in ATTENTION_POOLS:
            return [vit.attn_pool.register_forward_pre_hook(mask, with_kwargs=True)]
        if self.pooling not in MEANS:
            return []
        return [
            vit.norm.register_forward_hook(keep),
            vit.fc_norm.register_forward_pre_hook(replace),
        ]

    def shrink_images(self, wanted: Callable[[], Grid | None]) -> list[Handle]:
        """timm's own way for pictures of any size, switched on for one forward."""
        return shrinking_hooks(self.encoder, wanted)

    def panels(self, size: tuple[int, int], processor: Any, inputs: Any) -> list[Panel]:
        """What the processor leaves of the picture."""
        vit = self.encoder
        rows, columns = vit.patch_embed.grid_size
        box = seen_box(size, getattr(processor, "data_config", {}))
        return [Panel(rows, columns, box)] if box else []


def pooled(hidden: Tensor, weights: Tensor, kind: str) -> Tensor:
    """``[batch, rows, n]`` -> ``[batch, n]``: weighted mean, largest value, or the mean of both.

    Rows of weight 0 are not there; a largest value does not care how often it comes.
    """
    counted = weights.to(hidden.dtype)[..., None]
    mean = (hidden * counted).sum(dim=1) / counted.sum(dim=1)
    if kind == "avg":
        return mean
    most = hidden.masked_fill(counted == 0, float("-inf")).amax(dim=1)
    return most if kind == "max" else 0.5 * (most + mean)


def block_dims(vit: Any) -> DecoderDims:
    """Sizes of the blocks; a gated MLP has three matrices, a plain one two."""
    block = vit.blocks[0]
    dim, fused = int(vit.embed_dim), not hasattr(block, "mlp")
    attention = block if fused else block.attn
    mlp_dim, matrices = int(getattr(block, "in_split", [0])[0]), 2
    if not fused:
        shapes = [tuple(p.shape) for p in block.mlp.parameters() if p.ndim > 1]
        mlp_dim = int(shapes[-1][1])
        matrices = round(sum(rows * columns for rows, columns in shapes) / (dim * mlp_dim))
    heads = int(attention.num_heads)
    width = block.in_split[1] if fused else attention.qkv.out_features // 3
    return DecoderDims(len(vit.blocks), dim, mlp_dim, heads, heads, width // heads, matrices)


def _check(vit: Any) -> None:
    """Refuse what is a VisionTransformer and yet cannot be pruned between its blocks."""
    block = vit.blocks[0]
    if not (hasattr(block, "attn") and hasattr(block, "mlp")) and not hasattr(block, "in_split"):
        raise AttachError(
            f"adapter timm-vit: blocks of type {type(block).__name__} are not supported"
        )
    if not vit.global_pool:
        raise AttachError(
            "adapter timm-vit: without pooling (global_pool='') the model has an output for every "
            "patch, also for removed ones: build it with a global_pool"
        )


class TimmVitAdapter(Adapter):
    """Any VisionTransformer of timm: ViT, DeiT, CLIP, SigLIP and DINO encoders with a head."""

    name = "timm-vit"
    model_types = frozenset({"timm_wrapper"})
    answers_questions = False
    layer_word = AdaptedEncoder.layer_word

    @classmethod
    def recognizes(cls, model: Any) -> bool:
        """Whatever timm made, wrapped by transformers or not; ``bind`` says what is supported."""
        ours = any(base.__module__.startswith("timm.") for base in type(model).__mro__)
        return ours or super().recognizes(model)

    @classmethod
    def bind(cls, model: Any) -> AdaptedEncoder:
        """Bind a ``VisionTransformer``, or a ``TimmWrapperForImageClassification`` around one."""
        from timm.models import VisionTransformer

        vit = getattr(model, "timm_model", model)
        if not isinstance(vit, VisionTransformer):
            raise AttachError(
                f"adapter timm-vit: timm's {type(vit).__name__} is not supported, only its "
                "VisionTransformer (not models with stages, windows, rotary or relative positions)"
            )
        if vit is not model and not hasattr(model, "num_labels"):
            raise AttachError(
                f"adapter timm-vit: {type(model).__name__} calls parts of the model only: attach "
                "to TimmWrapperForImageClassification or to the timm model itself"
            )
        return TimmVitModel(model, vit)

    @classmethod
    def describe(cls, config: Any) -> tuple[DecoderDims, int]:
        """Sizes of the blocks and the patches of a picture; the model is built without weights."""
        import timm

        with torch.device("meta"):
            model: Any = timm.create_model(config.architecture, **(config.model_args or {}))
        bound = cls.bind(model)
        rows, columns = model.patch_embed.grid_size
        return bound.dims, rows * columns

    @classmethod
    def check_classifier(cls) -> tuple[Any, Tensor]:
        """Four blocks on 4 x 4 patches and a [CLS]."""
        from timm.models import VisionTransformer

        generator = torch.Generator().manual_seed(CHECK_SEED)
        vit = VisionTransformer(
            img_size=32, patch_size=8, embed_dim=32, depth=4, num_heads=4, num_classes=5
        ).double()
        with torch.no_grad():
            for parameter in vit.parameters():
                drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.add_(drawn * 0.15)
        pictures = torch.randn(3, 3, 32, 32, generator=generator, dtype=torch.float64)
        return vit.eval(), pictures
