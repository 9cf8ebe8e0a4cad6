"""The JSON Schema of a pipeline file, with the parameters of every registered plugin.

It describes every documented spelling: budgets as whole number, share or mapping; one value or a
list; components by name or as a mapping; the short form of a pipeline with one stage. What spans
several keys (boundaries that increase, budgets that shrink) only the loader can check.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import ModelSchema

from tokensieve.core.contract.components import Component, Merger, Scorer, Selector
from tokensieve.core.pipeline.budgets import Budget
from tokensieve.core.pipeline.pipeline import Pipeline
from tokensieve.core.pipeline.stage import ScoreTerm, Stage
from tokensieve.core.plugins.registry import Registry

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_SHARED: dict[type[BaseModel], str] = {
    Budget: "budget",
    ScoreTerm: "score-term",
    Scorer: "scorer",
    Selector: "selector",
    Merger: "merger",
    Stage: "stage",
}
"""Types that have one definition for the whole file."""

_MARK = "tokensieve:definition"
_BOUNDS = {
    "gt": "exclusiveMinimum",
    "ge": "minimum",
    "lt": "exclusiveMaximum",
    "le": "maximum",
    "multiple_of": "multipleOf",
}

DESCRIPTIONS: dict[type[BaseModel], dict[str, str]] = {
    Pipeline: {
        "name": "how results call the pipeline; default: the file's name",
        "description": "one line for people",
        "source": "paper or repository",
        "about": "facts for people: year, released code, licence, meaning of `keep`, deviations",
        "depth": "decoder layers the boundaries were tuned for; a shallower model gets them scaled",
        "positions": "keep: survivors keep their positions; reindex: contiguous again",
        "mrope_positions": "the same for models with M-RoPE, if it differs",
        "keep": "overall budget that scales the stages' own budgets",
        "stages": "reductions, in the order of their boundaries",
    },
    Stage: {
        "at": "boundary: decoder layers that have run, 0 = the decoder's input; or a list of them",
        "score": "one scorer, or a list whose scores are added",
        "select": "which tokens stay, given the scores; default: top-k",
        "keep": "tokens of an image that stay; one budget, or one per boundary",
        "merge": "what becomes of the others; default: they are dropped",
        "scope": "what competes for the budget: the tokens of one image, or all of the sample",
        "order": "how the kept tokens stand: as in the image, or as the selector took them",
    },
    ScoreTerm: {
        "weight": "factor of these scores in the sum",
        "normalize": "bring the scores of an image to a common scale before they are added",
    },
}


def pipeline_schema(registry: Registry) -> JsonSchemaValue:
    """The schema of a pipeline file whose components are those of ``registry``."""
    definitions: JsonSchemaValue = {"budget": _budget()}
    for kind in ("scorer", "selector", "merger"):
        names = []
        for entry in registry.all(kind):
            name = f"{kind}:{entry.name}"
            definitions[name] = _component(kind, entry.value, definitions)
            names.append(name)
        definitions[kind] = {"anyOf": [_ref(name) for name in names] or [False]}
    definitions["score-term"] = _score_term(registry, definitions)
    definitions["stage"] = _stage(registry, definitions)
    definitions["pipeline"] = _described(Pipeline, definitions)
    shared = dict(definitions["pipeline"]["properties"])
    del shared["stages"], shared["keep"]  # `keep` is the stage's
    definitions["pipeline-of-one-stage"] = {
        **definitions["stage"],
        "description": "A pipeline of one stage: the keys of both on one level.",
        "properties": {**shared, **definitions["stage"]["properties"]},
    }
    return {
        "$schema": DIALECT,
        "title": "tokensieve pipeline",
        "anyOf": [_ref("pipeline"), _ref("pipeline-of-one-stage")],
        "$defs": dict(sorted(definitions.items())),
    }


def _ref(name: str) -> JsonSchemaValue:
    return {"$ref": f"#/$defs/{name}"}


def _budget() -> JsonSchemaValue:
    """The spellings that :class:`Budget` parses."""
    share: JsonSchemaValue = {"type": "number", "exclusiveMinimum": 0, "maximum": 1}
    tokens: JsonSchemaValue = {"type": "integer", "minimum": 1}
    return {
        "description": inspect.getdoc(Budget),
        "anyOf": [
            {**tokens, "description": "tokens of an image"},
            {**share, "description": "share of the image's original tokens"},
            _mapping({"tokens": tokens}, ["tokens"]),
            _mapping({"share": share, "of": {"enum": ["original", "input", "current"]}}, ["share"]),
            _mapping({"average": {"type": "number", "minimum": 1}}, ["average"]),
            _mapping({"flops": share}, ["flops"]),
        ],
    }


def _mapping(properties: JsonSchemaValue, required: list[str]) -> JsonSchemaValue:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _component(
    kind: str, component: type[Component], definitions: JsonSchemaValue
) -> JsonSchemaValue:
    """``name`` (where no parameter is required) or ``{kind: name, **parameters}``."""
    own = _own_schema(component, f"{kind}:{component.name}", definitions)
    name: JsonSchemaValue = {"const": component.name, "description": component.summary()}
    required = own.get("required", [])
    mapping = _mapping({kind: name, **own.get("properties", {})}, [kind, *required])
    spellings = [mapping] if required else [name, mapping]
    return {"description": inspect.cleandoc(component.__doc__ or ""), "anyOf": spellings}


def _score_term(registry: Registry, definitions: JsonSchemaValue) -> JsonSchemaValue:
    """A scorer, with ``weight`` and ``normalize`` among its parameters or around it."""
    own = _described(ScoreTerm, definitions)["properties"]
    around = {key: own[key] for key in DESCRIPTIONS[ScoreTerm]}
    spellings: list[JsonSchemaValue] = [_mapping({"scorer": _ref("scorer"), **around}, ["scorer"])]
    for entry in registry.all("scorer"):
        for own_spelling in definitions[f"scorer:{entry.name}"]["anyOf"]:
            extended = dict(own_spelling)
            if "properties" in extended:
                extended["properties"] = {**extended["properties"], **around}
            spellings.append(extended)
    return {"anyOf": spellings}


def _stage(registry: Registry, definitions: JsonSchemaValue) -> JsonSchemaValue:
    """A stage needs a budget unless its selector decides the number of tokens itself."""
    stage = _described(Stage, definitions)
    adaptive = [
        _ref(f"selector:{entry.name}")
        for entry in registry.all("selector")
        if entry.value.adaptive_count
    ]
    del stage["properties"]["keep"]["default"]
    unbounded = {"required": ["select"], "properties": {"select": {"anyOf": adaptive}}}
    stage["anyOf"] = [{"required": ["keep"]}, *([unbounded] if adaptive else [])]
    return stage


def _described(model: type[BaseModel], definitions: JsonSchemaValue) -> JsonSchemaValue:
    schema = _own_schema(model, model.__name__.lower(), definitions)
    for key, text in DESCRIPTIONS[model].items():
        schema["properties"][key]["description"] = text
    return schema


class _Generator(GenerateJsonSchema):
    """Pydantic's generator, which leaves the shared types to us."""

    asked: type[BaseModel] | None = None

    def model_schema(self, schema: ModelSchema) -> JsonSchemaValue:
        """A shared type becomes a mark, unless it is the one asked for."""
        shared = _SHARED.get(schema["cls"])
        if shared is not None and schema["cls"] is not self.asked:
            return {_MARK: shared}
        return super().model_schema(schema)

    def handle_invalid_for_json_schema(self, schema: object, error_info: str) -> JsonSchemaValue:
        """A plugin's parameter that JSON Schema cannot describe may be anything."""
        return {}

    def field_title_should_be_set(self, schema: object) -> bool:
        """Titles would only repeat the keys."""
        return False


def _own_schema(
    model: type[BaseModel], prefix: str, definitions: JsonSchemaValue
) -> JsonSchemaValue:
    """The schema of one model; its nested models go to ``definitions`` under ``prefix``."""
    generator = _Generator()
    generator.asked = model
    schema = generator.generate(model.__pydantic_core_schema__, mode="validation")
    nested = schema.pop("$defs", {})

    def place(name: str) -> str:
        return str(nested[name].get(_MARK) or f"{prefix}.{name}")

    for name, definition in nested.items():
        if _MARK not in definition:
            definitions[place(name)] = _relinked(definition, place)
    return _relinked(schema, place)


def _relinked(schema: JsonSchemaValue, place: Callable[[str], str]) -> JsonSchemaValue:
    """A schema whose references point to our definitions; of pydantic's, ``place`` tells which."""

    def relink(node: object) -> object:
        if isinstance(node, list):
            return [relink(item) for item in node]
        return relink_mapping(node) if isinstance(node, dict) else node

    def relink_mapping(node: JsonSchemaValue) -> JsonSchemaValue:
        if _MARK in node:
            return {**node, **_ref(node[_MARK])} if len(node) > 1 else _ref(node[_MARK])
        links = {key: relink(value) for key, value in node.items() if key != "$ref"}
        if "anyOf" in node:  # pydantic leaves the bounds of a union in its own words
            links = {_BOUNDS.get(key, key): value for key, value in links.items()}
        if "$ref" in node:
            links.update(_ref(place(node["$ref"].removeprefix("#/$defs/"))))
        return links

    return {key: value for key, value in relink_mapping(schema).items() if key != "title"}


__all__ = ["DESCRIPTIONS", "pipeline_schema"]
