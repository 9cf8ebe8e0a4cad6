"""Every scorer gives the numbers of the slow references, on tiny models and as part of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from references import scores as formulas
from references.batches import batch_of, padded, view_of, width_of
from references.compare import Both, model_of, run_ours, run_theirs
from references.formulas import Array, attention_row
from references.formulas import cosine as cosine_of
from references.forward import Score, State, best, fixed
from references.vision import Encoded
from tiny_models import Prompt

from tokensieve.strategies.raters import raters
from tokensieve.strategies.scorers.hidden_change import HiddenChangeScorer
from tokensieve.strategies.scorers.iga import IgaScorer
from tokensieve.strategies.scorers.relevance import RelevanceScorer

PROMPTS = [Prompt(4, (1,), 7, seed=1), Prompt(2, (1, 1), 9, seed=2)]
"""One image, and two images in one sample; text of different lengths."""

WORDY = [Prompt(4, (1,), 14, seed=3), Prompt(2, (1, 1), 17, seed=103)]
"""The survivors of an image would choose other raters than all of its tokens."""

LLAVAS = ["llava", "llava-gqa"]
GRAVITY = 2e-5  # the models turn by angles in float32

Stage = tuple[int, Score, Callable[[Array, int], list[int]]]


def compared(
    source: dict[str, Any],
    stages: Callable[[Sequence[Encoded]], list[Stage]],
    family: str = "llava",
    prompts: Sequence[Prompt] = PROMPTS,
) -> Both:
    """A batch through tokensieve, each sample alone through the references."""
    model = model_of(family)
    both = run_ours(model, tiny_models.inputs("llava", prompts), source)
    reindex = source.get("positions") == "reindex"
    both.expected = [
        run_theirs(model, tiny_models.inputs("llava", [one]), stages, reindex=reindex)
        for one in prompts
    ]
    return both


def cuts(at: Sequence[int], keep: Sequence[int], score: Any, **more: Any) -> dict[str, Any]:
    return {"stages": [{"at": list(at), "keep": list(keep), "score": score}], **more}


# --- attention of text ----------------------------------------------------------------------------


def input_vectors(state: State, names: Sequence[int]) -> Array:
    first = state.runs[0].rows
    rows = [first.names.index(name) for name in names]
    return np.asarray(first.hidden[rows].double().numpy())


def rater_rows(state: State, image: int, asked_at: int) -> list[int]:
    """Names of the rows that rate, chosen when boundary ``asked_at`` was reached."""
    alive = state.runs[asked_at - 1].rows
    text = [alive.names[row] for row in alive.text_after_images()]
    tokens = [alive.names[row] for row in alive.columns(image)]
    weights = formulas.rater_weights(input_vectors(state, tokens), input_vectors(state, text))
    chosen = [name for name, weight in zip(text, weights, strict=True) if weight]
    return chosen or [alive.names[-1]]


def text_attention(
    which: str,
    rows: str = "raters",
    heads: int | None = None,
    gravity: bool = False,
    asked_at: int = 1,
) -> Score:
    """Attention in the ``previous`` or ``next`` layer, by :func:`references.scores.sparse_scores`.

    ``asked_at`` is the boundary at which the raters were chosen.
    """

    def score(state: State, columns: list[int], image: int) -> Array:
        layer = state.boundary - (which == "previous")
        then = state.runs[layer].rows if which == "previous" else state.rows
        queries, keys = state.decoder.queries_and_keys(layer, then)
        asking = {
            "last": lambda: then.names[-1:],
            "after-image-text": lambda: [then.names[row] for row in then.text_after_images()],
            "all-text": lambda: [then.names[row] for row in then.all_text()],
            "raters": lambda: rater_rows(state, image, asked_at),
        }[rows]()
        full = np.zeros((queries.shape[1], len(then.names), len(then.names)))
        pulls = np.ones(full.shape[1:])
        positions = then.positions.tolist()
        for row in range(len(positions)):
            full[:, row, : row + 1] = attention_row(queries[row], keys[: row + 1])
            if gravity:
                pulls[row] = formulas.gravity(positions[row], positions, queries.shape[2])
        return formulas.sparse_scores(
            full,
            [then.names.index(name) for name in asking],
            [then.names.index(state.rows.names[column]) for column in columns],
            heads,
            pulls if gravity else None,
        )

    return score


@pytest.mark.parametrize("family", LLAVAS)
@pytest.mark.parametrize("positions", ["keep", "reindex"])
def test_raters_are_chosen_once_and_remembered(family: str, positions: str) -> None:
    """At the second and third boundary fewer tokens are there; the raters are still the first."""
    source = cuts([1, 3, 4], [9, 5, 3], {"scorer": "attention", "rows": "raters"})
    source["positions"] = positions
    stages: list[Stage] = [
        (at, text_attention("previous"), best(count)) for at, count in ((1, 9), (3, 5), (4, 3))
    ]
    both = compared(source, lambda _: stages, family, WORDY)
    both.assert_same_scores()
    both.assert_same_tokens()
    both.assert_same_logits()


def test_raters_would_be_others_at_a_later_boundary() -> None:
    """Otherwise the test above would not see whether they are remembered."""
    seen: list[list[list[int]]] = [[], []]

    def spy(state: State, columns: list[int], image: int) -> Array:
        if state.boundary == 3:
            seen[0].append(rater_rows(state, image, 1))
            seen[1].append(rater_rows(state, image, 3))
        return text_attention("previous")(state, columns, image)

    inputs = [tiny_models.inputs("llava", [prompt]) for prompt in WORDY]
    stages: list[Stage] = [(at, spy, best(count)) for at, count in ((1, 9), (3, 5))]
    for one in inputs:
        run_theirs(model_of("llava"), one, lambda _: stages, reindex=False)
    assert len(seen[0]) == 3
    assert all(early != late for early, late in zip(*seen, strict=True))


def test_raters_are_chosen_at_the_first_boundary_that_asks() -> None:
    """Tokens that were gone by then have no say."""
    source = {
        "stages": [
            {"at": 1, "keep": 9, "score": "attention"},
            {"at": [2, 4], "keep": [6, 3], "score": {"scorer": "attention", "rows": "raters"}},
        ]
    }
    late = text_attention("previous", asked_at=2)
    stages: list[Stage] = [
        (1, text_attention("previous", "last"), best(9)),
        (2, late, best(6)),
        (4, late, best(3)),
    ]
    both = compared(source, lambda _: stages, prompts=WORDY)
    both.assert_same_scores()
    both.assert_same_tokens()


@pytest.mark.parametrize("rows", ["last", "after-image-text", "all-text", "raters"])
@pytest.mark.parametrize("scorer", ["attention", "iga"])
def test_rows_that_ask(scorer: str, rows: str) -> None:
    which = "previous" if scorer == "attention" else "next"
    stages: list[Stage] = [(2, text_attention(which, rows, asked_at=2), best(5))]
    source = cuts([2], [5], {"scorer": scorer, "rows": rows})
    both = compared(source, lambda _: stages, "llava-gqa")
    both.assert_same_scores()
    both.assert_same_tokens()


def test_a_lone_word_asks_without_raters() -> None:
    stages: list[Stage] = [(2, text_attention("previous", asked_at=2), best(5))]
    source = cuts([2], [5], {"scorer": "attention", "rows": "raters"})
    lone = Prompt(4, (1,), 1, seed=5)
    for prompts in ([lone], [lone, PROMPTS[1]]):
        compared(source, lambda _: stages, prompts=prompts).assert_same_scores()


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("gravity", [False, True])
@pytest.mark.parametrize("scorer", ["attention", "iga"])
def test_gravity_and_top_heads(scorer: str, gravity: bool, share: float) -> None:
    """Divide, rank the heads by what is left, average; positions with gaps, from two layers."""
    which = "previous" if scorer == "attention" else "next"
    score = {"scorer": scorer, "rows": "raters", "gravity": gravity, "top_heads": share}
    reference = text_attention(which, heads=int(share * 4), gravity=gravity)
    stages: list[Stage] = [(at, reference, best(count)) for at, count in ((1, 12), (3, 7))]
    both = compared(cuts([1, 3], [12, 7], score), lambda _: stages, "llava-gqa")
    both.assert_same_scores(GRAVITY if gravity else 1e-6)
    both.assert_same_tokens()


def test_the_strongest_head_can_be_taken() -> None:
    def strongest(state: State, columns: list[int], image: int) -> Array:
        run = state.runs[state.boundary - 1].rows
        queries, keys = state.decoder.queries_and_keys(state.boundary - 1, run)
        probabilities = attention_row(queries[-1], keys)
        names = [run.names.index(state.rows.names[column]) for column in columns]
        return np.asarray(probabilities[:, names].max(axis=0))

    source = cuts([2], [5], {"scorer": "attention", "heads": "max"})
    both = compared(source, lambda _: [(2, strongest, best(5))])
    both.assert_same_scores()


class Received:
    """Attention of one row, ``[batch, heads, tokens]`` with garbage in the padding."""

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values

    def received(self, rows: str, *, gravity: bool = False) -> torch.Tensor:
        assert rows == "last" and not gravity
        return self.values


@pytest.mark.parametrize("share", [0.1, 0.5, 0.6])
def test_the_heads_of_each_image_are_ranked_by_its_own_tokens(share: float) -> None:
    images = batch_of(4)
    parts = [np.abs(image["vision_keys"][:, :5]) for image in images]
    values = padded(parts, width_of(images)).abs().transpose(1, 2)
    view = view_of(images, more={"next_attention": Received(values)})
    ours = IgaScorer(rows="last", top_heads=share).score(view)
    for row, part in zip(ours, parts, strict=True):
        count = max(1, int(share * 5))
        theirs = formulas.sparse_scores(part.T[:, None], [0], range(len(part)), count)
        np.testing.assert_allclose(row[: len(part)], theirs, rtol=1e-12)


# --- raters of views made by hand -----------------------------------------------------------------


def test_raters_of_images_with_padding() -> None:
    images = batch_of(1)
    chosen = raters(view_of(images))
    for row, image in zip(chosen, images, strict=True):
        theirs = formulas.rater_weights(image["embeddings"], image.asked("embeddings"))
        assert row.tolist() == [0, 0, *theirs, 0]


def test_nobody_rates_where_all_words_are_the_same() -> None:
    image = batch_of(2, (8,))[0]
    image.words["embeddings"][2:] = image.words["embeddings"][2]
    assert not raters(view_of([image])).any()


# --- attention inside the encoder -----------------------------------------------------------------


def clip_layer(model: Any, pixels: torch.Tensor, number: int) -> tuple[Array, Array]:
    """Queries and keys ``[1 + patches, heads, head dim]`` of an encoder layer; row 0 is [CLS]."""
    tower = model.model.vision_tower
    hidden = tower.pre_layrnorm(tower.embeddings(pixels[None]))
    for layer in tower.encoder.layers[:number]:
        hidden = layer(hidden, attention_mask=None)
    attention = tower.encoder.layers[number].self_attn
    normed = tower.encoder.layers[number].layer_norm1(hidden)[0]
    queries, keys = (
        project(normed).reshape(normed.shape[0], attention.num_heads, -1).double().numpy()
        for project in (attention.q_proj, attention.k_proj)
    )
    return queries, keys


def joined(queries: Array, keys: Array) -> Array:
    return formulas.joint_cls_attention(*(s.reshape(len(s), -1) for s in (queries, keys)))


def cls_summed(queries: Array, keys: Array) -> Array:
    return np.asarray(attention_row(queries[0], keys)[:, 1:].sum(axis=0))


ENCODER: dict[str, tuple[dict[str, Any], Callable[..., Array]]] = {
    "cls": ({"scorer": "cls-attention"}, cls_summed),
    "joined": ({"scorer": "cls-attention", "joined": True}, joined),
    "received": ({"scorer": "received-attention"}, formulas.received_with_cls),
}


def always(stages: list[Stage]) -> Callable[[object], list[Stage]]:
    return lambda _images: stages


@pytest.mark.parametrize(("depth", "number"), [(None, 1), (0.3, 0), (0.6, 1), (1.0, 2)])
@pytest.mark.parametrize("kind", ENCODER)
def test_attention_inside_the_encoder(kind: str, depth: float | None, number: int) -> None:
    """Of the layer that feeds the projector (the second of three), or of another one."""
    score, reference = ENCODER[kind]
    model = model_of("llava")
    score = score if depth is None else {**score, "depth": depth}
    both = run_ours(model, tiny_models.inputs("llava", PROMPTS), cuts([0], [6], score))
    for prompt in PROMPTS:
        inputs = tiny_models.inputs("llava", [prompt])
        with torch.no_grad():
            layers = [clip_layer(model, image, number) for image in inputs["pixel_values"]]
        stages: list[Stage] = [(0, fixed([reference(*layer) for layer in layers]), best(6))]
        both.expected.append(run_theirs(model, inputs, always(stages), reindex=False))
    both.assert_same_scores()
    both.assert_same_tokens()


def test_hiprune_and_prumerge_scores_differ_from_the_plain_ones() -> None:
    with torch.no_grad():
        pixels = tiny_models.inputs("llava", PROMPTS[:1])["pixel_values"][0]
        layer = clip_layer(model_of("llava"), pixels, 1)
    values = [reference(*layer) for _, reference in ENCODER.values()]
    assert not np.allclose(values[0] / 4, values[1], rtol=0.01)
    assert not np.allclose(values[0] / 4, values[2], rtol=0.01)


# --- hidden states and embeddings -----------------------------------------------------------------


def test_hidden_change() -> None:
    def score(state: State, columns: list[int], _image: int) -> Array:
        run = state.runs[state.boundary - 1]
        rows = [run.rows.names.index(state.rows.names[column]) for column in columns]
        return formulas.hidden_change(run.block[0][rows], run.block[1][rows])

    stages: list[Stage] = [(at, score, best(count)) for at, count in ((2, 8), (4, 3))]
    both = compared(cuts([2, 4], [8, 3], "hidden-change"), lambda _: stages)
    both.assert_same_scores()
    both.assert_same_tokens()


def test_hidden_change_by_direction() -> None:
    images = batch_of(2)
    before = padded([image["vision_keys"] for image in images], width_of(images))
    view = view_of(images, more={"previous_hidden": before})
    ours = HiddenChangeScorer(distance="cosine").score(view)
    for row, image in zip(ours, images, strict=True):
        pairs = zip(image["hidden"], image["vision_keys"], strict=True)
        theirs = [1 - cosine_of(one, other) for one, other in pairs]
        np.testing.assert_allclose(row[: len(theirs)], theirs, rtol=1e-9)


def test_relevance_of_embeddings() -> None:
    """At a later boundary too, of what entered the decoder."""

    def score(state: State, columns: list[int], _image: int) -> Array:
        text = [state.rows.names[row] for row in state.rows.text_after_images()]
        tokens = [state.rows.names[column] for column in columns]
        return formulas.relevance(input_vectors(state, tokens), input_vectors(state, text))

    stages: list[Stage] = [(at, score, best(count)) for at, count in ((1, 8), (4, 3))]
    both = compared(cuts([1, 4], [8, 3], "relevance"), lambda _: stages)
    both.assert_same_scores()
    both.assert_same_tokens()
    assert any("no CLIP text tower" in note for note in both.trace.notes)


@pytest.mark.parametrize("clip", [True, False])
def test_relevance_with_a_text_tower(clip: bool) -> None:
    """The polarity of CLIP is inverted; its min-max quality is that of CDPruner."""
    images = batch_of(3)
    cosines = [np.tanh(image["vision_keys"][:, 0]) for image in images]
    view = view_of(images, more={"clip_relevance": padded(cosines, width_of(images))})
    ours = RelevanceScorer(clip=clip).score(view)
    assert not view.notes
    for row, image, cosine in zip(ours, images, cosines, strict=True):
        text = formulas.relevance(image["embeddings"], image.asked("embeddings"))
        np.testing.assert_allclose(row[: len(cosine)], -cosine if clip else text, rtol=1e-9)
