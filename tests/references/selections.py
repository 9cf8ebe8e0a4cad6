"""Rules of the papers that pick tokens by rank, by pairs, by window or on the grid.

One image, float64 numpy, ``[tokens]`` or ``[tokens, dim]``; the greedy rules are in ``greedy``.
Wherever two values tie, the lower token index (or window number) wins. A count above the number of
tokens means all tokens. Vectors must not be zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from references.formulas import Array, above, cosine, outlier_limit, top_k


def best_first(scores: Array, tokens: Iterable[int]) -> list[int]:
    return sorted(tokens, key=lambda token: (-scores[token], token))


def without(tokens: int, taken: Sequence[int]) -> list[int]:
    return [token for token in range(tokens) if token not in taken]


def bottom_k(scores: Array, count: int) -> list[int]:
    """Indices of the ``count`` smallest, the smallest first."""
    order = sorted(range(len(scores)), key=lambda token: (scores[token], token))
    return order[:count]


def outliers(scores: Array, factor: float = 1.5) -> list[int]:
    """PruMerge: scores above ``Q3 + factor IQR``, at least the best one; ascending."""
    return above(scores, outlier_limit(scores, factor))


def outliers_with_grid(scores: Array) -> list[int]:
    """PruMerge+: the outliers and every ``step``-th token but the last; ascending.

    ``step = max(1, int(int(1 / r) / 3))`` with ``r`` the share of outliers. ``1 / r`` is the
    fraction ``tokens / outliers``, so whole numbers divide: no rounding (93 tokens, 1 outlier: 93).
    """
    found, tokens = outliers(scores), len(scores)
    step = max(1, tokens // len(found) // 3)
    return sorted({*found, *range(0, tokens - 1, step)})


def share_with_grid(scores: Array, ratio: int) -> list[int]:
    """PruMerge+ at a fixed ratio: one in ``ratio`` by score, and every ``ratio``-th token.

    ``range(ratio // 2, tokens - 1, ratio)``. The best by falling score, then what the grid adds;
    the release repeats a token that is in both.
    """
    found = best_first(scores, range(len(scores)))[: max(1, len(scores) // ratio)]
    grid = range(ratio // 2, len(scores) - 1, ratio)
    return [*found, *[token for token in grid if token not in found]]


def thinned(features: Array, residual: Sequence[int], count: int) -> list[int]:
    """VisPruner's loop over the residual list, which comes and goes as a list of tokens.

    Each round pairs even places with their most similar odd place, and drops up to 8 even places,
    the most similar first. The surviving even places come before the odd ones, in descending
    similarity, equal ones by place. A list of one token has no odd place: the token goes.
    """
    residual = list(residual)
    while len(residual) > count:
        dropped = min(8, len(residual) - count)
        even, odd = residual[0::2], residual[1::2]
        similarity = {
            token: max((cosine(features[token], features[other]) for other in odd), default=-1.0)
            for token in even
        }
        even.sort(key=lambda token: -similarity[token])  # stable: equal ones stay by place
        residual = even[dropped:] + odd
    return residual


def dedupe(features: Array, order_scores: Array, count: int) -> list[int]:
    """All tokens in descending score, thinned to ``count``; returned in the order of the list."""
    return thinned(features, best_first(order_scores, range(len(order_scores))), count)


def vispruner(scores: Array, features: Array, count: int, share: float) -> list[int]:
    """The ``int(count * share)`` best, then the rest of the count thinned from the others."""
    important = best_first(scores, top_k(scores, int(count * share)))
    others = best_first(scores, without(len(scores), important))
    return important + thinned(features, others, count - len(important))


def pivots(
    keys_l1: Array,
    text_l1: Array,
    hidden: Array,
    text_hidden: Array,
    count: int,
    image_pivots: int = 4,
    text_pivots: int = 4,
) -> list[int]:
    """DART: pivots by key norm, then for each the image tokens least like it; in that order.

    Image pivots take their turn before text pivots, each kind by descending norm. What the image
    pivots leave of ``count`` is shared evenly, the first pivots take one more for the remainder.
    Image pivots are kept, text pivots are not image tokens. Needs at least one pivot.
    """
    chosen = best_first(keys_l1, range(len(keys_l1)))[: min(image_pivots, count)]
    texts = best_first(text_l1, range(len(text_l1)))[:text_pivots]
    vectors = [hidden[token] for token in chosen] + [text_hidden[token] for token in texts]
    each, more = divmod(count - len(chosen), len(vectors))
    pool = without(len(keys_l1), chosen)
    kept = list(chosen)
    for turn, pivot in enumerate(vectors):
        similarity = {token: cosine(hidden[token], pivot) for token in pool}
        pool.sort(key=lambda token: (similarity[token], token))
        takes = each + 1 if turn < more else each
        kept, pool = kept + pool[:takes], pool[takes:]
    return kept


def dilated(
    anchor_scores: Array,
    fill_scores: Array,
    index: Sequence[int],
    columns: int,
    count: int,
    anchor_share: float,
) -> list[int]:
    """HiPrune: anchors and their four neighbours, then the best others up to ``count``.

    In that order: the first set ascending, the others best first.

    ``index`` is the ascending raster index of each token. The anchors are the
    ``round(count * anchor_share / 5)`` best (Python's rounding: halves go to the even number).
    Neighbours are index +-1 and +-``columns``, clamped to the first and last index present: the
    last of a row and the first of the next are neighbours, as released. A neighbour that is not
    present is ignored. Should these be more than ``count``, the lowest indices stay.
    """
    wanted = set()
    for anchor in top_k(anchor_scores, round(count * anchor_share / 5)):
        for step in (0, -1, 1, -columns, columns):
            wanted.add(min(max(index[anchor] + step, min(index)), max(index)))
    chosen = [token for token in range(len(index)) if index[token] in wanted][:count]
    others = best_first(fill_scores, without(len(index), chosen))
    return chosen + others[: count - len(chosen)]


def windowed(
    scores: Array,
    rows: Sequence[int],
    columns: Sequence[int],
    grid_rows: int,
    grid_columns: int,
    windows_down: int,
    windows_across: int,
    per_window: int,
) -> list[int]:
    """The ``per_window`` best of each window of the grid, window by window in raster order."""
    windows: dict[tuple[int, int], list[int]] = {}
    for token in range(len(scores)):
        down = rows[token] * windows_down // grid_rows
        across = columns[token] * windows_across // grid_columns
        windows.setdefault((down, across), []).append(token)
    best = [best_first(scores, windows[place])[:per_window] for place in sorted(windows)]
    return [token for window in best for token in window]


def vscan(
    local: Array,
    global_: Array,
    rows: Sequence[int],
    columns: Sequence[int],
    grid_rows: int,
    grid_columns: int,
    count: int,
    *,
    released: bool = False,
) -> list[int]:
    """VScan: half of the count spread over 4 x 4 windows, then the rest from anywhere.

    What the division by 16 leaves (and windows with too few tokens) goes to the global part, so
    exactly ``count`` tokens stay. As ``released`` the global part is ``count - int(count / 2)``.
    """
    per_window = int(count / 2) // 16
    near = windowed(local, rows, columns, grid_rows, grid_columns, 4, 4, per_window)
    far = best_first(global_, without(len(local), near))
    return near + far[: count - int(count / 2) if released else count - len(near)]


def holov_weight(attention: Array, features: Array) -> float:
    """Mean score of one window: attention plus the scaled variance of each token's cosines.

    The variance of a row runs over the whole window with the zeroed diagonal among its values, and
    divides by one less than their number; a window of one token has variance 0, an empty one
    weight 0. Both means that scale the variance are the window's own.
    """
    tokens = len(attention)
    if tokens == 0:
        return 0.0
    attended = [1e3 * float(value) for value in attention]
    variances = [0.0] * tokens
    for i in range(tokens if tokens > 1 else 0):
        row = [cosine(features[i], features[j]) if i != j else 0.0 for j in range(tokens)]
        mean = sum(row) / tokens
        variances[i] = sum((value - mean) ** 2 for value in row) / (tokens - 1)
    scale = sum(abs(value) for value in attended) / tokens
    spread = sum(abs(value) for value in variances) / tokens
    scores = [
        value + 0.09 * variance * scale / (spread + 1e-6)
        for value, variance in zip(attended, variances, strict=True)
    ]
    return sum(scores) / tokens


def holov_shares(
    weights: Sequence[float], sizes: Sequence[int], count: int, *, released: bool = False
) -> list[int]:
    """How many tokens each window keeps, ``count`` in all.

    ``floor(weight / total * count)``, and one more each for the heaviest windows until the count is
    reached. What exceeds a window's size then goes to the windows that still have room, one each
    and the heaviest first, round after round; as ``released`` it is lost (vectors of zeros, behind
    the others, take its place). Without any weight all is remainder.
    """
    heaviest = best_first(np.array(weights), range(len(weights)))
    total = sum(weights)
    shares = [math.floor(weight / total * count) if total > 0 else 0 for weight in weights]
    for place in range(count - sum(shares)):
        shares[heaviest[place % len(heaviest)]] += 1
    overflow = sum(max(0, share - size) for share, size in zip(shares, sizes, strict=True))
    shares = [min(share, size) for share, size in zip(shares, sizes, strict=True)]
    while overflow > 0 and not released:
        for window in heaviest:
            if overflow > 0 and shares[window] < sizes[window]:
                shares[window] += 1
                overflow -= 1
    return shares


def holov(
    attention: Array, features: Array, count: int, slices: int = 16, *, released: bool = False
) -> list[int]:
    """HoloV: the most attended tokens of each raster slice, in output order.

    Token ``i`` of ``n`` is in slice ``i * slices // n``, so slices differ by at most one token.
    Output goes slice by slice, by descending attention inside, but a slice that is kept whole stays
    in raster order.
    """
    tokens = len(attention)
    windows = [[i for i in range(tokens) if i * slices // tokens == part] for part in range(slices)]
    weights = [holov_weight(attention[window], features[window]) for window in windows]
    sizes = [len(window) for window in windows]
    shares = holov_shares(weights, sizes, min(count, tokens), released=released)
    kept: list[int] = []
    for window, share in zip(windows, shares, strict=True):
        kept += window if share >= len(window) else best_first(attention, window)[:share]
    return kept
