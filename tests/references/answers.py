"""What each selector must keep: the references on an :class:`~references.batches.Image`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from references import greedy, selections
from references.batches import Image, arranged, padded_scores, places, valid_of, view_of, width_of
from references.formulas import Array
from tokensieve.core.contract.components import Selector
from tokensieve.core.contract.view import View
from tokensieve.strategies.selectors.bottom_k import BottomKSelector
from tokensieve.strategies.selectors.coverage import CoverageSelector
from tokensieve.strategies.selectors.dedupe import DedupeSelector
from tokensieve.strategies.selectors.dilated import DilatedSelector
from tokensieve.strategies.selectors.dpp import DppSelector
from tokensieve.strategies.selectors.max_min import MaxMinSelector
from tokensieve.strategies.selectors.partitioned import PartitionedSelector
from tokensieve.strategies.selectors.pivots import PivotsSelector
from tokensieve.strategies.selectors.scope import ScopeSelector
from tokensieve.strategies.selectors.windowed import WindowedSelector

Reference = Callable[[Image, int], Sequence[int]]

BUDGETS: dict[str, Callable[[int, int], int]] = {
    "one": lambda _image, _tokens: 1,
    "third": lambda _image, tokens: max(1, tokens // 3),
    "mixed": lambda image, tokens: max(1, tokens * (image + 2) // 6 - image),
    "all but one": lambda _image, tokens: max(1, tokens - 1),
    "all": lambda _image, tokens: tokens,
}


def counts_of(budget: str, images: Sequence[Image]) -> list[int]:
    return [BUDGETS[budget](number, len(image.scores)) for number, image in enumerate(images)]


def chosen(
    selector: Selector, images: Sequence[Image], counts: list[int], view: View | None = None
) -> list[list[int]]:
    reader = (view or view_of(images)).for_component(selector)
    return places(selector.select(padded_scores(images), valid_of(images), counts, reader))


def taken(
    selector: Selector, images: Sequence[Image], counts: list[int], view: View | None = None
) -> list[list[int]]:
    """The tokens of each image in the order of selection."""
    reader = (view or view_of(images)).for_component(selector)
    turns = selector.take_in_order(padded_scores(images), valid_of(images), counts, reader)
    return arranged(turns > 0, turns)


def in_turn(reference: Reference, images: Sequence[Image], counts: list[int]) -> list[list[int]]:
    pairs = zip(images, counts, strict=True)
    return [list(reference(image, count)) for image, count in pairs]


def expected(reference: Reference, images: Sequence[Image], counts: list[int]) -> list[list[int]]:
    pairs = zip(images, counts, strict=True)
    return [sorted(reference(image, count)) for image, count in pairs]


def mask_of(marked: Sequence[Sequence[int]], images: Sequence[Image]) -> Tensor:
    mask = torch.zeros(len(images), width_of(images), dtype=torch.bool)
    for row, tokens in zip(mask, marked, strict=True):
        row[list(tokens)] = True
    return mask


def mmtok(image: Image, text: bool = True) -> Array:
    words = image.asked("embeddings") if text else image.asked("embeddings")[:0]
    return greedy.mmtok_rows(words, image["embeddings"], image["vision_features"])


def dart(image: Image, count: int, own: int = 4, words: int = 4) -> list[int]:
    return selections.pivots(
        np.abs(image["previous_keys"]).sum(axis=1),
        np.abs(image.asked("previous_keys")).sum(axis=1),
        image["normed_states"],
        image.asked("normed_states"),
        count,
        own,
        words,
    )


def columns_of(image: Image) -> int:
    return int(image.grid[:, 1].max()) + 1


def hiprune(image: Image, count: int, share: float) -> list[int]:
    index = range(len(image.scores))
    return selections.dilated(image.scores, image.scores, index, columns_of(image), count, share)


def in_windows(image: Image, down: int, across: int) -> list[int]:
    rows, columns = (int(size) + 1 for size in image.grid.max(axis=0))
    return [int(r) * down // rows * across + int(c) * across // columns for r, c in image.grid]


def vscan(image: Image, count: int, *, released: bool = False) -> list[int]:
    rows, columns = (int(size) + 1 for size in image.grid.max(axis=0))
    at_rows, at_columns = image.grid.T.tolist()
    both, size = (image.scores, image.scores), (rows, columns)
    return selections.vscan(*both, at_rows, at_columns, *size, count, released=released)


def by_windows(image: Image, count: int, share: float, down: int, across: int) -> list[int]:
    labels, each = in_windows(image, down, across), int(count * share + 1e-9) // (down * across)
    first: list[int] = []
    for window in range(down * across):
        inside = [token for token, label in enumerate(labels) if label == window]
        first += selections.best_first(image.scores, inside)[:each]
    rest = selections.without(len(image.scores), first)
    return first + selections.best_first(image.scores, rest)[: count - len(first)]


def by_parts(image: Image, count: int, labels: Sequence[int], parts: int) -> list[int]:
    """The share of each part by its mean score, its tokens as in HoloV; in output order."""
    inside = [[t for t, label in enumerate(labels) if label == part] for part in range(parts)]
    weights = [float(image.scores[part].mean()) if part else 0.0 for part in inside]
    shares = selections.holov_shares(weights, [len(part) for part in inside], count)
    kept: list[int] = []
    for part, share in zip(inside, shares, strict=True):
        best = selections.best_first(image.scores, part)
        kept += part if share == len(part) else best[:share]
    return kept


def in_slices(image: Image, parts: int) -> list[int]:
    return [place * parts // len(image.scores) for place in range(len(image.scores))]


CASES: dict[str, tuple[Selector, Reference]] = {
    "bottom-k": (BottomKSelector(), lambda i, k: selections.bottom_k(i.scores, k)),
    "max-min": (MaxMinSelector(), lambda i, k: greedy.max_min(i["hidden"], k)),
    "max-min keys": (
        MaxMinSelector(features="vision_keys"),
        lambda i, k: greedy.max_min(i["vision_keys"], k),
    ),
    "max-min normed": (
        MaxMinSelector(features="normed_states"),
        lambda i, k: greedy.max_min(i["normed_states"], k),
    ),
    "dpp": (
        DppSelector(),
        lambda i, k: greedy.dpp_map(i["hidden"], greedy.minmax_quality(i.scores), k),
    ),
    "dpp raw": (DppSelector(quality="none"), lambda i, k: greedy.dpp_map(i["hidden"], i.scores, k)),
    "coverage": (CoverageSelector(), lambda i, k: greedy.coverage(mmtok(i), k)),
    "coverage balanced": (
        CoverageSelector(image_weight=3.0, text_temperature=0.3, image_temperature=0.15),
        lambda i, k: greedy.coverage(
            greedy.mmtok_rows(
                i.asked("embeddings"), i["embeddings"], i["vision_features"], 3.0, 0.3, 0.15
            ),
            k,
        ),
    ),
    "facility location": (
        CoverageSelector(text=False),
        lambda i, k: greedy.coverage(mmtok(i, text=False), k),
    ),
    "scope": (ScopeSelector(), lambda i, k: greedy.scope(i["vision_features"], i.scores, k)),
    "scope .5 keys": (
        ScopeSelector(features="vision_keys", alpha=0.5),
        lambda i, k: greedy.scope(i["vision_keys"], i.scores, k, alpha=0.5),
    ),
    "scope coverage": (
        ScopeSelector(alpha=0),
        lambda i, k: greedy.scope(i["vision_features"], i.scores, k, alpha=0),
    ),
    "dedupe": (
        DedupeSelector(),
        lambda i, k: selections.dedupe(i["vision_features"], i.scores, k),
    ),
    "pivots": (PivotsSelector(), dart),
    "pivots 2+9": (
        PivotsSelector(image_pivots=2, text_pivots=9),
        lambda i, k: dart(i, k, own=2, words=9),
    ),
    "pivots 5+0": (
        PivotsSelector(image_pivots=5, text_pivots=0),
        lambda i, k: dart(i, k, own=5, words=0),
    ),
    "dilated": (DilatedSelector(share=1.0), lambda i, k: hiprune(i, k, 1.0)),
    "dilated .4": (DilatedSelector(share=0.4), lambda i, k: hiprune(i, k, 0.4)),
    "windowed": (WindowedSelector(), vscan),
    "windowed 2x3": (
        WindowedSelector(share=0.7, windows=(2, 3)),
        lambda i, k: by_windows(i, k, 0.7, 2, 3),
    ),
    "partitioned": (
        PartitionedSelector(parts=3),
        lambda i, k: by_parts(i, k, in_slices(i, 3), 3),
    ),
    "partitioned 16": (
        PartitionedSelector(),
        lambda i, k: by_parts(i, k, in_slices(i, 16), 16),
    ),
    "partitioned windows": (
        PartitionedSelector(parts=6, divide="windows"),
        lambda i, k: by_parts(i, k, in_windows(i, 2, 3), 6),
    ),
}
