"""Pruning a timm ViT is exact: it equals the model with the dropped patches masked."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm_models import CLASSES, DEPTH, KINDS, PATCHES, build, kept_of, oracle_logits, pictures
from torch.utils.flop_counter import FlopCounterMode

import tokensieve
from tokensieve.core.pipeline.flops import Convention, decoder_flops

WITHOUT_BRANCHES = {"parallel"}
FIXED: dict[str, list[dict[str, Any]]] = {
    "boundary-0": [{"at": 0, "score": "random", "keep": 5}],
    "last": [{"at": 5, "score": "hidden-change", "keep": 1}],
    "block": [{"at": 3, "score": {"scorer": "ttv", "variant": "block"}, "keep": 0.5}],
    "diverse": [{"at": 2, "score": "uniform", "select": "max-min", "keep": 7}],
    "dpp": [{"at": 2, "score": "hidden-change", "select": "dpp", "keep": 6}],
    "behind-the-last": [{"at": [2, DEPTH], "score": "hidden-change", "keep": [9, 4]}],
    "chosen-order": [
        {"at": [2, 4], "score": "hidden-change", "keep": [9, 4], "order": "selection"}
    ],
}
ATTENDING: dict[str, list[dict[str, Any]]] = {
    "ttv": [{"at": [1, 3, 4], "score": "ttv", "keep": [0.8, 0.5, 0.2]}],
    "ttv-sum": [{"at": 4, "score": {"scorer": "ttv", "layers": [0, 3]}, "keep": 4}],
    "attention": [{"at": 3, "score": "attention", "keep": 5}],
    "cls-attention": [{"at": [2, 4], "score": "cls-attention", "keep": [8, 3]}],
    "received": [{"at": [2, 5], "score": "received-attention", "keep": 0.4, "scope": "sample"}],
    "earlier-block": [
        {"at": 2, "score": "random", "keep": 9},
        {"at": 5, "score": {"scorer": "cls-attention", "depth": 0.34}, "keep": 4},
    ],
    "keys": [{"at": 3, "score": "ttv", "select": {"selector": "max-min", "features": "vision_keys"},
              "keep": 6}],
}  # fmt: skip
OUTSTANDING = {"selector": "threshold", "rule": "iqr", "value": -0.6}
RAGGED: dict[str, list[dict[str, Any]]] = {
    "adaptive": [
        {"at": 1, "score": "cls-attention", "select": OUTSTANDING},
        {"at": 4, "score": "attention", "select": OUTSTANDING},
    ],
    "adaptive-behind-the-last": [{"at": DEPTH, "score": "attention", "select": OUTSTANDING}],
    "adaptive-then-fixed": [
        {"at": 1, "score": "ttv", "select": OUTSTANDING},
        {"at": 3, "score": "received-attention", "keep": 2},
    ],
    "adaptive-then-earlier-block": [
        {"at": 2, "score": "hidden-change", "select": OUTSTANDING},
        {"at": 4, "score": {"scorer": "ttv", "layers": [1, 3]}, "select": OUTSTANDING},
        {"at": 5, "score": {"scorer": "received-attention", "depth": 0.5}, "keep": 2},
    ],
}
CASES = [
    (kind, name)
    for kind in KINDS
    for name in [
        *FIXED,
        *([] if kind in WITHOUT_BRANCHES else ATTENDING),
        *([] if kind in {*WITHOUT_BRANCHES, "prr"} else RAGGED),
    ]
]
STAGES = FIXED | ATTENDING | RAGGED


def spec(name: str) -> dict[str, Any]:
    return {"name": name, "stages": STAGES[name]}


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {kind: build(kind) for kind in KINDS}


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_pruned_equals_masked(models: dict[str, Any], kind: str, name: str) -> None:
    model, batch = models[kind], pictures()
    with tokensieve.attach(model, spec(name)) as session, torch.no_grad():
        logits = model(batch)
    assert logits.shape == (3, CLASSES)
    assert sum(session.trace.stages[-1].after) < 3 * PATCHES
    for sample, picture in enumerate(batch):
        expected = oracle_logits(model, picture, kept_of(session.trace, sample))
        torch.testing.assert_close(logits[sample], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", RAGGED)
def test_ragged_pipelines_are_ragged(models: dict[str, Any], name: str) -> None:
    with tokensieve.attach(models["cls"], spec(name)) as session, torch.no_grad():
        models["cls"](pictures())
    assert len({*session.trace.stages[0].after}) > 1


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_batch_equals_its_samples(models: dict[str, Any], kind: str, name: str) -> None:
    model, batch = models[kind], pictures()
    with tokensieve.attach(model, spec(name)) as session, torch.no_grad():
        together, trace = model(batch), session.trace
        for sample in range(3):
            alone = model(batch[sample : sample + 1])
            assert kept_of(session.trace, 0) == kept_of(trace, sample)
            torch.testing.assert_close(alone[0], together[sample], atol=1e-9, rtol=0)
            assert session.trace.per_layer[0] == trace.per_layer[sample]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_keeping_everything_is_bit_identical(kind: str, fused: bool) -> None:
    model, batch = build(kind, torch.float32), pictures(dtype=torch.float32)
    model = model if fused else unfused(model)
    everywhere = {"name": "all", "at": list(range(DEPTH + 1)), "score": "random", "keep": 1.0}
    with torch.no_grad():
        untouched = model(batch)
        with tokensieve.attach(model, everywhere):
            assert torch.equal(model(batch), untouched)
        with tokensieve.attach(model, {"name": "half", "at": 2, "score": "random", "keep": 0.5}):
            assert not torch.equal(model(batch), untouched)
        assert torch.equal(model(batch), untouched)


def unfused(model: Any) -> Any:
    """The model with attention as two products and a softmax."""
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    return model


def test_attention_without_fusion_equals_masked() -> None:
    model, batch = unfused(build("cls")), pictures()
    with tokensieve.attach(model, spec("adaptive")) as session, torch.no_grad():
        logits = model(batch)
    for sample, picture in enumerate(batch):
        expected = oracle_logits(model, picture, kept_of(session.trace, sample))
        torch.testing.assert_close(logits[sample], expected, atol=1e-6, rtol=0)


def test_detach_restores_the_model_exactly() -> None:
    model = build("average")

    def everything() -> dict[str, Any]:
        found = {}
        for name, module in model.named_modules():
            plain = {k: v for k, v in vars(module).items() if not isinstance(v, dict)}
            hooks = {k: dict(v) for k, v in vars(module).items() if "hooks" in k and v is not None}
            found[name] = (plain, hooks)
        return found

    before = everything()
    session = tokensieve.attach(model, spec("ttv"))
    with torch.no_grad():
        model(pictures())
    assert everything() != before
    session.detach()
    session.detach()
    assert everything() == before


def test_pictures_of_any_size() -> None:
    model = build("cls", dynamic_img_size=True)
    with tokensieve.attach(model, spec("cls-attention")) as session, torch.no_grad():
        logits = model(pictures(2, side=48))
    assert session.trace.visual_tokens == [36, 36]
    for sample, picture in enumerate(pictures(2, side=48)):
        expected = oracle_logits(model, picture, kept_of(session.trace, sample))
        torch.testing.assert_close(logits[sample], expected, atol=1e-6, rtol=0)


def shrunk(batch: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    size = (rows * 8, columns * 8)
    return torch.nn.functional.interpolate(batch, size=size, mode="bicubic", antialias=True)


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize(
    ("keep", "rows", "columns", "places"),
    [(9, 3, 3, [0, 2, 3, 8, 10, 11, 12, 14, 15]), (7, 3, 2, [1, 3, 9, 11, 13, 15])],
)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "prr"])
def test_smaller_pictures_are_the_untouched_model_on_them(
    kind: str, keep: int, rows: int, columns: int, places: list[int], dynamic: bool
) -> None:
    """The reference is timm's own model for pictures of any size, with the same weights."""
    model, batch = build(kind, dynamic_img_size=dynamic), pictures()
    reference = build(kind, dynamic_img_size=True)
    reference.load_state_dict(model.state_dict())
    small = {"name": "small", "at": "image", "keep": keep}
    with torch.no_grad():
        untouched = model(batch)
        expected = reference(shrunk(batch, rows, columns))
        with tokensieve.attach(model, small) as session:
            logits = model(batch)
        assert torch.equal(model(batch), untouched)
    torch.testing.assert_close(logits, expected, atol=1e-9, rtol=0)
    assert session.trace.stages[0].kept[1].tolist() == places
    assert session.trace.per_layer == [[rows * columns] * DEPTH] * 3
    assert session.trace.visual_tokens == [16] * 3


def test_a_boundary_behind_smaller_pictures_equals_masked() -> None:
    model, batch = build("cls"), pictures()
    reference = build("cls", dynamic_img_size=True)
    stages = [{"at": "image", "keep": 9}, {"at": 3, "score": "cls-attention", "keep": 4}]
    with tokensieve.attach(model, {"name": "both", "stages": stages}) as session, torch.no_grad():
        logits = model(batch)
    for sample, picture in enumerate(shrunk(batch, 3, 3)):
        places = session.trace.stages[0].kept[sample].tolist()
        kept = session.trace.stages[1].kept[sample].tolist()
        assert len(kept) == 4
        expected = oracle_logits(reference, picture, {3: [places.index(place) for place in kept]})
        torch.testing.assert_close(logits[sample], expected, atol=1e-6, rtol=0)


def test_pictures_that_need_not_be_smaller_are_not_touched() -> None:
    model, batch = build("cls", torch.float32), pictures(dtype=torch.float32)
    with torch.no_grad():
        untouched = model(batch)
        with tokensieve.attach(model, {"name": "all", "at": "image", "keep": 1.0}) as session:
            assert torch.equal(model(batch), untouched)
    assert "removes nothing" in session.trace.notes[0]


def test_a_failed_forward_leaves_the_patches_as_they_were() -> None:
    model, seen = build("cls"), []

    def fail(module: Any, args: Any) -> None:
        seen.append((model.dynamic_img_size, model.patch_embed.flatten))
        raise RuntimeError("on purpose")

    with tokensieve.attach(model, {"name": "small", "at": "image", "keep": 4}), torch.no_grad():
        handle = model.blocks[2].register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="on purpose"):
            model(pictures())
        handle.remove()
        assert seen == [(True, False)]
        assert (model.dynamic_img_size, model.patch_embed.flatten) == (False, True)
        assert model.patch_embed.strict_img_size
        assert model(pictures()).shape == (3, CLASSES)


def test_trace_counts_patches_and_prefix_rows(models: dict[str, Any]) -> None:
    model = models["registers"]
    with tokensieve.attach(model, spec("ttv")) as session, torch.no_grad():
        model(pictures(2))
    assert session.trace.visual_tokens == [16, 16]
    assert session.trace.text_tokens == [4, 4]
    assert session.trace.per_layer == [[16, 12, 12, 8, 3, 3]] * 2


@pytest.mark.parametrize("kind", ["cls", "registers", "average-cls"])
def test_flops_are_those_of_the_products(kind: str) -> None:
    """The formula against a count of all matrix products inside the blocks."""
    model = unfused(build(kind))
    convention = Convention(count_text=True, mac_factor=2)
    with tokensieve.attach(model, spec("chosen-order")) as session, torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            model(pictures(1))
    counted = _block_flops(counter)
    expected = decoder_flops(
        session.trace.per_layer[0],
        session.bound.dims,
        convention,
        text_tokens=session.trace.text_tokens[0],
    )
    assert counted == expected


def _block_flops(counter: FlopCounterMode) -> int:
    counts = counter.get_flop_counts()
    blocks = [f"VisionTransformer.blocks.{index}" for index in range(DEPTH)]
    return sum(sum(counts[block].values()) for block in blocks)


def test_budget_in_flops_counts_two_matrices(models: dict[str, Any]) -> None:
    half = {"name": "half", "at": 2, "score": "random", "keep": {"flops": 0.6}}
    with tokensieve.attach(models["cls"], half) as session, torch.no_grad():
        models["cls"](pictures(1))
    dims = session.bound.dims
    assert dims.ffn_matrices == 2
    share = decoder_flops(session.trace.per_layer[0], dims) / decoder_flops([16] * DEPTH, dims)
    assert 0.55 < share <= 0.6


def test_random_draws_depend_on_the_picture_and_the_seed_only(models: dict[str, Any]) -> None:
    model, batch, drawn = models["cls"], pictures(3), []
    for seed, chosen in ((0, batch), (0, batch.flip(0)), (1, batch)):
        with tokensieve.attach(model, spec("boundary-0"), seed=seed) as session, torch.no_grad():
            model(chosen)
        drawn.append([kept.tolist() for kept in session.trace.stages[0].kept])
    first, turned, other = drawn
    assert first == turned[::-1]
    assert len({tuple(kept) for kept in first}) > 1
    assert first != other


def test_wrapped_by_transformers() -> None:
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

    arguments = {"img_size": 32, "patch_size": 8, "depth": 3, "embed_dim": 32, "num_heads": 4}
    config = TimmWrapperConfig(  # type: ignore[call-arg]  # any config has labels
        architecture="vit_tiny_patch16_224", model_args=arguments, num_labels=4
    )
    model = TimmWrapperForImageClassification(config).eval()
    batch = pictures(2, torch.float32)
    pipeline = {"name": "half", "at": 1, "score": "cls-attention", "keep": 0.5}
    with tokensieve.attach(model, pipeline) as session, torch.no_grad():
        logits = model(pixel_values=batch).logits
        with pytest.raises(tokensieve.TokensieveError, match="only the whole model is pruned"):
            model(pixel_values=batch, output_hidden_states=True)
    for sample, picture in enumerate(batch):
        expected = oracle_logits(model.timm_model, picture, kept_of(session.trace, sample))
        torch.testing.assert_close(logits[sample], expected, atol=1e-5, rtol=0)
