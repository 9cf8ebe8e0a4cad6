"""The JSON Schema of a pipeline file says what the loader says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tokensieve.core.errors import PipelineError
from tokensieve.core.files.yaml_source import parse_yaml
from tokensieve.core.pipeline.loading import load_pipeline
from tokensieve.core.pipeline.schema import DESCRIPTIONS, pipeline_schema
from tokensieve.core.plugins.discovery import build_registry
from tokensieve.core.plugins.registry import Registry

REGISTRY = build_registry()
PRESETS = [entry.name for entry in REGISTRY.all("pipeline")]
COMPONENTS = [entry for kind in ("scorer", "selector", "merger") for entry in REGISTRY.all(kind)]

PLUGIN = '''
import enum
from typing import Annotated

import tokensieve
from pydantic import Field, PlainValidator


class SharpnessScorer(tokensieve.Scorer):
    """Rank visual tokens by contrast."""

    name = "sharpness"
    needs = frozenset({"hidden"})

    radius: Annotated[int, Field(ge=1, description="pixels around a patch")]
    mode: str = "sobel"
    anything: Annotated[object, PlainValidator(lambda value: value)] = None

    def score(self, view):
        return view.hidden.norm(dim=-1)


@tokensieve.hookimpl
def tokensieve_register(registry):
    registry.add(SharpnessScorer)
'''


def validator(registry: Registry = REGISTRY) -> Draft202012Validator:
    return Draft202012Validator(pipeline_schema(registry))


VALIDATOR = validator()


def loads(document: dict[str, Any], registry: Registry = REGISTRY) -> bool:
    try:
        load_pipeline(document, registry=registry)
    except PipelineError:
        return False
    return True


@pytest.fixture
def plugin(tmp_path: Path) -> Registry:
    path = tmp_path / "sharpness.py"
    path.write_text(PLUGIN)
    return build_registry([path])


def test_the_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(pipeline_schema(REGISTRY))


def test_every_reference_leads_somewhere() -> None:
    schema = pipeline_schema(REGISTRY)
    references = set(json.dumps(schema).split('"$ref": "#/$defs/')[1:])
    names = {text.split('"')[0] for text in references}
    assert names <= set(schema["$defs"])
    assert len(names) > len(COMPONENTS)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_fits(preset: str) -> None:
    path: Path = REGISTRY.get("pipeline", preset)
    VALIDATOR.validate(parse_yaml(path.read_text(), preset).data)
    VALIDATOR.validate(load_pipeline(preset).to_plain())


STAGE = {"at": 2, "score": "attention", "keep": 0.5}
GOOD: dict[str, dict[str, Any]] = {
    "short-form": STAGE,
    "short-form-with-pipeline-keys": {**STAGE, "name": "x", "positions": "reindex", "depth": 32},
    "stages": {"name": "x", "stages": [STAGE]},
    "no-stages": {"name": "x"},
    "overall-budget": {"keep": {"average": 100}, "stages": [STAGE]},
    "list-of-boundaries": {**STAGE, "at": [2, 4], "keep": [0.5, 0.25]},
    "one-budget-for-all": {**STAGE, "at": [2, 4]},
    "tokens": {**STAGE, "keep": 64},
    "tokens-spelt-out": {**STAGE, "keep": {"tokens": 64}},
    "share-of-input": {**STAGE, "keep": {"share": 0.5, "of": "input"}},
    "average": {**STAGE, "keep": {"average": 64.5}},
    "flops": {**STAGE, "keep": {"flops": 0.4}},
    "mixed-budgets": {**STAGE, "at": [2, 4], "keep": [{"share": 0.5}, {"flops": 0.4}]},
    "scorer-with-parameter": {**STAGE, "score": {"scorer": "attention", "rows": "last"}},
    "scorer-with-weight": {**STAGE, "score": {"scorer": "ttv", "weight": 2, "layers": [0, 1]}},
    "nested-scorer": {**STAGE, "score": {"scorer": {"scorer": "iga"}, "normalize": "rank"}},
    "two-scorers": {**STAGE, "score": ["ttv", {"scorer": "iga", "normalize": "sum"}]},
    "selector-by-name": {**STAGE, "select": "top-k"},
    "selector-with-parameter": {**STAGE, "select": {"selector": "threshold", "rule": "iqr"}},
    "adaptive-without-budget": {"at": 2, "score": "attention", "select": "threshold"},
    "composite": {
        "at": 2,
        "keep": 10,
        "select": {
            "selector": "composite",
            "parts": [{"share": 0.5, "score": "attention"}, {"score": ["random"]}],
        },
    },
    "merger": {**STAGE, "at": 0, "score": "uniform", "merge": {"merger": "contextual", "keep": 4}},
    "no-merger": {**STAGE, "merge": None},
}


@pytest.mark.parametrize("name", GOOD)
def test_every_spelling_of_the_loader_fits(name: str) -> None:
    assert loads(GOOD[name])
    VALIDATOR.validate(GOOD[name])


BAD: dict[str, dict[str, Any]] = {
    "misspelt-key": {**STAGE, "scope_": "image"},
    "misspelt-pipeline-key": {"stages": [STAGE], "position": "keep"},
    "stage-key-beside-stages": {"stages": [STAGE], "at": 2},
    "unknown-scorer": {**STAGE, "score": "atention"},
    "unknown-parameter": {**STAGE, "score": {"scorer": "attention", "row": "last"}},
    "parameter-of-another": {**STAGE, "score": {"scorer": "iga", "layers": [0, 1]}},
    "wrong-choice": {**STAGE, "score": {"scorer": "attention", "rows": "first"}},
    "weight-inside-a-nested-scorer": {**STAGE, "score": {"scorer": {"scorer": "iga", "weight": 1}}},
    "scorer-as-selector": {**STAGE, "select": "attention"},
    "selector-without-its-parts": {**STAGE, "select": "composite"},
    "merger-without-its-budget": {**STAGE, "at": 0, "merge": "contextual"},
    "merger-of-nothing": {**STAGE, "at": 0, "merge": {"merger": "contextual", "keep": 0}},
    "no-boundary": {"stages": [{"score": "attention", "keep": 0.5}]},
    "empty-list-of-boundaries": {**STAGE, "at": []},
    "negative-boundary": {**STAGE, "at": -1},
    "boundary-as-text": {**STAGE, "at": "2"},
    "no-budget": {"at": 2, "score": "attention"},
    "no-budget-for-top-k": {"at": 2, "score": "attention", "select": "top-k"},
    "no-tokens": {**STAGE, "keep": 0},
    "more-than-everything": {**STAGE, "keep": 1.5},
    "two-kinds-of-budget": {**STAGE, "keep": {"flops": 0.5, "average": 3}},
    "budget-as-text": {**STAGE, "keep": "64"},
    "wrong-policy": {**STAGE, "positions": "kept"},
    "wrong-normalization": {**STAGE, "score": {"scorer": "ttv", "normalize": "softmax"}},
}


@pytest.mark.parametrize("name", BAD)
def test_what_the_loader_refuses_does_not_fit(name: str) -> None:
    assert not loads(BAD[name])
    assert not VALIDATOR.is_valid(BAD[name])


@pytest.mark.parametrize("entry", COMPONENTS, ids=lambda entry: f"{entry.kind}-{entry.name}")
def test_every_component_states_its_parameters(entry: Any) -> None:
    definition = pipeline_schema(REGISTRY)["$defs"][f"{entry.kind}:{entry.name}"]
    (mapping,) = [part for part in definition["anyOf"] if part.get("type") == "object"]
    assert set(mapping["properties"]) == {entry.kind, *entry.value.model_fields}
    assert definition["description"].startswith(entry.value.summary())


def test_a_plugin_brings_its_parameters(plugin: Registry) -> None:
    scorer = {"scorer": "sharpness", "radius": 3, "weight": 0.5}
    document = {**STAGE, "score": scorer}
    assert loads(document, plugin)
    assert validator(plugin).is_valid(document)
    assert not VALIDATOR.is_valid(document)
    assert not validator(plugin).is_valid({**STAGE, "score": {**scorer, "radius": 0}})


def test_a_scorer_with_a_required_parameter_is_no_bare_name(plugin: Registry) -> None:
    assert not loads({**STAGE, "score": "sharpness"}, plugin)
    assert not validator(plugin).is_valid({**STAGE, "score": "sharpness"})


def test_field_descriptions_reach_the_schema(plugin: Registry) -> None:
    text = json.dumps(pipeline_schema(plugin))
    assert "pixels around a patch" in text
    assert "Rank visual tokens by contrast." in text


def test_a_parameter_that_json_cannot_describe_may_be_anything(plugin: Registry) -> None:
    document = {**STAGE, "score": {"scorer": "sharpness", "radius": 1, "anything": [{}]}}
    assert validator(plugin).is_valid(document)


@pytest.mark.parametrize("model", DESCRIPTIONS, ids=lambda model: model.__name__)
def test_every_key_is_described(model: Any) -> None:
    assert set(DESCRIPTIONS[model]) == set(model.model_fields) - {"scorer"}
