"""Scores of visual tokens as the papers define them, one image at a time, in float64 numpy.

Companion of :mod:`references.formulas`, in the same manner: written from the papers and as slow as
it likes. A tie always goes to the lowest index.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from references.formulas import (
    Array,
    attention_row,
    cosine,
    length,
    received_attention,
    rotate,
    softmax,
    top_k,
)


def rater_weights(image_embeddings: Array, text_embeddings: Array) -> Array:
    """SparseVLM's raters: 1 for a text token that draws more than the average share, else 0.

    Each image token spreads its unscaled dot products over the text by a softmax; a text token's
    share is the mean over the image tokens. Strictly more: where all shares are equal (one text
    token, say) there is no rater at all.
    """
    shares = np.zeros(len(text_embeddings))
    for visual in image_embeddings:
        shares += softmax(text_embeddings @ visual)
    shares /= len(image_embeddings)
    return np.array([float(share > shares.mean()) for share in shares])


def gravity(
    query_position: int, key_positions: Sequence[int], head_dim: int, theta: float = 10000.0
) -> Array:
    """What RoPE alone says of one query's keys (SparseVLM v2), one number per key position.

    The scaled dot product of an all-ones query and an all-ones key, both rotated to their places.
    """

    def ones_at(position: int) -> Array:
        frequencies = [theta ** (-2 * pair / head_dim) for pair in range(head_dim // 2)]
        angles = np.array([position * frequency for frequency in frequencies * 2])
        return rotate(np.ones(head_dim), np.cos(angles), np.sin(angles))

    query = ones_at(query_position)
    return np.array(
        [float(query @ ones_at(position)) / math.sqrt(head_dim) for position in key_positions]
    )


def sparse_scores(
    attention: Array,
    rows: Sequence[int],
    columns: Sequence[int],
    heads: int | None = None,
    correction: Array | None = None,
) -> Array:
    """SparseVLM: mean over heads and rater ``rows`` of the attention to ``columns``.

    ``attention`` ``[heads, rows, keys]`` is softmaxed over all keys, so the columns need not sum to
    1. ``correction`` ``[rows, keys]`` (the gravity, in v2) divides every map. With ``heads`` only
    that many heads count: those with the most mass, *after* the division, on rows x columns.
    """
    maps = []
    for head in attention:
        part = head[list(rows)][:, list(columns)]
        if correction is not None:
            part = part / correction[list(rows)][:, list(columns)]
        maps.append(part)
    if heads is not None:
        masses = np.array([part.sum() for part in maps])
        maps = [maps[head] for head in top_k(masses, heads)]
    total = np.zeros(len(columns))
    for part in maps:
        for row in part:
            total += row
    return total / (len(maps) * len(rows))


def hidden_change(before: Array, after: Array) -> Array:
    """V2Drop: how far one decoder layer moved each token of the residual stream (L2)."""
    return np.array([length(new - old) for old, new in zip(before, after, strict=True)])


def joint_cls_attention(queries: Array, keys: Array) -> Array:
    """PruMerge: what the [CLS] (row 0) pays to each patch when all heads are one wide head.

    ``queries`` and ``keys`` are ``[1 + patches, width]``; the softmax includes the [CLS] itself.
    """
    return attention_row(queries[:1], keys[:, None])[0, 1:]


def received_with_cls(queries: Array, keys: Array) -> Array:
    """HiPrune: mean attention that each patch receives from everyone, the [CLS] (row 0) included.

    ``queries`` and ``keys`` are ``[1 + patches, heads, head dim]``. The [CLS] has its share in the
    softmax as a key too, but gets no score.
    """
    received: Array = received_attention(queries, keys).mean(axis=0)
    return received[1:]


def relevance(tokens: Array, text: Array) -> Array:
    """CDPruner without CLIP's text tower: mean cosine (positive) to the text's embeddings."""
    return np.array([sum(cosine(token, word) for word in text) / len(text) for token in tokens])


def clip_relevance_quality(cosines: Array) -> Array:
    """CDPruner: the *negative* cosine of patch and question, brought to 0..1 within one image.

    Undefined where all cosines are equal.
    """
    lowest, highest = min(-cosines), max(-cosines)
    return np.array([(-value - lowest + 1e-6) / (highest - lowest) for value in cosines])
