"""Reading a prompt: which of its tokens are visual, padded, and of which image."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from tokensieve.core.contract.adapter import AdaptedVlm
from tokensieve.core.engine.decoder.cache import check_cache, find_cache
from tokensieve.core.engine.guard import ForwardGuard
from tokensieve.core.engine.layout import TEXT, Images
from tokensieve.core.engine.state import SEPARATORS, ForwardState
from tokensieve.core.engine.trace import Trace
from tokensieve.core.errors import UnsupportedError
from tokensieve.core.pipeline.budgets import Schedule

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.cache_utils import Cache


INNER_ARGUMENTS = ("input_ids", "inputs_embeds", "attention_mask")
"""What is read of the arguments of a model's inner forward, besides the cache."""


VISION_ARGUMENTS = ("pixel_values", "pixel_values_videos", "mm_encoder_outputs")
"""By what a caller hands pictures over, beside the tokens."""
PICTURE_ARGUMENTS = frozenset({"image_sizes", "image_grid_thw", "video_grid_thw"})
"""What says how large pictures are whose features the caller merged himself."""
NO_IDS = (
    "inputs_embeds without input_ids are taken for text, and nothing of them is pruned: give the "
    "input_ids beside them to have their images pruned"
)


def begin_forward(
    bound: AdaptedVlm,
    schedule: Schedule,
    given: dict[str, Any],
    notes: list[str],
    seed: int,
    guard: ForwardGuard,
) -> ForwardState | None:
    """The state of a forward called with the arguments ``given``; None if it has no tokens.

    Which rows are visual is read off ``input_ids`` alone, never guessed from embeddings.

    Raises:
        UnsupportedError: a cache, a mask or pictures that pruning cannot handle.
    """
    ids, embeds, mask = (given.get(name) for name in INNER_ARGUMENTS)  # each may be left out
    cache = _given_cache(given)
    shaped = ids if ids is not None else embeds
    if shaped is None:
        return None
    if mask is not None and (not isinstance(mask, torch.Tensor) or mask.ndim != 2):  # noqa: PLR2004
        raise UnsupportedError("pruning needs a two-dimensional attention mask [batch, tokens]")
    batch, length = int(shaped.shape[0]), int(shaped.shape[1])
    past = 0 if cache is None else int(cache.get_seq_length())
    if mask is not None and mask.shape[1] != past + length:
        raise UnsupportedError(
            f"the attention mask has {mask.shape[1]} columns, but there are {length} tokens and "
            f"{past} in the KV cache: pruning needs one column for each"
        )
    padding = None if mask is None or bool((mask != 0).all()) else mask.bool()
    trace = Trace(notes=list(notes))
    state = ForwardState(batch, length, past, cache, padding, None, trace, [], guard)
    if length > 1 and ids is not None:
        _read(state, bound, schedule, given, ids, seed)
    elif length > 1:
        if any(_holds_something(given.get(name)) for name in VISION_ARGUMENTS):
            raise UnsupportedError(
                "inputs_embeds with pictures beside them: which rows are theirs is not known: give "
                "the input_ids"
            )
        state.trace.notes.append(NO_IDS)
        warnings.warn(NO_IDS, RuntimeWarning, stacklevel=2)
    return state


def _holds_something(value: Any) -> bool:
    values = value.values() if isinstance(value, Mapping) else (value,)
    return any(part is not None for part in values)


def with_prompt(
    given: dict[str, Any], prompt: Tensor | None, asked: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of a forward on ``inputs_embeds``, with what ``generate`` was given beside.

    That are the ids, and what describes pictures (``image_sizes``), which the model's own forward
    is not told. Beams and returned sequences repeat every sample.
    """
    embeds = given.get("inputs_embeds")
    if embeds is None or given.get("input_ids") is not None or prompt is None:
        return given
    batch, length = embeds.shape[:2]
    if prompt.shape[1] != length or batch % prompt.shape[0]:
        return given
    repeated = prompt.repeat_interleave(batch // prompt.shape[0], dim=0)
    said = {name: asked[name] for name in PICTURE_ARGUMENTS & asked.keys()}
    told = {name: value for name, value in given.items() if value is not None}
    return {
        **given,
        **(said if batch == prompt.shape[0] else {}),
        **told,
        "input_ids": repeated.to(embeds.device),
    }


def _given_cache(given: dict[str, Any]) -> Cache | None:
    """The cache among the arguments, known by its type; tuples of tensors are one of old."""
    for name, value in given.items():
        if _tuples_of_tensors(value):
            raise UnsupportedError(
                f"{name}: pruning needs a DynamicCache, got a {type(value).__name__} of tensors"
            )
    cache = find_cache(given)
    check_cache(cache)
    return cache


def _tuples_of_tensors(value: Any) -> bool:
    """Whether it is a cache of old; sizes of pictures are pairs of numbers."""
    first = value[0] if isinstance(value, (tuple, list)) and value else None
    return isinstance(first, (tuple, list)) and any(isinstance(p, torch.Tensor) for p in first)


def _marks(bound: AdaptedVlm, rows: list[list[int]]) -> list[list[int]]:
    """Per sample and row, the placeholder that stands for a visual token, ``TEXT`` elsewhere."""
    placeholders = frozenset(bound.placeholder_ids)
    return [[token if token in placeholders else TEXT for token in row] for row in rows]


def _read(
    state: ForwardState,
    bound: AdaptedVlm,
    schedule: Schedule,
    given: Mapping[str, Any],
    ids: Tensor,
    seed: int,
) -> None:
    """Fill in the layout, if there are visual tokens: the one transfer from the device."""
    padding, rows = state.new_padding, ids.tolist()
    marks = _marks(bound, rows)
    real = [[True] * len(row) for row in rows] if padding is None else padding.tolist()
    flags = [
        [mark != TEXT and seen for mark, seen in zip(row, own, strict=True)]
        for row, own in zip(marks, real, strict=True)
    ]
    if not any(map(any, flags)):
        return
    state.tail = min(map(_tail, flags))
    layout = Images(bound.picture_tokens(given), bound.split_run).read(marks, real)
    visual = torch.tensor(flags, device=ids.device)
    state.layout = layout
    state.origin = torch.where(visual, visual.long().cumsum(dim=1) - 1, -1)
    if any(block.separators for block in layout.blocks()):
        state.carried[SEPARATORS] = ~visual
    state.keys = prompt_keys(rows, real, seed)
    for block in layout.blocks():
        state.original[block.sample, block.image] = block.length
        state.targets[block.sample, block.image] = schedule.counts(block.length)
    samples = range(state.batch)
    state.trace.visual_tokens = [layout.visual(sample) for sample in samples]
    state.trace.text_tokens = [layout.text(sample) for sample in samples]


def _tail(flags: list[bool]) -> int:
    """How many rows at the end are not flagged."""
    return next((n for n, flag in enumerate(reversed(flags)) if flag), len(flags))


def image_sizes(bound: AdaptedVlm, ids: Tensor) -> dict[tuple[int, int], int]:
    """Visual tokens of each image ``(sample, image)`` of a prompt ``[batch, rows]``.

    Empty where a run of placeholders need not be an image: the pictures have to tell.
    """
    if bound.separated:
        return {}
    rows = ids.tolist()
    real = [[True] * len(row) for row in rows]
    layout = Images(None, bound.split_run).read(_marks(bound, rows), real)
    return {(block.sample, block.image): block.length for block in layout.blocks()}


def prompt_keys(rows: list[list[int]], real: list[list[bool]], seed: int) -> list[int]:
    """One integer per sample from its unpadded prompt and the seed."""
    return [
        zlib.crc32(repr((seed, [t for t, r in zip(row, flags, strict=True) if r])).encode())
        for row, flags in zip(rows, real, strict=True)
    ]


def check_whole(rows: int, prompt: Tensor | None) -> None:
    """The first forward of ``generate`` runs all of the prompt, if there is one."""
    tokens = 0 if prompt is None else int(prompt.shape[1])
    if rows < tokens:
        raise UnsupportedError(
            f"the prompt of {tokens} tokens is run in parts, the first of {rows}: chunked prefill "
            "is not supported while pruning: leave it out or detach"
        )
