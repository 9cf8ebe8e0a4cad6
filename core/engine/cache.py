"""KV-cache layers that hold fewer rows than tokens were seen.

The cache keeps reporting its *logical* length, because ``generate`` slices new ids and counts
positions by it. What is special about the rows lives in the layer itself, so beam search,
cropping and a second turn carry it along.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from tokensieve.core.errors import UnsupportedError

if TYPE_CHECKING:
    from torch import Tensor


class ReducedLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """A dynamic cache layer after a reduction.

    Attributes:
        logical: tokens seen, dropped ones included.
        valid: ``[batch, rows]`` bool, False for padding; None if every row is real.
        shift: ``[batch]`` what to subtract from a later token's position, or None for nothing.
        lineage: the reductions that made these rows; layers of equal lineage have equal rows.
    """

    _layer_type = None  # do not take the place of DynamicLayer in transformers' own table

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.logical = 0
        self.valid: Tensor | None = None
        self.shift: Tensor | None = None
        self.lineage: tuple[tuple[int, int], ...] = ()
        self._armed: tuple[int, Tensor | None] | None = None

    @classmethod
    def take_over(cls, layer: DynamicLayer, valid: Tensor | None) -> ReducedLayer:
        """Continue a plain layer whose rows are marked by ``valid`` (None: all real)."""
        if isinstance(layer, cls):
            return layer
        reduced = cls()
        if layer.keys is not None and layer.values is not None:
            reduced.lazy_initialization(layer.keys, layer.values)
            reduced.keys, reduced.values = layer.keys, layer.values
            reduced.logical = layer.get_seq_length()
            reduced.valid = valid
        return reduced

    @property
    def rows(self) -> int:
        """Rows that are really stored."""
        return int(super().get_seq_length())

    def arm(self, logical: int, valid: Tensor | None) -> None:
        """Announce the rows of the next ``update``: ``logical`` tokens, marked by ``valid``."""
        self._armed = (logical, valid)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append rows; only a session that manages the masks may do it."""
        if self._armed is None:
            raise UnsupportedError(
                "this KV cache holds a pruned prompt, but no session is attached: attach the "
                "pipeline again to continue it, or start with a new cache"
            )
        (logical, valid), self._armed = self._armed, None
        past, new = self.rows, key_states.shape[-2]
        if self.valid is not None or valid is not None:
            ones = key_states.new_ones((key_states.shape[0], 1), dtype=torch.bool)
            old = ones.expand(-1, past) if self.valid is None else self.valid
            now = ones.expand(-1, new) if valid is None else valid.to(key_states.device)
            self.valid = torch.cat([old, now], dim=1)
        self.logical += logical
        keys, values = super().update(key_states, value_states, *args, **kwargs)
        return keys, values

    def get_seq_length(self) -> int:
        """Tokens seen, dropped ones included."""
        return self.logical

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Sizes of the mask that the model makes; the session replaces it."""
        return self.logical + query_length, 0

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
        self.logical, self.valid, self.shift, self.lineage = 0, None, None, ()

    def _each(self, change: Any) -> None:
        self.valid = None if self.valid is None else change(self.valid)
        self.shift = None if self.shift is None else change(self.shift)


def find_cache(values: Any) -> Cache | None:
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


def cache_argument(module: Any, cache: Cache) -> dict[str, Cache]:
    """``cache`` under the name that the module's ``forward`` has for it, to go on with it."""
    parameters = inspect.signature(type(module).forward).parameters
    named = [name for name, parameter in parameters.items() if "Cache" in str(parameter.annotation)]
    if not named:
        raise UnsupportedError(f"{type(module).__name__}.forward takes no KV cache")
    return {named[0]: cache}


def check_cache(cache: Any) -> None:
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


def cache_layer(cache: Cache, index: int) -> DynamicLayer:
    """Layer ``index``, made if the cache grows lazily."""
    while len(cache.layers) <= index:
        cache.layers.append(DynamicLayer())  # type: ignore[no-untyped-call]
    layer: Any = cache.layers[index]
    return layer  # type: ignore[no-any-return]
