"""Merging and pooling in a timm ViT, against slow forwards that do it by hand.

No untouched model contains a merged token, so there is no masked oracle.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from references import mergers, tome
from timm_models import build, pictures

import tokensieve

KINDS = ("cls", "registers", "average", "average-cls", "average-max", "map")
BOUNDARY, LEFT = 3, 5


def tokens_at(model: Any, picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``[rows, dim]`` what enters block 3, and the mean keys of block 2."""
    keys: list[torch.Tensor] = []

    def watch(module: Any, args: Any, output: torch.Tensor) -> None:
        _, projected, _ = output.unflatten(-1, (3, 4, -1)).unbind(-3)
        keys[:] = [model.blocks[BOUNDARY - 1].attn.k_norm(projected)[0].mean(dim=1)]

    handle = model.blocks[BOUNDARY - 1].attn.qkv.register_forward_hook(watch)
    hidden = model.norm_pre(model._pos_embed(model.patch_embed(picture[None])))
    for block in model.blocks[:BOUNDARY]:
        hidden = block(hidden)
    handle.remove()
    return hidden[0], keys[0]


def rest_of_forward(
    model: Any, hidden: torch.Tensor, sizes: torch.Tensor, *, proportional: bool
) -> torch.Tensor:
    """Logits of merged tokens; the head counts each of them ``sizes`` times, written out."""
    prefix = torch.ones(model.num_prefix_tokens, dtype=sizes.dtype)
    sizes = torch.cat([prefix, sizes])
    hidden = hidden[None]
    for block in model.blocks[BOUNDARY:]:
        bias = sizes.log()[None, None, None] if proportional else None
        hidden = block(hidden, attn_mask=bias)
    copies = model.norm(hidden).repeat_interleave(sizes.long(), dim=1)
    logits: torch.Tensor = model.forward_head(copies)[0]
    return logits


@pytest.mark.parametrize(("kind", "halves"), [("cls", "odd"), ("average", "even")])
@torch.no_grad()
def test_released_halves_equal_merging_by_hand(kind: str, halves: str) -> None:
    """The halves of the released ToMe, with and without a [CLS].

    Attention does not see the order of tokens, so the logits are those of any order.
    """
    model, batch = build(kind), pictures(2)
    stage = {"name": "t", "at": BOUNDARY, "score": "hidden-change", "keep": LEFT}
    with tokensieve.attach(model, {**stage, "merge": {"merger": "tome", "halves": halves}}) as run:
        logits = model(batch)
    prefix = model.num_prefix_tokens
    for sample, picture in enumerate(batch):
        hidden, keys = tokens_at(model, picture)
        patches = hidden[prefix:].numpy()
        groups, vectors, sizes = tome.released(
            patches, keys[prefix:].numpy(), np.ones(len(patches)), LEFT, cls=halves == "odd"
        )
        order = run.trace.stages[0].order[sample].tolist()
        assert all(token in group for token, group in zip(order, groups, strict=True))
        merged = torch.cat([hidden[:prefix], torch.from_numpy(vectors)])
        expected = rest_of_forward(model, merged, torch.from_numpy(sizes), proportional=True)
        torch.testing.assert_close(logits[sample], expected, atol=1e-8, rtol=0)


@pytest.mark.parametrize("proportional", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_tome_equals_merging_by_hand(kind: str, proportional: bool) -> None:
    model, batch = build(kind), pictures(2)
    merge = {"merger": "tome", "weigh_attention": proportional}
    stage = {"name": "t", "at": BOUNDARY, "score": "hidden-change", "keep": LEFT, "merge": merge}
    with tokensieve.attach(model, stage) as session:
        logits = model(batch)
    first = {"name": "f", "at": BOUNDARY, "score": "hidden-change", "keep": 1}
    with tokensieve.attach(model, first) as highest:
        model(batch)
    prefix = model.num_prefix_tokens
    for sample, picture in enumerate(batch):
        hidden, keys = tokens_at(model, picture)
        patches = hidden[prefix:].numpy()
        anchor = int(highest.trace.stages[0].kept[sample][0])
        left, vectors, sizes = tome.match(
            patches, keys[prefix:].numpy(), np.ones(len(patches)), LEFT, anchor
        )
        assert session.trace.stages[0].kept[sample].tolist() == left
        assert session.trace.stages[0].sizes[sample].tolist() == sizes.tolist()
        merged = torch.cat([hidden[:prefix], torch.from_numpy(vectors)])
        expected = rest_of_forward(
            model, merged, torch.from_numpy(sizes), proportional=proportional
        )
        torch.testing.assert_close(logits[sample], expected, atol=1e-8, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_absorb_equals_merging_by_hand(kind: str) -> None:
    model, batch = build(kind), pictures(2)
    stage = {"name": "a", "at": BOUNDARY, "score": "ttv", "keep": LEFT, "merge": "absorb"}
    with tokensieve.attach(model, stage) as session:
        logits = model(batch)
    prefix = model.num_prefix_tokens
    for sample, picture in enumerate(batch):
        hidden, _ = tokens_at(model, picture)
        kept = session.trace.stages[0].kept[sample].tolist()
        vectors = mergers.absorb(hidden[prefix:].numpy(), kept)
        merged = torch.cat([hidden[:prefix], torch.from_numpy(vectors)])
        sizes = session.trace.stages[0].sizes[sample].double()
        assert int(sizes.sum()) == len(hidden) - prefix
        expected = rest_of_forward(model, merged, sizes, proportional=False)
        torch.testing.assert_close(logits[sample], expected, atol=1e-8, rtol=0)


@torch.no_grad()
def test_sizes_add_up_over_boundaries_and_ragged_rows() -> None:
    model, batch = build("average"), pictures(3)
    outstanding = {"selector": "threshold", "rule": "iqr", "value": -0.6}
    stages = [
        {"at": 1, "score": "cls-attention", "select": outstanding, "merge": "absorb"},
        {"at": 3, "score": "uniform", "keep": 3, "merge": "tome"},
    ]
    with tokensieve.attach(model, {"name": "two", "stages": stages}) as session:
        together = model(batch)
        first, second = session.trace.stages
        assert len({*first.after}) > 1
        assert all(int(sizes.sum()) == 16 for stage in (first, second) for sizes in stage.sizes)
        for sample in range(3):
            alone = model(batch[sample : sample + 1])[0]
            torch.testing.assert_close(together[sample], alone, atol=1e-9, rtol=0)


@torch.no_grad()
def test_tome_with_all_tokens_is_bit_identical() -> None:
    model, batch = build("average", torch.float32), pictures(2, torch.float32)
    untouched = model(batch)
    stage = {"name": "t", "at": [1, 3], "score": "uniform", "keep": 1.0, "merge": "tome"}
    with tokensieve.attach(model, stage):
        assert torch.equal(model(batch), untouched)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision(dtype: torch.dtype) -> None:
    model, batch = build("cls", dtype), pictures(2, dtype)
    stage = {"name": "t", "at": 2, "score": "ttv", "keep": 5, "merge": "tome"}
    with tokensieve.attach(model, stage):
        logits = model(batch)
    assert logits.dtype == dtype
    assert bool(logits.isfinite().all())
