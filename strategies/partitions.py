"""Cutting an image into parts, and dividing a budget among them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokensieve.plugin import View, falling, on_device, rounding, torch

MOST_PARTS = 1024  # of an image: every part looks at every token
LEVEL_BITS = 16  # parts of up to 65,535 tokens

if TYPE_CHECKING:
    from torch import Tensor


def slices(view: View, count: int) -> Tensor:
    """``[batch, tokens]`` number of the slice: ``count`` runs of tokens in raster order."""
    place = torch.arange(view.valid.shape[1], device=view.valid.device)
    total = view.valid.sum(dim=1, keepdim=True).clamp(min=1)
    return (place * count // total).clamp(max=count - 1)


def windows(view: View, down: int, across: int) -> Tensor:
    """``[batch, tokens]`` number of the window, ``down`` times ``across`` of them in raster order.

    Tiles of an image lie on top of each other: tokens at the same place of two tiles share a
    window.
    """
    grid = view.grid.masked_fill(~view.valid[..., None], 0)
    size = grid.amax(dim=1, keepdim=True) + 1
    rows, columns = (grid * on_device([down, across], grid.device) // size).unbind(-1)
    return rows * across + columns


def members(parts: Tensor, count: int, available: Tensor) -> Tensor:
    """``[batch, count, tokens]`` bool, which available token belongs to which part."""
    numbers = torch.arange(count, device=parts.device)[:, None]
    return (parts[:, None] == numbers) & available[:, None]


def best_of_each(scores: Tensor, belongs: Tensor, limits: Tensor) -> Tensor:
    """The ``limits`` ``[batch, parts]`` best tokens of each part, ``[batch, tokens]`` bool."""
    ranked = scores[:, None].expand(belongs.shape).masked_fill(~belongs, float("-inf"))
    order = falling(ranked)
    place = torch.arange(scores.shape[1], device=scores.device)
    first = (place < limits[..., None]).expand(belongs.shape)
    taken = torch.zeros_like(belongs).scatter(2, order, first)
    return (taken & belongs).any(dim=1)


def divided(weights: Tensor, room: Tensor, counts: list[int], *, refill: bool = True) -> Tensor:
    """Divide ``counts`` in proportion to ``weights``, at most ``room`` each: ``[batch, parts]``.

    Shares are rounded down; the rest goes to the heaviest parts, one each. What a part has no
    room for is dealt out one each, again and again, to the heaviest parts that have room, or with
    ``refill=False`` to nobody.
    """
    wanted = on_device(counts, weights.device)[:, None]
    weights = weights.clamp(min=0)
    total = weights.sum(dim=1, keepdim=True)
    share = weights / torch.where(total > 0, total, 1)
    due = share * wanted
    given = (due + rounding(due)).floor().long()
    heaviest = falling(weights).argsort(dim=1)
    parts = weights.shape[1]
    rest = (wanted - given.sum(dim=1, keepdim=True)).clamp(min=0)
    given = given + rest // parts + (heaviest < rest % parts)
    fitting = given.minimum(room)
    return _filled(fitting, room, wanted, heaviest) if refill else fitting


def _filled(given: Tensor, room: Tensor, wanted: Tensor, heaviest: Tensor) -> Tensor:
    """Raise all parts evenly, as far as they have room, until ``wanted`` is dealt out.

    The last round, which does not reach everybody, goes to the heaviest that have room.
    """
    for bit in reversed(range(LEVEL_BITS)):  # the largest level that deals out no more than wanted
        raised = (given + 2**bit).minimum(room)
        fits = raised.sum(dim=1, keepdim=True) <= wanted
        given = torch.where(fits, raised, given)
    open_ = room > given
    turn = heaviest.masked_fill(~open_, heaviest.shape[1]).argsort(dim=1, stable=True)
    left = wanted - given.sum(dim=1, keepdim=True)
    return given + (open_ & (turn.argsort(dim=1) < left)).long()
