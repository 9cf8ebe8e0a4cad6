"""What cannot be pruned of timm is refused in one clear sentence, never silently wrong."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.models.vision_transformer import ParallelThingsBlock
from timm_models import build, pictures

import tokensieve
from tokensieve.core.errors import AttachError, UnsupportedError

HALF = {"name": "half", "at": 2, "score": "hidden-change", "keep": 0.5}
ADAPTIVE = {**HALF, "select": {"selector": "threshold", "value": 0.5}}


@pytest.fixture(scope="module")
def model() -> Any:
    return build("cls")


@pytest.mark.parametrize(
    "name",
    ["swin_tiny_patch4_window7_224", "eva02_tiny_patch14_224", "resnet18", "beit_base_patch16_224"],
)
def test_other_models_of_timm(name: str) -> None:
    with torch.device("meta"):
        other = timm.create_model(name)
    with pytest.raises(AttachError, match=f"timm's {type(other).__name__} is not supported, only"):
        tokensieve.attach(other, HALF)


def test_blocks_with_several_attentions() -> None:
    with pytest.raises(AttachError, match="ParallelThingsBlock are not supported"):
        tokensieve.attach(build("cls", block_fn=ParallelThingsBlock), HALF)


def test_model_without_pooling() -> None:
    with pytest.raises(AttachError, match="without pooling"):
        tokensieve.attach(build("cls", global_pool=""), HALF)


def test_wrapper_without_a_head() -> None:
    from transformers import TimmWrapperConfig, TimmWrapperModel

    config = TimmWrapperConfig(
        architecture="vit_tiny_patch16_224", model_args={"img_size": 32, "depth": 3}
    )
    with pytest.raises(AttachError, match="attach to TimmWrapperForImageClassification"):
        tokensieve.attach(TimmWrapperModel(config), HALF)


def test_smaller_pictures_for_patches_of_one_size() -> None:
    class Overlapping(torch.nn.Module):
        num_patches, patch_size, grid_size = 16, (8, 8), (4, 4)

    odd = build("cls")
    odd.patch_embed = Overlapping()
    with pytest.raises(AttachError, match="patches of type Overlapping have one size"):
        tokensieve.attach(odd, {"name": "small", "at": "image", "keep": 4})


def test_training_mode(model: Any) -> None:
    with tokensieve.attach(model, HALF):
        model.train()
        try:
            with pytest.raises(UnsupportedError, match=r"model\.eval\(\)"):
                model(pictures())
        finally:
            model.eval()


def test_parts_of_the_forward(model: Any) -> None:
    with tokensieve.attach(model, HALF), torch.no_grad():
        for part in (model.forward_features, model.forward_intermediates):
            with pytest.raises(UnsupportedError, match="only the whole model is pruned"):
                part(pictures())


def test_arguments_of_the_caller(model: Any) -> None:
    mask = torch.ones(1, 1, 17, 17, dtype=torch.bool)
    with tokensieve.attach(model, HALF), torch.no_grad():
        with pytest.raises(UnsupportedError, match="attn_mask is not supported"):
            model(pictures(), attn_mask=mask)
        with pytest.raises(UnsupportedError, match="is_causal is not supported"):
            model(pictures(), is_causal=True)
        assert model(x=pictures(), attn_mask=None).shape == (3, 5)


def test_gradient_checkpointing() -> None:
    model = build("cls")
    model.set_grad_checkpointing()
    with (
        tokensieve.attach(model, HALF),
        pytest.raises(UnsupportedError, match="gradient checkpointing"),
    ):
        model(pictures())


def test_a_failed_forward_leaves_nothing_behind(model: Any) -> None:
    with torch.no_grad():
        untouched = model(pictures())
        with tokensieve.attach(model, HALF) as session:
            with pytest.raises(AssertionError):
                model(pictures(side=48))
            pruned = model(pictures())
            assert session.trace.stages[0].after == [8, 8, 8]
        assert torch.equal(model(pictures()), untouched)
        assert not torch.equal(pruned, untouched)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (
            {"at": 7, "score": "uniform", "keep": 2},
            "the model has 6 encoder blocks, allowed: 0 to 6",
        ),
        ({"at": 0, "score": "ttv", "keep": 2}, "no encoder block has run yet"),
        ({"at": 0, "score": "cls-attention", "keep": 2}, "no encoder block has run yet"),
        ({"at": 2, "score": "iga", "keep": 2}, "next_attention.*a classifier has no text"),
        ({"at": 2, "score": {"scorer": "attention", "rows": "raters"}, "keep": 2}, "has no text"),
        (
            {"at": 0, "score": "uniform", "keep": 4, "merge": {"merger": "contextual", "keep": 1}},
            "a classifier has no projector",
        ),
        (
            {"at": 2, "score": {"scorer": "cls-attention", "depth": 0.5}, "keep": 2},
            r"block 2 \(depth 0.5\), but only blocks 0 to 1 have run",
        ),
    ],
)
def test_stages_that_make_no_sense(model: Any, stage: dict[str, Any], message: str) -> None:
    with pytest.raises(AttachError, match=message):
        tokensieve.attach(model, {"name": "wrong", **stage})


@pytest.mark.parametrize("change", [{"merge": "absorb"}, {"select": ADAPTIVE["select"]}])
def test_pooling_that_cannot_weigh(change: dict[str, Any]) -> None:
    with pytest.raises(AttachError, match="pooling 'prr' can neither leave out nor weigh"):
        tokensieve.attach(build("prr"), {**HALF, **change})


@pytest.mark.parametrize("change", [{"merge": "tome"}, {"select": ADAPTIVE["select"]}])
def test_blocks_that_take_no_mask(monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]) -> None:
    """As in older versions of timm."""
    model = build("cls")
    block = type(model.blocks[0])
    forward = block.forward

    def without_mask(self: Any, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = forward(self, x)
        return result

    monkeypatch.setattr(block, "forward", without_mask)
    with pytest.raises(AttachError, match="take no attention mask"):
        tokensieve.attach(model, {**HALF, **change})
    with tokensieve.attach(model, HALF), torch.no_grad():
        assert model(pictures()).shape == (3, 5)


def test_two_pipelines(model: Any) -> None:
    with tokensieve.attach(model, HALF), torch.no_grad():
        with pytest.raises(AttachError, match="already attached"):
            tokensieve.attach(model, ADAPTIVE)
        model(pictures())
