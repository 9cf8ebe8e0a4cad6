"""A cut behind the last layer: fewer tokens are returned, the answer is the one without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Call
from timm_models import DEPTH, PATCHES, pictures
from timm_models import build as build_vit
from tiny_models import DEFAULT_IMAGES, FAMILIES, SPECIAL, Prompt, build, continuing, inputs

import tokensieve
from tokensieve.core.errors import AttachError, GuardError, UnsupportedError

LAYERS = 6
BEHIND = "boundary 6 is behind the last decoder layer"
SCORES: dict[str, Any] = {
    "attention of raters": {"scorer": "attention", "rows": "raters"},
    "transitions": {"scorer": "ttv", "layers": [2, 5]},
    "hidden states": "hidden-change",
    "the encoder": "cls-attention",
}


def asked(family: str) -> dict[str, Any]:
    return inputs(family, [Prompt(3, DEFAULT_IMAGES[family], 4, seed=1), Prompt(6, (), 3, seed=2)])


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_rows_that_are_returned_are_fewer(family: str, score: Any) -> None:
    """Logits, cache and the tokens in every layer are those of a model that nobody touched."""
    model, batch = build(family), asked(family)
    spec = {"positions": "reindex", "at": LAYERS, "score": score, "keep": 0.25}
    with torch.no_grad():
        whole = model(**batch)
        with tokensieve.attach(model, spec) as session:
            pruned = model(**batch)
    ((visual, none),) = {tuple(session.trace.visual_tokens)}
    assert none == 0 < session.trace.stages[0].after[0] < visual
    assert session.trace.per_layer == [[visual] * LAYERS, [0] * LAYERS]
    removed = (pruned.logits == 0).all(dim=-1) & batch["attention_mask"].bool()
    assert int(removed.sum()) == visual - len(session.trace.stages[0].kept[0])
    stay = batch["attention_mask"].bool() & ~removed
    torch.testing.assert_close(pruned.logits[stay], whole.logits[stay], rtol=0, atol=1e-12)
    length = batch["input_ids"].shape[1]
    assert {layer.keys.shape[2] for layer in pruned.past_key_values.layers} == {length}
    assert [note for note in session.trace.notes if BEHIND in note]


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_those_of_the_cuts_before(family: str, use_cache: bool) -> None:
    model, batch = build(family), asked(family)
    greedy = {"max_new_tokens": 4, "do_sample": False, "suppress_tokens": SPECIAL}
    stage = {"score": {"scorer": "attention", "rows": "raters"}, "merge": "recycle"}
    answers = []
    for at, keep in (([2, 4], [0.6, 0.4]), ([2, 4, LAYERS], [0.6, 0.4, 0.2])):
        spec = {"positions": "reindex", "stages": [{**stage, "at": at, "keep": keep}]}
        with tokensieve.attach(model, spec) as session:
            answers.append(model.generate(**batch, **greedy, use_cache=use_cache))
    assert torch.equal(*answers)
    assert session.trace.stages[2].after[0] < session.trace.stages[1].after[0]


def test_a_cached_prompt_goes_on() -> None:
    """No layer's rows were removed, so nothing has to be known of them later."""
    model, batch = build("llava"), inputs("llava", [Prompt(3, (1,), 4, seed=1)])
    more = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        with tokensieve.attach(model, {"at": LAYERS, "score": "ttv", "keep": 2}):
            cache = model(**batch, use_cache=True).past_key_values
        pruned = model(input_ids=more, **continuing(model, cache)).logits
        cache = model(**batch, use_cache=True).past_key_values
        whole = model(input_ids=more, **continuing(model, cache)).logits
    torch.testing.assert_close(pruned, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("keep", [3, 1.0])
def test_the_row_that_answers_is_a_real_one(keep: float) -> None:
    """A prompt that ends with its image answers from a visual token, which may be gone."""
    model = build("llava")
    batch = inputs("llava", [Prompt(3, (1,), 0, seed=1)])
    spec = {"at": LAYERS, "score": "uniform", "select": "bottom-k", "keep": keep}
    with tokensieve.attach(model, spec):
        if keep == 1.0:
            model.generate(**batch, max_new_tokens=1, suppress_tokens=SPECIAL)
            return
        with pytest.raises(UnsupportedError, match="logits of removed visual tokens are read"):
            model.generate(**batch, max_new_tokens=1, suppress_tokens=SPECIAL)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a layer that does not come": (
        {"at": LAYERS, "score": "iga"},
        "'iga' needs next_attention, but no decoder layer runs behind this boundary: "
        "use boundary 5 or earlier, or another scorer",
    ),
    "beyond the end": (
        {"at": LAYERS + 1, "score": "uniform"},
        r"has 6 decoder layers, allowed: 0 to 6 \(or give the pipeline the `depth`",
    ),
    "beyond the end, with a depth": (
        {"at": LAYERS + 1, "score": "uniform", "depth": LAYERS},
        "has 6 decoder layers, allowed: 0 to 6$",
    ),
    "scaled to the end": (
        {"at": 15, "score": "uniform", "depth": 16},
        r"too few for boundaries \[15\], which are tuned for 16 and scaled to \[6\]",
    ),
    "scaled into each other": (
        {"at": [1, 2, 3, 4, 5, 6, 7, 8], "score": "uniform", "depth": 16},
        r"6 decoder layers are too few .* tuned for 16 and scaled to \[1, 2, 3, 4, 5, 6, 7, 8\]",
    ),
}


@pytest.mark.parametrize(("spec", "message"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_place_is_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(AttachError, match=message):
        tokensieve.attach(build("llava"), {**spec, "keep": 0.5})


def test_the_end_stays_the_end_where_boundaries_are_scaled() -> None:
    pipeline = tokensieve.load_pipeline(
        {"depth": 16, "at": [3, 7, 16], "score": "attention", "keep": [9, 6, 3]}
    )
    assert [pipeline.boundaries(depth) for depth in (4, 6, 8, 16)] == [
        [1, 2, 4], [1, 3, 6], [2, 4, 8], [3, 7, 16],
    ]  # fmt: skip


def test_a_hook_that_did_not_run_gives_no_answer() -> None:
    model, batch = build("llava"), inputs("llava", [Prompt(3, (1,), 4, seed=1)])
    with (
        tokensieve.attach(model, {"at": LAYERS, "score": "uniform", "keep": 0.5}),
        torch.no_grad(),
    ):
        model.model.language_model.layers[-1]._forward_hooks.clear()
        with pytest.raises(GuardError, match="the hook behind the last decoder layer did not run"):
            model(**batch)


@pytest.mark.parametrize("kind", ["cls", "average"])
def test_a_head_sees_what_is_left(kind: str) -> None:
    """A [CLS] has seen all patches; an average is taken of those that are there."""
    model, batch = build_vit(kind), pictures()
    spec = {"at": DEPTH, "score": "attention", "keep": 5}
    with torch.no_grad():
        whole = model(batch)
        with tokensieve.attach(model, spec) as session:
            pruned = model(batch)
    assert session.trace.stages[0].after == [5, 5, 5]
    assert session.trace.per_layer == [[PATCHES] * DEPTH] * 3
    assert torch.allclose(pruned, whole, rtol=0, atol=1e-12) == (kind == "cls")


def test_show_says_that_no_layer_runs_on_fewer(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "end.yaml"
    file.write_text("at: [3, 7, 16]\nscore: attention\nkeep: [0.5, 0.3, 0.2]\n")
    shown = call("show", str(file), "--model", "small")
    assert "boundary 16 is behind the last decoder layer" in shown.out
