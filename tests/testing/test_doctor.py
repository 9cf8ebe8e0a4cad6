"""``tokensieve doctor``: is pruning exact with what is installed? It cannot be fooled."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Call, one_line
from transformers import AutoConfig, Qwen2_5_VLConfig, Qwen3Config
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from tokensieve.core.engine.decoder import layer_arguments, masks
from tokensieve.core.plugins.discovery import build_registry
from tokensieve.core.testing import oracle
from tokensieve.core.testing.doctor import BATCHES, POLICIES, Case, examine, prepare

ADAPTERS = [entry.value for entry in build_registry().all("adapter")]


def check_family(adapter: Any, config: Any = None) -> list[Case]:
    return list(examine(prepare(adapter, config)))


CASES = len(POLICIES) * len(BATCHES)


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: adapter.name)
def test_every_family_is_exact(adapter: Any) -> None:
    cases = check_family(adapter)
    assert [case.problem for case in cases if not case.passed] == []
    assert len(cases) == (CASES if adapter.answers_questions else 1)


def test_command(call: Call) -> None:
    result = call("doctor")
    assert result.code == 0, result.out
    lines = result.out.splitlines()
    assert "transformers" in lines[0] and "Python" in lines[0]
    assert lines[1] == "device cpu, attention sdpa, float64"
    for adapter in ADAPTERS:
        assert any(line.startswith(f"{adapter.name}: ") for line in lines)
    assert sum("exact" in line for line in lines[:-1]) == 4 * CASES + 1
    assert lines[-1] == "25 of 25 cases equal the masked model: pruning is exact here"


def test_eager_attention(call: Call) -> None:
    result = call("doctor", "tiny-llava", "--attention", "eager")
    assert result.code == 0, result.out


@pytest.mark.parametrize("name", ["tiny-llava-hd", "tiny-qwen2.5-vl", "tiny-internvl"])
def test_built_in_models(call: Call, name: str) -> None:
    result = call("doctor", name)
    assert result.code == 0, result.out
    assert f"{CASES} of {CASES} cases" in result.out


def test_config_of_the_user_and_no_weights(call: Call, tmp_path: Path) -> None:
    """A folder that holds nothing but the config of a large model."""
    config = Qwen2_5_VLConfig().to_dict()
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert AutoConfig.from_pretrained(tmp_path).text_config.hidden_size > 4000
    result = call("doctor", tmp_path)
    assert result.code == 0, result.out
    assert "qwen-vl" in result.out and "llava" not in result.out


def test_shrunk_config_keeps_what_the_model_is() -> None:
    from transformers import InternVLConfig

    text = Qwen3Config(num_attention_heads=16, num_key_value_heads=8, rope_parameters={
        "rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0,
        "original_max_position_embeddings": 32768,
    }).to_dict()  # fmt: skip
    (adapter,) = (a for a in ADAPTERS if a.name == "internvl")
    config, size = adapter.shrunk(InternVLConfig(text_config=text))
    kept = config.text_config
    assert kept.model_type == "qwen3"
    assert kept.rope_parameters["rope_type"] == "yarn"
    assert (kept.num_attention_heads, kept.num_key_value_heads) == (4, 2)
    assert kept.num_hidden_layers == size.dims.layers == len(kept.layer_types) == 4
    assert all(case.passed for case in check_family(adapter, InternVLConfig(text_config=text)))


def test_unknown_model_and_backend_are_the_users(call: Call) -> None:
    for arguments in (["nonsense"], ["--attention", "flash"], ["--device", "cuda:99"]):
        result = call("doctor", *arguments)
        one_line(result)


# ---------------------------------------------------------------- it can fail


def shifted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions of the tokens after the prefill are one too low."""
    right = vars(layer_arguments)["next_offset"]
    monkeypatch.setattr(layer_arguments, "next_offset", lambda *args: right(*args) + 1)


def unmasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding of ragged samples is seen."""
    right = masks.layer_mask

    def all_real(backend: str, valid: Any, *args: Any) -> Any:
        return right(backend, None if valid is None else torch.ones_like(valid), *args)

    monkeypatch.setattr(masks, "layer_mask", all_real)


def bypassed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release that runs its layers past their hooks."""
    monkeypatch.setattr(LlamaDecoderLayer, "__call__", LlamaDecoderLayer.forward)


def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release whose layers do not look at the mask that they are given."""
    right = LlamaDecoderLayer.forward

    def forward(self: Any, *args: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        kwargs = {"position_embeddings": None, "position_ids": None, **kwargs}
        return right(self, *args, attention_mask=None, **kwargs)

    monkeypatch.setattr(LlamaDecoderLayer, "forward", forward)


@pytest.mark.parametrize(
    ("tamper", "shown"),
    [
        (shifted, "DIFFERS"),
        (unmasked, "DIFFERS"),
        (bypassed, "FAILED"),
        (deaf, "FAILED"),
    ],
)
def test_tampered_models_fail_loudly(
    call: Call, monkeypatch: pytest.MonkeyPatch, tamper: Any, shown: str
) -> None:
    tamper(monkeypatch)
    result = call("doctor", "tiny-llava")
    assert result.code == 1
    assert shown in result.out
    assert "do not trust pruning with these versions" in result.out


def test_oracle_is_written_without_the_engine() -> None:
    tree = ast.parse(Path(oracle.__file__).read_text(encoding="utf-8"))
    imported = {
        node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("tokensieve")
    }
    assert imported == {
        "tokensieve.core.contract.adapter",  # types only
        "tokensieve.core.contract.adapted",
        "tokensieve.core.errors",
        "tokensieve.core.lazy",
        "tokensieve.core.engine.trace",
    }
