"""An image is what its picture says, not a run of placeholders: rows, frames and tiles apart."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import tiny_models
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import conversation_of, oracle_logits
from tiny_models import IMAGE, ROW_END, SPECIAL, VIDEO, Prompt, build, inputs

import tokensieve
from tokensieve.core.engine.layout import TEXT, Images
from tokensieve.core.engine.reduction import Groups
from tokensieve.core.errors import UnsupportedError

FAMILY = "llava-pixtral"
GREEDY: dict[str, Any] = {
    "max_new_tokens": 3, "do_sample": False, "suppress_tokens": SPECIAL, "pad_token_id": 0,
}  # fmt: skip
THREE = Prompt(3, ((3, 4), (1, 5), (4, 2)), 5, seed=4)


@pytest.fixture(scope="module")
def model() -> Any:
    return build(FAMILY)


def kept(model: Any, batch: dict[str, Any], spec: dict[str, Any], **options: Any) -> Any:
    with tokensieve.attach(model, spec, **options) as session, torch.no_grad():
        model(**batch)
    return session.trace


@pytest.mark.parametrize("keep", [1, 3, 5])
@pytest.mark.parametrize("score", ["uniform", "random", "ttv", "cls-attention", "iga"])
def test_a_budget_counts_tokens_of_an_image_not_of_a_row(model: Any, score: str, keep: int) -> None:
    at = 2 if score == "ttv" else 0 if score == "cls-attention" else 1
    trace = kept(model, inputs(FAMILY, [THREE]), {"at": at, "score": score, "keep": keep})
    ends = [0, 12, 17, 25]
    counts = [
        sum(start <= token < end for token in trace.stages[0].kept[0].tolist())
        for start, end in pairwise(ends)
    ]
    assert counts == [keep] * 3
    assert trace.visual_tokens == [25]


def test_what_stands_between_the_rows_is_text_that_stays(model: Any) -> None:
    batch = inputs(FAMILY, [THREE])
    trace = kept(model, batch, {"at": 1, "score": "uniform", "keep": 1})
    visual = (batch["input_ids"] == IMAGE).sum()
    assert trace.text_tokens == [int(batch["input_ids"].numel() - visual)]
    conversation = conversation_of(FAMILY, THREE, trace, 0)
    with tokensieve.attach(model, {"at": 1, "score": "uniform", "keep": 1}), torch.no_grad():
        logits = model(**batch).logits[0]
    expected = oracle_logits(model, FAMILY, conversation, "keep")
    ends = (batch["input_ids"][0] == ROW_END).nonzero()[:, 0]
    assert len(ends) >= 5
    torch.testing.assert_close(logits[ends], expected[ends], atol=1e-6, rtol=0)


@pytest.mark.parametrize("positions", ["keep", "reindex"])
@pytest.mark.parametrize("order", ["raster", "selection"])
def test_pictures_that_touch_are_told_apart_by_their_sizes(
    model: Any, positions: str, order: str
) -> None:
    """No token behind the last row: two images stand side by side, the second of one row."""
    batch = inputs(FAMILY, [THREE])
    ids = batch["input_ids"][0].tolist()
    images = [*([IMAGE] * 4 + [ROW_END]) * 3][:-1] + [IMAGE] * 5 + [IMAGE, IMAGE, 7] * 4
    batch["input_ids"] = torch.tensor([[*ids[:4], *images, *ids[-5:]]])
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    spec = {
        "positions": positions, "at": [1, 3], "keep": [3, 2], "score": "cls-attention",
        "order": order,
    }  # fmt: skip
    trace = kept(model, batch, spec)
    ends = [0, 12, 17, 25]
    for stage, count in zip(trace.stages, (3, 2), strict=True):
        tokens = stage.kept[0].tolist()
        assert [sum(a <= t < b for t in tokens) for a, b in pairwise(ends)] == [count] * 3


MISFITS: dict[str, tuple[str, Any]] = {
    "a picture too many": (FAMILY, lambda b: b | {"image_sizes": b["image_sizes"][[0, 1, 2, 2]]}),
    "a picture too few": (FAMILY, lambda b: b | {"image_sizes": b["image_sizes"][:2]}),
    "larger pictures": (FAMILY, lambda b: b | {"image_sizes": b["image_sizes"] + 4}),
    "smaller pictures": (FAMILY, lambda b: b | {"image_sizes": b["image_sizes"] // 2}),
    "more of Qwen's": ("qwen-vl", lambda b: b | {"image_grid_thw": b["image_grid_thw"][[0, 1, 1]]}),
    "turned": ("qwen-vl", lambda b: b | {"image_grid_thw": b["image_grid_thw"] * 2}),
    "one of LLaVA's twice": ("llava", lambda b: b | {"pixel_values": b["pixel_values"][[0, 1, 1]]}),
    "one of LLaVA's": ("llava", lambda b: b | {"pixel_values": b["pixel_values"][:1]}),
}


@pytest.mark.parametrize("case", MISFITS)
def test_pictures_that_are_not_the_placeholders(case: str) -> None:
    family, spoil = MISFITS[case]
    images = THREE.images if family == FAMILY else tiny_models.DEFAULT_IMAGES[family]
    batch = spoil(inputs(family, [Prompt(3, images, 4)]))
    model = build(family)
    with (
        tokensieve.attach(model, {"at": 1, "score": "uniform", "keep": 0.5}),
        torch.no_grad(),
        pytest.raises(UnsupportedError, match="not those of the pictures"),
    ):
        model(**batch)


def test_an_image_and_a_video_that_touch_have_budgets_of_their_own() -> None:
    model, generator = build("qwen-vl"), torch.Generator().manual_seed(3)
    grids = {"image": [[1, 4, 6]], "video": [[2, 4, 4]]}
    ids = torch.tensor([[1, 5, *[IMAGE] * 6, *[VIDEO] * 8, 9, 11, 12]])

    def pixels(modality: str) -> torch.Tensor:
        patches = sum(t * h * w for t, h, w in grids[modality])
        return torch.randn(patches, 3 * 2 * 4 * 4, generator=generator).double()

    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == IMAGE).int() + 2 * (ids == VIDEO).int(),
        "pixel_values": pixels("image"),
        "image_grid_thw": torch.tensor(grids["image"]),
        "pixel_values_videos": pixels("video"),
        "video_grid_thw": torch.tensor(grids["video"]),
    }
    trace = kept(model, batch, {"at": 0, "score": "cls-attention", "keep": 3})
    tokens = trace.stages[0].kept[0].tolist()
    assert (sum(t < 6 for t in tokens), sum(t >= 6 for t in tokens)) == (3, 3)


def test_features_that_the_caller_merged_need_the_sizes_of_the_pictures(model: Any) -> None:
    batch = inputs(FAMILY, [THREE])
    spec = {"at": 1, "score": "iga", "keep": 2}
    with torch.no_grad():
        with tokensieve.attach(model, spec):
            expected = model.generate(**batch, **GREEDY)
        features = model.model.get_image_features(
            batch.pop("pixel_values"), image_sizes=batch["image_sizes"], return_dict=True
        ).pooler_output
        embeds = model.get_input_embeddings()(batch["input_ids"]).clone()
        embeds[batch["input_ids"] == IMAGE] = torch.cat(tuple(features))
        with tokensieve.attach(model, spec):
            made = model.generate(**batch, inputs_embeds=embeds, **GREEDY)
            assert torch.equal(made[:, -3:], expected[:, -3:])
            del batch["image_sizes"]
            with pytest.raises(UnsupportedError, match="a row of placeholders is not an image"):
                model.generate(**batch, inputs_embeds=embeds, **GREEDY)


def test_without_a_cache_and_with_beams(model: Any) -> None:
    """Every forward of a call sees the same images, however the caller decodes."""
    batch = inputs(FAMILY, [THREE, Prompt(5, ((2, 6),), 3, seed=9)])
    spec = {"at": [1, 2], "score": "iga", "keep": [4, 2], "positions": "reindex"}
    with tokensieve.attach(model, spec), torch.no_grad():
        cached = model.generate(**batch, **GREEDY)
        again = model.generate(**batch, **GREEDY, use_cache=False)
    assert torch.equal(cached, again)
    single = inputs(FAMILY, [Prompt(5, ((2, 6),), 3, seed=9)])
    with tokensieve.attach(model, spec), torch.no_grad():
        one = model.generate(**single, **GREEDY, num_beams=3, num_return_sequences=3)
        two = model.generate(**single, **GREEDY, num_beams=3, use_cache=False)
    assert torch.equal(one[:1], two)


def test_a_masked_picture_has_no_tokens(model: Any) -> None:
    """Its placeholders are padding: the others keep their own sizes."""
    batch = inputs(FAMILY, [THREE])
    first = (batch["input_ids"][0] == IMAGE).nonzero()[:12, 0]
    batch["attention_mask"][0, first[0] : first[-1] + 1] = 0
    trace = kept(model, batch, {"at": 1, "score": "uniform", "keep": 2})
    assert trace.visual_tokens == [13]
    tokens = trace.stages[0].kept[0].tolist()
    assert (sum(t < 5 for t in tokens), sum(t >= 5 for t in tokens)) == (2, 2)


SAMPLE = st.lists(
    st.tuples(
        st.lists(st.integers(1, 4), min_size=1, max_size=4),  # tokens of each row of an image
        st.integers(0, 2),  # text behind it
    ),
    min_size=1,
    max_size=4,
)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.lists(SAMPLE, min_size=1, max_size=3), st.integers(0, 3), st.randoms())
def test_rows_of_any_layout(samples: Any, before: int, random: Any) -> None:
    """Against a list of rows, before and after tokens were removed."""
    rows, counts, owners = [], [], []
    for sample in samples:
        marks, owner = [TEXT] * before, [-1] * before
        for number, (lines, after) in enumerate(sample):
            counts.append(sum(lines))
            for line in lines:
                marks += [IMAGE] * line + [TEXT]
                owner += [number] * line + [-1]
            del marks[-1], owner[-1]
            marks, owner = [*marks, *[TEXT] * after], [*owner, *[-1] * after]
        rows.append(marks)
        owners.append(owner)
    longest = max(map(len, rows))
    fill = [longest - len(row) for row in rows]
    table = [[TEXT] * n + row for n, row in zip(fill, rows, strict=True)]
    owners = [[-1] * n + row for n, row in zip(fill, owners, strict=True)]
    real = [[False] * n + [True] * (longest - n) for n in fill]
    layout = Images({IMAGE: counts}, lambda length: [length]).read(table, real)
    separators = torch.tensor(table) == TEXT
    for scope in ("image", "sample"):
        groups = Groups.of(layout, scope, torch.device("cpu"), separators)
        found = [r[v].tolist() for r, v in zip(groups.rows, groups.valid, strict=True)]
        expected = [
            [row for row, own in enumerate(owner) if own in wanted]
            for owner, sample in zip(owners, samples, strict=True)
            for wanted in (
                [[*range(len(sample))]] if scope == "sample" else [[n] for n in range(len(sample))]
            )
        ]
        assert found == expected
    for number, (row, flags) in enumerate(zip(table, real, strict=True)):
        assert layout.visual(number) == row.count(IMAGE)
        assert layout.text(number) == sum(flags) - row.count(IMAGE)
    keys = [(b.sample, b.image) for b in layout.blocks()]
    fewer = {key: random.randint(1, n) for key, n in zip(keys, counts, strict=True)}
    after = layout.with_images(fewer)
    assert [block.length for block in after.blocks()] == list(fewer.values())
    assert [after.text(n) for n in range(len(rows))] == [layout.text(n) for n in range(len(rows))]
