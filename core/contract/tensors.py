"""Small rules for tensors that every part of the project follows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tokensieve.core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


def on_device(numbers: Sequence[float] | Sequence[Sequence[float]], device: torch.device) -> Tensor:
    """Numbers of the host as a tensor on ``device``, without waiting for the device's other work.

    CUDA stages a copy from pageable memory before the call returns; other devices promise nothing.
    """
    return torch.tensor(numbers).to(device, non_blocking=device.type == "cuda")


def at_least_float32(values: Tensor) -> Tensor:
    """``values`` in float32, or in float64 if they are: the precision in which we decide."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def unit(vectors: Tensor) -> Tensor:
    """``vectors`` ``[..., n]`` scaled to length 1, at least float32; zero stays zero."""
    wide = at_least_float32(vectors)
    length = wide.norm(dim=-1, keepdim=True)
    directions: Tensor = wide / length.clamp(min=torch.finfo(wide.dtype).tiny)
    return directions


def take_rows(values: Tensor, places: Tensor) -> Tensor:
    """``[batch, tokens, n]`` at ``places`` ``[batch, k]`` -> ``[batch, k, n]``."""
    return values.gather(1, places[..., None].expand(*places.shape, values.shape[-1]))
