"""Numbers that are equal by meaning compare as equal, whatever the last bits say.

Rows of equal content leave a matrix product with different last bits, depending on where they
are in it, on the processor, and on the number of threads: the patches of a blank image end with
four to six different values that are 5e-7 apart. A strict comparison would then decide by that.
Here two numbers are the same if they differ by less than 32 units in the last place of their
precision (4e-6 in float32), and ties are decided by index.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokensieve.core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

ULPS = 32


def rounding(values: Tensor, scale: float = 0.0) -> Tensor:
    """The distance up to which numbers of this size are the same; 0 for infinite ones.

    ``scale`` is the size of the numbers that were subtracted to get small ones: 1 for cosines and
    ``1 - cos``, whose error does not shrink with them.
    """
    size = values.abs().masked_fill(~values.isfinite(), 0).clamp(min=scale)
    return size * (ULPS * torch.finfo(values.dtype).eps)


def above(values: Tensor, limits: Tensor, scale: float = 0.0) -> Tensor:
    """Whether ``values`` are larger than ``limits`` by more than rounding."""
    return values - limits > torch.maximum(rounding(values, scale), rounding(limits, scale))


def falling(values: Tensor, scale: float = 0.0) -> Tensor:
    """``[..., n]`` places by falling value; numbers that are the same are by rising index.

    Neighbors in the sorted list that are the same are one group, so that the order is one.
    """
    order = values.sort(dim=-1, descending=True, stable=True)
    if not values.is_floating_point():
        return order.indices
    higher, lower = order.values[..., :-1], order.values[..., 1:]
    group = torch.zeros_like(order.indices)
    group[..., 1:] = above(higher, lower, scale).cumsum(dim=-1)
    own = torch.empty_like(group).scatter_(-1, order.indices, group)
    places: Tensor = own.sort(dim=-1, stable=True).indices
    return places


def first_max(values: Tensor, scale: float = 0.0) -> Tensor:
    """``[..., n]`` -> ``[...]`` index of the largest value, the first of those that are the same.

    ``argmax`` promises nothing about ties.
    """
    places = torch.arange(values.shape[-1], device=values.device)
    highest = values.amax(dim=-1, keepdim=True)
    lower = above(highest, values, scale) if values.is_floating_point() else values != highest
    first: Tensor = places.expand_as(values).masked_fill(lower, values.shape[-1]).amin(dim=-1)
    return first.clamp(max=values.shape[-1] - 1)  # NaN is below nothing
