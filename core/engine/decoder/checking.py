"""The cache and the rows of a decoder's forward, looked at once it is over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokensieve.core.engine.decoder.cache import ReducedLayer, find_cache
from tokensieve.core.engine.guard import ForwardGuard, refuse

if TYPE_CHECKING:
    from transformers.cache_utils import Cache


def check_forward(guard: ForwardGuard, output: object, cache: Cache | None, seen: int) -> None:
    """Layers, rows of the output and cache.

    Args:
        guard: what the forward was seen to do.
        output: what the forward gives its caller.
        cache: the one that the layers were given.
        seen: tokens that it has to report, dropped ones included.

    Raises:
        GuardError: it did not run as pruning needs it.
    """
    guard.check_layers()
    if guard.reduced and not guard.restored:
        raise refuse("the decoder's own hook did not run: the rows of the output are reduced")
    given_back = find_cache(output)
    if given_back is not None and given_back is not cache:
        raise refuse("the output holds another KV cache than the layers were given")
    if cache is None:
        return
    if len(cache.layers) < guard.depth:
        raise refuse(f"the KV cache has {len(cache.layers)} layers, the decoder {guard.depth}")
    for index in range(guard.first, guard.depth):
        layer: Any = cache.layers[index]
        if layer.get_seq_length() != seen:
            raise refuse(
                f"the KV cache of {guard.word} {index} reports {layer.get_seq_length()} tokens "
                f"where {seen} were seen"
            )
        rows = guard.stored.get(index)
        held = layer.rows if type(layer) is ReducedLayer else None
        if rows is not None and held != rows:
            held = layer.get_seq_length() if held is None else held
            raise refuse(
                f"the KV cache of {guard.word} {index} holds {held} rows where {rows} were kept"
            )
