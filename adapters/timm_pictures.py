"""Pictures for a ViT of timm: the part that the processor leaves, and smaller ones."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tokensieve.adapters.shrinking import resized
from tokensieve.plugin import Grid, Handle

if TYPE_CHECKING:
    from torch import Tensor, nn

Rectangle = tuple[float, float, float, float]


def seen_box(size: tuple[int, int], config: dict[str, Any]) -> Rectangle | None:
    """The part of a picture of ``size`` (width, height) that the model sees, as shares of it.

    ``config`` is timm's ``data_config``: the shorter side is resized, and the center cut out.
    None where a border is added and patches may show nothing.
    """
    mode, share = config.get("crop_mode", "center"), float(config.get("crop_pct", 1.0))
    if mode not in ("center", "squash"):
        return None
    wide, high = size if mode == "center" else (1, 1)
    across, down = share * min(1.0, high / wide), share * min(1.0, wide / high)
    return (1 - across) / 2, (1 - down) / 2, (1 + across) / 2, (1 + down) / 2


def resizable(vit: Any) -> bool:
    """Whether pictures of another size can be given: one projection, embeddings interpolated."""
    layers: Any = importlib.import_module("timm.layers")
    return isinstance(vit.patch_embed, layers.PatchEmbed)


def shrinking_hooks(vit: Any, wanted: Callable[[], Grid | None]) -> list[Handle]:
    """Smaller pixels for the patch embedding, position embeddings interpolated as timm does.

    What timm decides when a model is built with ``dynamic_img_size`` is decided for one forward,
    and taken back after it, however it ended.
    """
    layers: Any = importlib.import_module("timm.layers")
    embedding = vit.patch_embed
    any_size = {"strict_img_size": False, "flatten": False, "output_fmt": layers.Format.NHWC}
    before: list[tuple[object, str, object]] = []

    def change(owner: object, name: str, value: object) -> None:
        before.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    def shrink(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor] | None:
        grid = wanted()
        if grid is None:
            return None
        for name, value in any_size.items():
            change(embedding, name, value)
        change(vit, "dynamic_img_size", True)
        height, width = (
            count * patch for count, patch in zip(grid, embedding.patch_size, strict=True)
        )
        return (resized(args[0], height, width),)

    def restore(module: nn.Module, args: tuple[object, ...], output: object) -> None:
        while before:
            owner, name, value = before.pop()
            setattr(owner, name, value)

    return [
        embedding.register_forward_pre_hook(shrink),
        vit.register_forward_hook(restore, always_call=True),
    ]
