"""The published methods put together from the slow rules, to be compared with the presets.

Written from the papers and what is known of their released code, never from this project's
strategies. A method is a list of stages for :func:`references.forward.run`, or a way to rewrite the
sequence of an image (other vectors, another order) by means of :class:`Standing`. Here are those
that work in front of the decoder; the others are in :mod:`references.inside`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from references import formulas, greedy, many, mergers, scores, selections
from references.formulas import Array
from references.forward import Outcome, Rewrite, Rows, State
from references.many import coverage, dpp, max_min, steady, thinned
from references.vision import Encoded, Tower

# ------------------------------------------------------------------ the vision encoder


def layer_at(tower: Tower, depth: float | None) -> int:
    """The layer after which the share ``depth`` of all has run; None: the projector's.

    Of the layers that see the whole image the nearest, the deeper of two.
    """
    if depth is None:
        return tower.feeding
    wanted = depth * len(tower.layers) - 1
    return min(tower.whole, key=lambda layer: (abs(layer - wanted), -layer))


def looked_at(
    image: Encoded, depth: float | None = None, *, received: bool = False, joined: bool = False
) -> Array:
    """``[tokens]`` attention in one encoder layer: what the [CLS] pays, or what patches receive.

    Without a [CLS] always what they receive. Mean over heads (``joined``: all heads are one wide
    head), then over the patches of a token; every tile is an image of its own to the encoder.
    """
    parts = []
    for tower in image.tiles:
        queries, keys = tower.layers[layer_at(tower, depth)]
        if joined:
            queries, keys = (part.reshape(len(part), 1, -1) for part in (queries, keys))
        row = (
            formulas.attention_row(queries[0], keys)
            if tower.has_cls and not received
            else formulas.received_attention(queries, keys)
        )
        patches = row[:, int(tower.has_cls) :].mean(axis=0)
        parts += [patches[group].mean() for group in tower.groups]
    return np.array(parts)


def joined_keys(image: Encoded, depth: float) -> Array:
    """``[tokens, width]`` keys of all heads side by side, mean over the patches of a token."""
    parts = []
    for tower in image.tiles:
        keys = tower.layers[layer_at(tower, depth)][1][int(tower.has_cls) :]
        parts += [keys[group].mean(axis=0).reshape(-1) for group in tower.groups]
    return np.array(parts)


def projected(image: Encoded) -> Array:
    return image.features.double().numpy()


# ------------------------------------------------------------------ rewriting a sequence


@dataclass
class Standing:
    """What stands for an image from now on, in output order.

    ``anchors`` are the tokens at whose places the ``vectors`` stand; ``extra`` tells the last one
    to be a new token, which only borrows a place.
    """

    vectors: Tensor
    anchors: list[int]
    extra: bool = False


Stand = Callable[[State, list[int], int], Standing]
"""``stand(state, columns, image)`` -> what stands for the image."""


def rewritten(stand: Stand, *, reindex: bool) -> Rewrite:
    """A stage that replaces every image by what stands for it; text stays where it is."""

    def rewrite(state: State, outcome: Outcome) -> Rows:
        old, order, vectors, visual = state.rows, [], [], []
        for row, image in enumerate(old.image):
            columns = [] if image is None else old.columns(image)
            if image is None:
                order.append(row)
                vectors.append(old.hidden[row : row + 1])
                visual.append(None)
            elif row == columns[0]:
                standing = stand(state, columns, image)
                order += [columns[anchor] for anchor in standing.anchors]
                vectors.append(standing.vectors)
                visual += [old.visual[columns[anchor]] for anchor in standing.anchors]
                if standing.extra:
                    visual[-1] = -1
        rows = old.only(order)
        rows.hidden, rows.visual = torch.cat(vectors), visual
        if reindex:
            rows.positions = torch.arange(len(order))
        outcome.kept.append(sorted(token for token in visual if token is not None and token >= 0))
        outcome.scores.append([])
        outcome.margins.append(float("inf"))
        return rows

    return rewrite


def chosen(pick: Callable[[int], list[int]]) -> Stand:
    """Tokens as they are: image ``n`` keeps ``pick(n)``, in that order."""

    def stand(state: State, columns: list[int], image: int) -> Standing:
        kept = pick(image)
        return Standing(state.rows.hidden[[columns[token] for token in kept]], kept)

    return stand


# ------------------------------------------------------------------ before the decoder


def fastervlm(image: Encoded, count: int, *, noise: float = 1e-9) -> list[int]:
    return steady(lambda seen: formulas.top_k(seen, count), looked_at(image), noise=noise)


def vispruner(image: Encoded, count: int) -> list[int]:
    def pick(seen: Array, inner: Array) -> list[int]:
        ranked, important = selections.best_first(seen, range(len(seen))), int(count * 0.5)
        rest = thinned(inner, ranked[important:], count - important)
        return sorted(ranked[:important] + rest)

    return steady(pick, looked_at(image), image.inner)


def hiprune(image: Encoded, count: int, *, noise: float = 1e-9) -> list[int]:
    """Anchors of a middle layer, their neighbours in the picture, registers of a deep layer."""
    columns = max(column for _, column in image.tiles[0].grid) + 1

    def pick(middle: Array, deep: Array) -> list[int]:
        return sorted(selections.dilated(middle, deep, range(len(deep)), columns, count, 0.1))

    middle, deep = (looked_at(image, depth, received=True) for depth in (0.375, None))
    return steady(pick, middle, deep, noise=noise)


def holov(image: Encoded, count: int, *, noise: float = 1e-9) -> list[int]:
    """In output order."""
    features = projected(image)
    return steady(
        lambda seen: selections.holov(seen, features, count), looked_at(image), noise=noise
    )


def vscan(image: Encoded, count: int, *, released: bool = False, noise: float = 1e-9) -> list[int]:
    """Windows of all tiles lie on top of each other."""
    rows, columns = zip(*(place for tower in image.tiles for place in tower.grid), strict=True)

    def pick(near: Array, far: Array) -> list[int]:
        size = max(rows) + 1, max(columns) + 1
        kept = selections.vscan(near, far, rows, columns, *size, count, released=released)
        return sorted(kept)

    return steady(pick, looked_at(image, 0.25), looked_at(image), noise=noise)


def absorbed(pick: Callable[[int], list[int]]) -> Stand:
    """VScan: after the projector, dropped tokens join the kept ones."""

    def stand(state: State, columns: list[int], image: int) -> Standing:
        kept = pick(image)
        merged = mergers.absorb(state.rows.hidden[columns].double().numpy(), kept)
        return Standing(torch.from_numpy(merged), kept)

    return stand


def prumerge(
    images: Sequence[Encoded], *, plus: bool = False, ratio: int = 0, noise: float = 1e-9
) -> Stand:
    """The outliers, most attended first (then the grid), and one token for all the others.

    With a ``ratio`` one in so many instead of the outliers.

    The extra token borrows the place of the first token that is dropped.
    """

    def pick(seen: Array) -> list[int]:
        if ratio:
            return selections.share_with_grid(seen, ratio)
        found = selections.best_first(seen, selections.outliers(seen))
        grid = selections.outliers_with_grid(seen) if plus else []
        return found + [token for token in grid if token not in found]

    def stand(state: State, _columns: list[int], image: int) -> Standing:
        encoded = images[image]
        seen = looked_at(encoded, 1.0, joined=True)
        kept = steady(pick, seen, noise=noise)
        vectors, extra = mergers.knn_weighted(encoded.inner, joined_keys(encoded, 1.0), seen, kept)
        place = mergers.not_in(kept, len(seen))[0]
        both = encoded.project(np.concatenate([vectors, extra[None]]))
        return Standing(both.to(state.rows.hidden.dtype), [*kept, place], extra=True)

    return stand


def scope(image: Encoded, count: int) -> list[int]:
    """The projector's input, and the attention of the [CLS] summed over heads (here their mean)."""
    return sorted(steady(lambda f, s: many.scope(f, s, count), image.inner, looked_at(image)))


def divprune(image: Encoded, count: int) -> list[int]:
    return sorted(steady(lambda tokens: max_min(tokens, count), projected(image)))


def cdpruner(image: Encoded, words: Array, count: int) -> list[int]:
    """``words`` are the decoder's embeddings of the question."""
    tokens = projected(image)
    relevance = scores.relevance(tokens, words)
    return sorted(steady(lambda t, r: dpp(t, greedy.minmax_quality(r), count), tokens, relevance))


def mmtok(image: Encoded, words: Array, count: int) -> list[int]:
    rows = greedy.mmtok_rows(words, projected(image), image.inner)
    return sorted(steady(lambda table: coverage(table, count), rows))
