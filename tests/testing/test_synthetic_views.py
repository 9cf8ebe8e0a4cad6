"""The views of the conformance suite are like those that the engine makes of real models."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch

import tokensieve
from tokensieve.core.contract.signals import SIGNALS, TokenStates
from tokensieve.core.contract.view import View
from tokensieve.core.plugins.discovery import build_registry
from tokensieve.core.testing import Scene, synthetic_batch
from tokensieve.core.testing.synthetic_image import ROWS


def test_synthetic_view_offers_every_signal() -> None:
    view = synthetic_batch(Scene(boundary=2, layers=(0, 1))).view()
    for signal in SIGNALS:
        assert view.has(signal)
        view.read(signal)
    assert {(t.layer, t.module) for t in view.transitions} == {
        (layer, module) for layer in (0, 1) for module in ("attention", "mlp")
    }
    assert view.next_attention.received("last").shape[::2] == view.valid.shape


def test_synthetic_view_has_no_history_at_boundary_0() -> None:
    view = synthetic_batch(Scene(boundary=0, layers=())).view()
    present = {signal for signal in SIGNALS if view.has(signal)}
    assert SIGNALS.keys() - present == {
        "transitions",
        "block_transitions",
        "previous_attention",
        "previous_hidden",
        "previous_keys",
    }


def test_more_padding_leaves_the_real_tokens_as_they_are() -> None:
    scene = Scene(boundary=1, layers=(0,))
    plain = synthetic_batch(scene).view()
    padded = synthetic_batch(Scene(**{**vars(scene), "padding": 3, "garbage": 1})).view()
    width = plain.valid.shape[1]
    assert padded.valid.shape[1] == width + 3
    for signal in ("hidden", "vision_keys", "vision_attention", "grid"):
        before, after = plain.read(signal), padded.read(signal)[:, :width]
        assert torch.equal(before[plain.valid], after[plain.valid])
    for before, after in zip(plain.transitions, padded.transitions, strict=True):
        ours = before.at_tokens(before.magnitude)[plain.valid]
        assert torch.equal(ours, after.at_tokens(after.magnitude)[:, :width][plain.valid])
    hidden = plain.hidden[~plain.valid]
    assert not torch.equal(hidden, padded.hidden[:, :width][~plain.valid])


def test_pruned_scene_has_gaps_and_an_extra_token() -> None:
    view = synthetic_batch(Scene(pruned=True)).view()
    assert view.index[0, 0] == -1
    assert view.vision_features[0, 0].abs().sum() == 0
    assert (view.index[0].diff() > 1).any()


def test_every_tensor_is_on_the_device_of_the_scene() -> None:
    made = synthetic_batch(Scene(device="meta", depths=(0.5,)))
    tensors = [made.valid, made.index, *made.tensors.values(), *made.text.values()]
    tensors += [values for part in made.attention.values() for values in part.values()]
    tensors += [values for part in made.encoder.values() for values in part.values()]
    tensors += [change.magnitude for change in made.transitions]
    assert {str(values.device) for values in tensors} == {"meta"}


def structure(view: View) -> dict[str, Any]:
    """Signal -> dimensions and type; checks that it has one row per image, one value per token."""

    def described(values: torch.Tensor, tokens_at: int = 1) -> tuple[int, torch.dtype]:
        assert values.shape[0] == view.valid.shape[0]
        assert values.shape[tokens_at] == view.valid.shape[1]
        return values.ndim, values.dtype

    def of(signal: str) -> Any:
        value = view.read(signal)
        if signal == "cls_feature":
            assert value.shape[:2] == (view.valid.shape[0], 1)
            return value.ndim, value.dtype
        if signal.endswith(("next_attention", "previous_attention")):
            weights = torch.ones(view.valid.shape[0], view.embeddings.text.shape[1])
            return [described(value.received(rows), 2) for rows in (*ROWS, weights)]
        if isinstance(value, torch.Tensor):
            return described(value)
        if isinstance(value, TokenStates):
            assert value.text.shape[:2] == value.valid.shape == value.instruction.shape
            return [described(value.visual), value.text.dtype, value.valid.dtype]
        if signal == "encoder_layers":
            layer = value(None)
            assert layer.keys(joined=True).shape[-1] > layer.keys().shape[-1]
            return [described(v) for v in (layer.attention(), layer.attention("received"))]
        assert value
        for transition in value:
            assert transition.columns.max() < transition.valid.shape[1]
            assert transition.magnitude.shape == transition.cosine.shape == transition.valid.shape
        return {
            (t.module, *described(t.at_tokens(t.magnitude)), t.valid.dtype, t.columns.dtype)
            for t in value
        }

    return {signal: of(signal) for signal in sorted(SIGNALS) if view.has(signal)}


SPY = '''
import tokensieve
from tokensieve.core.contract.signals import SIGNALS

SEEN = []

class Spy(tokensieve.Scorer):
    """Rank tokens by index, and keep the views."""
    name = "spy"
    uses = frozenset(SIGNALS)
    def score(self, view):
        SEEN.append(STRUCTURE(view))
        return -view.index.float()

@tokensieve.hookimpl
def tokensieve_register(registry):
    registry.add(Spy)
'''


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", ["llava", "qwen-vl", "internvl", "llava-pixtral"])
def test_synthetic_views_are_like_those_of_the_models(
    family: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    plugin = tmp_path / "spy.py"
    plugin.write_text(SPY, encoding="utf-8")
    spied = sys.modules[build_registry([plugin]).get("scorer", "spy").__module__]
    vars(spied)["STRUCTURE"] = structure
    model = tiny_models.build(family, dtype)
    prompts = [
        tiny_models.Prompt(2, tiny_models.DEFAULT_IMAGES[family], 3, seed=1),
        tiny_models.Prompt(4, tiny_models.DEFAULT_IMAGES[family][:1], 2, seed=2),
    ]
    pipeline = {"stages": [{"at": [0, 2], "score": "spy", "keep": [9, 5]}]}
    with tokensieve.attach(model, pipeline, plugins=[plugin]) as session, torch.no_grad():
        model(**tiny_models.inputs(family, prompts, dtype=dtype))
        missing = SIGNALS.keys() - session.bound.provides
    for boundary, real in zip((0, 2), vars(spied)["SEEN"], strict=True):
        scene = Scene(boundary=boundary, layers=tuple(range(boundary)), dtype=dtype)
        ours = structure(synthetic_batch(scene).view())
        if family == "qwen-vl":  # turns its queries and keys in float32, whatever its own type
            ours.update(vision_keys=(3, torch.float32), vision_attention=(3, torch.float32))
            ours.update(encoder_layers=[(3, torch.float32)] * 2)
        assert real == {signal: kind for signal, kind in ours.items() if signal not in missing}
