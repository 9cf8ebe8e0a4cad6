"""The published methods that work inside the decoder; see :mod:`references.published`."""

from __future__ import annotations

import numpy as np
import torch

from references import formulas, mergers, scores, selections
from references.formulas import Array
from references.forward import Score, State
from references.many import steady
from references.published import Stand, Standing


def hidden_change() -> Score:
    """V2Drop: how far the layer that just ran moved each token."""

    def score(state: State, columns: list[int], _image: int) -> Array:
        before, after = state.runs[state.boundary - 1].block
        return scores.hidden_change(before[columns], after[columns])

    return score


def dart(count: int) -> Stand:
    """Keys of the layer that just ran, hidden states after the decoder's final norm."""

    def stand(state: State, columns: list[int], _image: int) -> Standing:
        run = state.runs[state.boundary - 1]
        _, keys = state.decoder.queries_and_keys(state.boundary - 1, run.rows)
        sizes = np.abs(keys).sum(axis=(1, 2))
        hidden = state.decoder.language.norm(state.rows.hidden).double().numpy()
        text = state.rows.text_after_images()
        kept = steady(
            lambda *parts: sorted(selections.pivots(*parts, count)),
            sizes[columns],
            sizes[text],
            hidden[columns],
            hidden[text],
            noise=1e-7,
        )
        return Standing(state.rows.hidden[[columns[token] for token in kept]], kept)

    return stand


def raters(state: State, image: int) -> list[int]:
    """SparseVLM: the rows of today's text that rate this image, found on the decoder's inputs."""
    first = state.runs[0].rows
    embeddings = first.hidden.double().numpy()
    text = first.text_after_images()
    weights = scores.rater_weights(embeddings[first.columns(image)], embeddings[text])
    names = [first.names[row] for row, weight in zip(text, weights, strict=True) if weight]
    return [state.rows.names.index(name) for name in names]


def sparse_attention(heads: int | None = None, theta: float | None = None) -> Score:
    """Attention of the raters in the layer that just ran; with ``theta`` gravity is corrected."""

    def score(state: State, columns: list[int], image: int) -> Array:
        rows, asked = state.runs[state.boundary - 1].rows, raters(state, image)
        queries, keys = state.decoder.queries_and_keys(state.boundary - 1, rows)
        maps = np.zeros((queries.shape[1], len(asked), len(keys)))
        gravity = np.ones(maps.shape[1:])
        where = rows.positions.tolist()
        for place, row in enumerate(asked):
            seen = keys[: row + 1]
            maps[:, place, : row + 1] = formulas.attention_row(queries[row], seen)
            if theta is not None:
                gravity[place] = scores.gravity(where[row], where, queries.shape[2], theta)
        return scores.sparse_scores(
            maps, range(len(asked)), columns, heads, gravity if theta is not None else None
        )

    return score


def recycled(score: Score, count: int) -> Stand:
    """SparseVLM v1: the best stay, and behind them come clusters of the next best."""

    def stand(state: State, columns: list[int], image: int) -> Standing:
        values = score(state, columns, image)
        hidden = state.rows.hidden[columns].double().numpy()

        def pick(seen: Array, vectors: Array) -> list[int]:
            kept = formulas.top_k(seen, count)
            return kept + mergers.recycle(vectors, seen, kept)[0]

        anchors = steady(pick, values, hidden, noise=1e-7)
        _, merged = mergers.recycle(hidden, values, anchors[:count])
        both = np.concatenate([hidden[anchors[:count]], merged])
        return Standing(torch.from_numpy(both), anchors)

    return stand
