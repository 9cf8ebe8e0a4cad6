"""KV-cache layers that hold fewer rows than tokens were seen.

The cache keeps reporting all tokens that it has *seen*, because ``generate`` slices new ids and
counts positions by that number. What is special about the rows is kept in the layer itself, so beam
search, cropping and a second turn carry it along.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from tokensieve.core.errors import UnsupportedError

if TYPE_CHECKING:
    from torch import Tensor, nn


class ReducedLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """A dynamic cache layer after a reduction.

    Attributes:
        seen_length: tokens seen, dropped ones included.
        input_rows: ``[batch, rows]`` which of the tokens seen a row is, -1 for filler; further
            rows are the last tokens. None: every row is.
        filled: whether some rows are filler.
        position_offset: ``[batch]`` what to subtract from a later token's position, or None for
            nothing.
        reductions: what made these rows; layers of equal reductions have equal rows.
    """

    _layer_type = None  # do not take the place of DynamicLayer in transformers' own table

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen_length = 0
        self.input_rows: Tensor | None = None
        self.filled = False
        self.position_offset: Tensor | None = None
        self.reductions: tuple[tuple[int, int], ...] = ()
        self._expected: tuple[int, Tensor | None, bool] | None = None

    @classmethod
    def take_over(cls, layer: DynamicLayer) -> ReducedLayer:
        """Continue a plain layer."""
        reduced = cls()
        if layer.keys is not None and layer.values is not None:
            reduced.lazy_initialization(layer.keys, layer.values)
            reduced.keys, reduced.values = layer.keys, layer.values
            reduced.seen_length = layer.get_seq_length()
        return reduced

    @property
    def rows(self) -> int:
        """Rows that are really stored."""
        return int(super().get_seq_length())

    def expect(self, tokens: int, input_rows: Tensor | None, *, filled: bool) -> None:
        """Announce the rows of the next ``update``: of so many tokens, and which of them stay."""
        self._expected = (tokens, input_rows, filled)

    def real(self, padding: Tensor | None, rows: int) -> Tensor | None:
        """``[batch, rows]`` bool of the first rows: tokens that the caller's mask shows; None: all.

        A caller may hide other tokens at a later step than at the prompt: his mask counts.
        """
        if not rows or (padding is None and not self.filled):
            return None
        input_rows = self._all_input_rows()[:, :rows]
        there = input_rows >= 0
        if padding is None:
            return there
        return there & padding.to(input_rows.device).gather(1, input_rows.clamp(min=0))

    def _all_input_rows(self) -> Tensor:
        """``[batch, rows]``; rows after the known ones are the last tokens."""
        assert self.keys is not None
        known = 0 if self.input_rows is None else self.input_rows.shape[1]
        first = self.seen_length - (self.rows - known)
        later = torch.arange(first, self.seen_length, device=self.keys.device)
        later = later.expand(self.keys.shape[0], -1)
        return later if self.input_rows is None else torch.cat([self.input_rows, later], dim=1)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append rows; only a session that manages the masks may do it."""
        if self._expected is None:
            raise UnsupportedError(
                "this KV cache holds a pruned prompt, but no session is attached: attach the "
                "pipeline again to continue it, or start with a new cache"
            )
        (tokens, input_rows, filled), self._expected = self._expected, None
        if input_rows is not None:
            moved = input_rows.to(key_states.device)
            moved = torch.where(moved < 0, moved, moved + self.seen_length)
            past = [self._all_input_rows()] if self.rows else []
            self.input_rows = torch.cat([*past, moved], dim=1)
            self.filled |= filled
        self.seen_length += tokens
        keys, values = super().update(key_states, value_states, *args, **kwargs)
        return keys, values

    def get_seq_length(self) -> int:
        """Tokens seen, dropped ones included."""
        return self.seen_length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Sizes of the mask that the model makes; the session replaces it."""
        return self.seen_length + query_length, 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Follow the beams."""
        super().reorder_cache(beam_idx)  # type: ignore[arg-type]
        self._each(lambda state: state.index_select(0, beam_idx.to(state.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every sample."""
        super().batch_repeat_interleave(repeats)
        self._each(lambda state: state.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some samples."""
        super().batch_select_indices(indices)
        self._each(lambda state: state[indices])

    def crop(self, tokens_to_remove: int) -> None:
        """Rolling back could remove visual tokens: refuse."""
        if tokens_to_remove:
            raise UnsupportedError(
                "a pruned KV cache cannot be cropped (assisted decoding, prompt lookup): "
                "generate without an assistant, or detach first"
            )

    def reset(self) -> None:
        """Forget everything, the reduction included."""
        super().reset()
        self.seen_length, self.input_rows, self.filled = 0, None, False
        self.position_offset, self.reductions = None, ()

    def _each(self, change: Callable[[Tensor], Tensor]) -> None:
        if self.input_rows is not None:
            self.input_rows = change(self.input_rows)
        if self.position_offset is not None:
            self.position_offset = change(self.position_offset)


def find_cache(values: object) -> Cache | None:
    """The KV cache among arguments by name, or in the output of a module; None if there is none.

    It is known by its type: what the argument is called differs between versions of transformers.
    """
    if isinstance(values, Mapping):
        values = values.values()
    elif not isinstance(values, (tuple, list)):
        return None
    for value in values:
        if isinstance(value, Cache):
            return value
    return None


def cache_argument(module: nn.Module, cache: Cache) -> dict[str, Cache]:
    """``cache`` under the name that the module's ``forward`` has for it, to go on with it."""
    parameters = inspect.signature(type(module).forward).parameters
    named = [name for name, parameter in parameters.items() if "Cache" in str(parameter.annotation)]
    if not named:
        raise UnsupportedError(f"{type(module).__name__}.forward takes no KV cache")
    return {named[0]: cache}


def check_cache(cache: object) -> None:
    """Refuse caches whose layers cannot differ in length."""
    if cache is None:
        return
    plain = (
        isinstance(cache, Cache)
        and not cache.offloading
        and all(type(layer) in (DynamicLayer, ReducedLayer) for layer in cache.layers)
        and (cache.layers or type(cache) is DynamicCache)
    )
    if not plain:
        kinds = sorted({type(layer).__name__ for layer in getattr(cache, "layers", [])})
        raise UnsupportedError(
            f"pruning needs a plain DynamicCache, got {type(cache).__name__}"
            f"{' of ' + ', '.join(kinds) if kinds else ''}: static, sliding-window, quantized and "
            "offloaded caches are not supported"
        )


def reduced_layer(cache: Cache, index: int, *, swap: bool) -> ReducedLayer | None:
    """Layer ``index`` if it is reduced; with ``swap`` a plain one is made one that may be."""
    while len(cache.layers) <= index:  # it grows lazily
        cache.layers.append(DynamicLayer())  # type: ignore[no-untyped-call]
    layer = cache.layers[index]
    if isinstance(layer, ReducedLayer):
        return layer
    if not swap:
        return None
    assert isinstance(layer, DynamicLayer)  # see check_cache
    reduced = cache.layers[index] = ReducedLayer.take_over(layer)
    return reduced
