"""A slow forward of one sample: the Hugging Face decoder's own layers, called one by one.

The sequence is explicitly shortened at each stage, positions are written out, there is no cache, no
padding and no batch. Scores come from :mod:`references.formulas`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from references import formulas
from references.formulas import Array

SEPARATOR = -1


@dataclass
class Rows:
    """A sequence. Per row: ``image`` number (or None), ``visual`` index among the sample's
    original visual tokens (or None; -1 for an extra vector), and a ``name`` that never changes.
    What stands between the tokens of an image has ``SEPARATOR`` for its image."""

    hidden: Tensor
    positions: Tensor
    image: list[int | None]
    visual: list[int | None]
    names: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.names = self.names or list(range(len(self.image)))

    def columns(self, image: int) -> list[int]:
        return [row for row, owner in enumerate(self.image) if owner == image]

    def text_after_images(self) -> list[int]:
        """Rows after the last visual token; the last row if there are none."""
        last = max(row for row, owner in enumerate(self.image) if owner is not None)
        return list(range(last + 1, len(self.image))) or [len(self.image) - 1]

    def all_text(self) -> list[int]:
        return [row for row, owner in enumerate(self.image) if owner is None]

    def only(self, rows: list[int]) -> Rows:
        return Rows(
            self.hidden[rows],
            self.positions[..., rows],
            [self.image[row] for row in rows],
            [self.visual[row] for row in rows],
            [self.names[row] for row in rows],
        )


@dataclass
class LayerRun:
    """Everything one decoder layer did, for the rows that were alive then."""

    rows: Rows
    attention: tuple[Array, Array]
    mlp: tuple[Array, Array]
    block: tuple[Array, Array]


class SlowDecoder:
    """The decoder of ``model``, one layer at a time on one unpadded sequence."""

    def __init__(self, model: Any) -> None:
        self.language = model.model.language_model
        self.head = model.lm_head

    def rope(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """``[1, rows, head dim]`` cos and sin; positions ``[rows]``, or ``[3, rows]`` (M-RoPE)."""
        like = self.language.embed_tokens.weight
        cos, sin = self.language.rotary_emb(like, positions.unsqueeze(-2))
        return cos, sin

    def run_layer(self, number: int, rows: Rows) -> tuple[Tensor, LayerRun]:
        """The output of decoder layer ``number`` (0-based) on ``rows``."""
        layer = self.language.layers[number]
        count = len(rows.names)
        mask = torch.full((count, count), float("-inf"), dtype=rows.hidden.dtype).triu(1)
        entering = rows.hidden[None]
        normed = layer.input_layernorm(entering)
        attended, _ = layer.self_attn(
            normed, position_embeddings=self.rope(rows.positions), attention_mask=mask[None, None]
        )
        middle = entering + attended
        middle_normed = layer.post_attention_layernorm(middle)
        fed = layer.mlp(middle_normed)
        leaving = middle + fed

        def pair(before: Tensor, after: Tensor) -> tuple[Array, Array]:
            return before[0].double().numpy(), after[0].double().numpy()

        run = LayerRun(
            rows, pair(normed, attended), pair(middle_normed, fed), pair(entering, leaving)
        )
        return leaving[0], run

    def queries_and_keys(self, number: int, rows: Rows) -> tuple[Array, Array]:
        """Rotated queries ``[rows, heads, dim]`` and keys ``[rows, key heads, dim]`` of a layer."""
        layer = self.language.layers[number]
        normed = layer.input_layernorm(rows.hidden)
        cos, sin = (part[0].double().numpy() for part in self.rope(rows.positions))
        dim = layer.self_attn.head_dim
        return tuple(  # type: ignore[return-value]
            formulas.rotate_all(
                project(normed).reshape(len(rows.names), -1, dim).double().numpy(), cos, sin
            )
            for project in (layer.self_attn.q_proj, layer.self_attn.k_proj)
        )

    def logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.head(self.language.norm(hidden))
        return logits


@dataclass
class State:
    """What a score may use at a boundary: ``runs[l]`` is what layer ``l`` did."""

    decoder: SlowDecoder
    boundary: int
    rows: Rows
    runs: list[LayerRun]


Score = Callable[[State, list[int], int], Array]
"""``score(state, columns, image)`` -> one score per column of the image."""


def ttv(variant: str = "code", first: int = 0) -> Score:
    """TTV of layers ``first`` (0-based) to the boundary, summed for the tokens alive today."""

    def score(state: State, columns: list[int], _image: int) -> Array:
        total = np.zeros(len(columns))
        for run in state.runs[first : state.boundary]:
            if variant == "block":
                values = formulas.ttv_of_block(*run.block)
            else:
                values = formulas.ttv_of_module(*run.attention, variant)
                values = values + formulas.ttv_of_module(*run.mlp, variant)
            by_name = dict(zip(run.rows.names, values, strict=True))
            total += [by_name[state.rows.names[column]] for column in columns]
        return total

    return score


def iga(which: str = "after-image-text") -> Score:
    """Attention of the text after the image in the layer *about to run*, at today's positions.

    ``last``: of the last prompt token alone, as PyramidDrop has it.
    """

    def score(state: State, columns: list[int], _image: int) -> Array:
        queries, keys = state.decoder.queries_and_keys(state.boundary, state.rows)
        last = [len(state.rows.names) - 1]
        rows = last if which == "last" else state.rows.text_after_images()
        return formulas.causal_attention(queries, keys, rows, columns)

    return score


def attention(which: str = "last") -> Score:
    """Attention in the layer that ran *just before* the boundary, over the rows it ran on."""

    def score(state: State, columns: list[int], _image: int) -> Array:
        run = state.runs[state.boundary - 1]
        queries, keys = state.decoder.queries_and_keys(state.boundary - 1, run.rows)
        rows = {
            "last": [len(run.rows.names) - 1],
            "after-image-text": run.rows.text_after_images(),
            "all-text": run.rows.all_text(),
        }[which]
        then = [run.rows.names.index(state.rows.names[column]) for column in columns]
        return formulas.causal_attention(queries, keys, rows, then)

    return score


def fixed(per_image: Sequence[Array]) -> Score:
    """Scores known before the decoder runs, by original token of each image (boundary 0)."""
    return lambda _state, _columns, image: per_image[image]


def normalised_sum(*scores: Score) -> Score:
    """Each score L1-normalised over the image's tokens, then added."""

    def score(state: State, columns: list[int], image: int) -> Array:
        return np.sum([formulas.normalised(s(state, columns, image)) for s in scores], axis=0)

    return score


Choose = Callable[[Array, int], list[int]]
"""``choose(scores, image)`` -> ascending indices into the scores."""


def best(*counts: int) -> Choose:
    """Top ``counts[image]`` of each image; one count serves all images."""
    return lambda scores, image: formulas.top_k(scores, counts[image if len(counts) > 1 else 0])


@dataclass
class Outcome:
    """``kept`` and ``scores`` per stage; ``logits`` ``[rows, vocabulary]``; ``runs`` per layer."""

    kept: list[list[int]]
    scores: list[list[Array]]
    logits: Tensor
    margins: list[float]
    runs: list[LayerRun] = field(default_factory=list)


Rewrite = Callable[[State, Outcome], Rows]
"""A stage that makes the new sequence itself: other vectors, another order."""


def run(
    model: Any,
    rows: Rows,
    stages: Sequence[tuple[int, Score, Choose] | tuple[int, Rewrite]],
    reindex: bool,
) -> Outcome:
    """Run the decoder on one sample, shortening the sequence at each stage's boundary."""
    decoder = SlowDecoder(model)
    runs: list[LayerRun] = []
    outcome = Outcome([], [], torch.empty(0), [], runs)
    depth = len(decoder.language.layers)
    for number in range(depth + 1):
        for stage in stages:
            if stage[0] != number:
                continue
            state = State(decoder, number, rows, runs)
            if len(stage) == 2:
                rows = stage[1](state, outcome)
            else:
                rows = _shorten(state, stage[1], stage[2], outcome, reindex)
        if number == depth:
            break
        leaving, layer_run = decoder.run_layer(number, rows)
        runs.append(layer_run)
        rows = Rows(leaving, rows.positions, rows.image, rows.visual, rows.names)
    outcome.logits = decoder.logits(rows.hidden)
    return outcome


def _shorten(state: State, score: Score, choose: Choose, outcome: Outcome, reindex: bool) -> Rows:
    rows = state.rows
    alive = [row for row, owner in enumerate(rows.image) if owner in (None, SEPARATOR)]
    all_scores = []
    for image in sorted({owner for owner in rows.image if owner not in (None, SEPARATOR)}):
        columns = rows.columns(image)
        values = score(state, columns, image)
        chosen = choose(values, image)
        alive += [columns[choice] for choice in chosen]
        all_scores.append(values)
        if values.ndim == 1:
            outcome.margins.append(_margin(values, chosen))
    shorter = rows.only(sorted(alive))
    if reindex:
        shorter.positions = torch.arange(len(alive))
    outcome.kept.append(sorted(v for v in shorter.visual if v is not None and v >= 0))
    outcome.scores.append(all_scores)
    return shorter


def _margin(scores: Array, chosen: list[int]) -> float:
    """Relative gap between the worst kept and the best dropped token: how safe is the choice."""
    dropped = [scores[token] for token in range(len(scores)) if token not in chosen]
    if not dropped:
        return float("inf")
    worst, best_dropped = min(scores[token] for token in chosen), max(dropped)
    return float((worst - best_dropped) / (abs(worst) + abs(best_dropped)))
