"""Records: what is written is what was given, and it is read by attribute or by key."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tokensieve.core.study.plan.keys import key_of
from tokensieve.core.study.plan.records import CellConfig, as_json
from tokensieve.core.study.store.manifest import read_manifest
from tokensieve.core.study.store.records import SampleRecord, Summary
from tokensieve.core.study.store.store import Store

CONFIG: dict[str, Any] = {
    "kind": "accuracy",
    "model": {"name": "m", "sha256": "a", "device": "cpu"},
    "task": {"name": "t", "parameters": {"deep": [1, {"x": None}]}, "samples": 3},
    "pipeline": {"name": "p", "resolved": {"stages": [{"at": 2}]}},
    "budget": {"average": 32},
    "seed": 0,
}


def test_a_configuration_is_written_as_it_was_given() -> None:
    config = CellConfig.model_validate(CONFIG)
    assert config.plain() == CONFIG
    assert key_of(config) == key_of(CONFIG) == key_of(json.loads(json.dumps(config.plain())))
    assert json.loads(json.dumps([config], default=as_json)) == [CONFIG]
    assert pickle.loads(pickle.dumps(config)) == config


def test_a_later_version_may_say_more() -> None:
    """The key is that of all of it."""
    later = {**CONFIG, "more": 1, "model": {**CONFIG["model"], "more": [2]}}
    config = CellConfig.model_validate(later)
    assert config.plain() == later
    assert key_of(config) == key_of(later) != key_of(CONFIG)


def test_attributes_and_keys_say_the_same() -> None:
    config = CellConfig.model_validate(CONFIG)
    assert config.model.name == config["model"]["name"] == "m"
    assert config.model.revision is None
    assert config.model.get("revision", "none") == "none"
    assert "revision" not in config.model
    assert dict(config.model.items()) == {**config.model} == CONFIG["model"]
    with pytest.raises(KeyError):
        config.model["revision"]


def test_half_a_character_of_an_answer_comes_back() -> None:
    record = SampleRecord(id="0", answer="\ud800", score=1.0)
    assert SampleRecord.model_validate(json.loads(json.dumps(record.plain()))) == record


def test_a_summary_without_means_is_none() -> None:
    assert not Summary()
    assert not Summary.model_validate({})
    assert Summary(samples=1)


@pytest.mark.parametrize("score", ["1", None, True, [1.0]])
def test_a_score_is_a_number(score: Any) -> None:
    with pytest.raises(ValidationError):
        SampleRecord.model_validate({"id": "0", "score": score})


def test_what_is_spoilt_in_a_manifest_is_left_out(tmp_path: Path) -> None:
    text = {"name": "quick", "seeds": [0, 1], "starts": 3, "environments": None, "tasks": [1]}
    (tmp_path / "manifest.json").write_text(json.dumps(text))
    manifest = read_manifest(Store(tmp_path))
    assert (manifest.name, manifest.seeds) == ("quick", [0, 1])
    assert (manifest.starts, manifest.environments, manifest.tasks) == ([], [], [])
