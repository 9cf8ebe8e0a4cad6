"""Reading a prompt: its visual tokens, its padding and its images."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from tokensieve.core.contract.adapter import AdaptedVlm
from tokensieve.core.engine.decoder.cache import check_cache, find_cache
from tokensieve.core.engine.decoder.state import DecoderState
from tokensieve.core.engine.guard import ForwardGuard
from tokensieve.core.engine.layout import TEXT, Images
from tokensieve.core.engine.rows import Rows
from tokensieve.core.engine.state import Prompt
from tokensieve.core.engine.trace import Trace
from tokensieve.core.errors import UnsupportedError
from tokensieve.core.pipeline.budgets import Schedule

if TYPE_CHECKING:
    from torch import Tensor


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
    given: Mapping[str, Any],
    notes: list[str],
    seed: int,
    guard: ForwardGuard,
) -> DecoderState | None:
    """The state of a forward called with the arguments ``given``; None if it has no tokens.

    Which rows are visual is read off ``input_ids`` alone, never guessed from embeddings.

    Raises:
        UnsupportedError: a cache, a mask or pictures that pruning cannot handle.
    """
    ids, embeds, mask = (given.get(name) for name in INNER_ARGUMENTS)  # each may be left out
    for name, value in given.items():
        first = value[0] if isinstance(value, (tuple, list)) and value else None
        inner = first if isinstance(first, (tuple, list)) else ()  # sizes of pictures are numbers
        if any(isinstance(part, torch.Tensor) for part in inner):  # a cache of old
            raise UnsupportedError(
                f"{name}: pruning needs a DynamicCache, got a {type(value).__name__} of tensors"
            )
    cache = find_cache(given)
    check_cache(cache)
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
    prompt, rows = Prompt(batch, length, past, padding), None
    trace = Trace(notes=list(notes))
    if length > 1 and ids is not None:
        prompt, rows = _read(prompt, bound, schedule, given, ids, seed)
    elif length > 1:
        pictures = [given.get(name) for name in VISION_ARGUMENTS]
        if any(
            part is not None
            for held in pictures
            for part in (held.values() if isinstance(held, Mapping) else (held,))
        ):
            raise UnsupportedError(
                "inputs_embeds with pictures beside them: which rows are theirs is not known: give "
                "the input_ids"
            )
        trace.notes.append(NO_IDS)
        warnings.warn(NO_IDS, RuntimeWarning, stacklevel=2)
    if rows is not None:
        samples = range(batch)
        trace.visual_tokens = rows.layout.visual_tokens()
        trace.text_tokens = [rows.layout.text(sample) for sample in samples]
    return DecoderState(prompt, rows, guard, trace, cache=cache)


def with_prompt(
    given: Mapping[str, Any], prompt: Tensor | None, asked: Mapping[str, object]
) -> Mapping[str, Any]:
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


def _marks(bound: AdaptedVlm, rows: list[list[int]]) -> list[list[int]]:
    """Per sample and row, the placeholder of a visual token, ``TEXT`` elsewhere."""
    placeholders = frozenset(bound.placeholder_ids)
    return [[token if token in placeholders else TEXT for token in row] for row in rows]


def _read(
    prompt: Prompt,
    bound: AdaptedVlm,
    schedule: Schedule,
    given: Mapping[str, Any],
    ids: Tensor,
    seed: int,
) -> tuple[Prompt, Rows | None]:
    """The images of a prompt, and its rows if it has some: the one transfer from the device."""
    padding, rows = prompt.new_padding, ids.tolist()
    marks = _marks(bound, rows)
    real = [[True] * len(row) for row in rows] if padding is None else padding.tolist()
    flags = [
        [mark != TEXT and seen for mark, seen in zip(row, own, strict=True)]
        for row, own in zip(marks, real, strict=True)
    ]
    if not any(map(any, flags)):
        return prompt, None
    layout = Images(bound.picture_tokens(given), bound.split_run).read(marks, real)
    blocks = layout.blocks()
    visual = torch.tensor(flags, device=ids.device)
    sizes = {(block.sample, block.image): block.length for block in blocks}
    tails = [next((n for n, flag in enumerate(reversed(row)) if flag), len(row)) for row in flags]
    read = replace(
        prompt,
        tail=min(tails),
        keys=prompt_keys(rows, real, seed),
        image_sizes=sizes,
        targets={image: schedule.counts(size) for image, size in sizes.items()},
    )
    return read, Rows(
        layout,
        origin=torch.where(visual, visual.long().cumsum(dim=1) - 1, -1),
        valid=padding,
        separators=~visual if any(block.separators for block in blocks) else None,
    )


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


def prompt_keys(rows: list[list[int]], real: list[list[bool]], seed: int) -> tuple[int, ...]:
    """One integer per sample from its unpadded prompt and the seed."""
    return tuple(
        zlib.crc32(repr((seed, [t for t, r in zip(row, flags, strict=True) if r])).encode())
        for row, flags in zip(rows, real, strict=True)
    )


def check_whole(rows: int, prompt: Tensor | None) -> None:
    """The first forward of ``generate`` runs all of the prompt, if there is one."""
    tokens = 0 if prompt is None else int(prompt.shape[1])
    if rows < tokens:
        raise UnsupportedError(
            f"the prompt of {tokens} tokens is run in parts, the first of {rows}: chunked prefill "
            "is not supported while pruning: leave it out or detach"
        )
