"""Tables of components and presets, made from their docstrings, parameters and YAML files."""

from __future__ import annotations

import inspect
import json
import re
from functools import lru_cache
from typing import Any

from table_markup import code, markdown, table

from tokensieve.core.contract.components import Component
from tokensieve.core.pipeline.budgets import Budget
from tokensieve.core.pipeline.pipeline import About, Pipeline
from tokensieve.core.pipeline.schema import pipeline_schema
from tokensieve.core.plugins.discovery import build_registry
from tokensieve.core.plugins.registry import Entry, Registry

KINDS = ("scorer", "selector", "merger")
TEXT_SIGNALS = frozenset(
    {"next_attention", "previous_attention", "embeddings", "clip_relevance", "previous_keys"}
)
DEVIATION = re.compile(r"(?:One d|D)eviations?: (.+?)(?=\n\n|\n\* |\Z)", re.DOTALL)
SOURCE = re.compile(r"Source: (.+?)(?=\.\s+[A-Z]|\.\n\n|\.?\Z|\n\n|;)", re.DOTALL)
OPTION = re.compile(r"^\* ``(\w+): (\w+)`` (.+?)(?=^\* |\n\n|\Z)", re.DOTALL | re.MULTILINE)


@lru_cache(maxsize=1)
def registry() -> Registry:
    """What comes with the project; other plugins that are installed here are left out."""
    found = build_registry().copy()
    for kind, entries in found.entries.items():
        own = {name: entry for name, entry in entries.items() if entry.owner == "tokensieve"}
        found.entries[kind] = own
    return found


def signals_of(component: type[Component] | Component) -> frozenset[str]:
    """Every signal that a component may read."""
    return component.needs | component.uses


def doc(entry: Entry) -> str:
    """The docstring of a component, without its indentation."""
    return inspect.getdoc(entry.value) or ""


def text_aware(signals: frozenset[str]) -> str:
    """Whether the prompt's text has a say."""
    return "yes" if signals & TEXT_SIGNALS else "no"


def component_rows(kind: str) -> str:
    """One row per component: what it does, what it looks at, where it comes from."""
    rows = []
    for entry in registry().all(kind):
        needs, uses = sorted(entry.value.needs), sorted(entry.value.uses)
        optional = [f"`{signal}` (optional)" for signal in uses]
        reads = ", ".join([f"`{signal}`" for signal in needs] + optional)
        source = SOURCE.search(doc(entry))
        text = [text_aware(signals_of(entry.value))] if kind == "scorer" else []
        row = [f"`{entry.name}`", entry.value.summary(), reads or "-", *text]
        rows.append([*row, source[1] if source else "-"])
    columns = [kind, "what it does", "signals", *(["text-aware"] if kind == "scorer" else [])]
    return table([*columns, "source"], rows)


def parameter_rows() -> str:
    """One row per parameter of every component, as the JSON Schema has it."""
    definitions = pipeline_schema(registry())["$defs"]
    rows = []
    for kind in KINDS:
        for entry in registry().all(kind):
            schema = next(s for s in definitions[f"{kind}:{entry.name}"]["anyOf"] if "type" in s)
            for name, found in schema["properties"].items():
                if name != kind:
                    required = name in schema["required"]
                    row = described({"description": options(entry, name), **found}, required)
                    rows.append([f"`{entry.name}`", f"`{name}`", *row])
    return table(["component", "parameter", "allowed", "default", "meaning"], rows)


def options(entry: Entry, parameter: str) -> str:
    """What the docstring's list says about the values of a parameter."""
    found = [match for match in OPTION.findall(doc(entry)) if match[0] == parameter]
    return "; ".join(f"`{value}` {text.strip().rstrip('.;')}" for _, value, text in found) or "-"


def described(schema: dict[str, Any], required: bool) -> list[str]:
    """Allowed values, default and meaning of one property."""
    default = "required" if required else f"`{yaml_value(schema.get('default'))}`"
    return [allowed(schema), default, schema.get("description", "-")]


def yaml_value(value: object) -> str:
    """A default as YAML spells it."""
    if isinstance(value, dict) and "deviations" in value:
        return "{}"
    return json.dumps(value) if isinstance(value, bool | None) or value == "" else str(value)


def allowed(schema: dict[str, Any]) -> str:
    """The values a property may have, in a few words."""
    if "enum" in schema or "const" in schema:
        return code(schema.get("enum", [schema.get("const")]))
    if "$ref" in schema:
        name = str(schema["$ref"]).rsplit("/", 1)[-1].rsplit(".", 1)[-1]
        facts = f"mapping of {code(About.model_fields)}"
        return facts if name == "About" else "a " + name.lower().replace("-", " ")
    if "anyOf" in schema:
        spellings = [allowed(option) for option in schema["anyOf"] if option.get("type") != "null"]
        return " or ".join(dict.fromkeys(spellings)) + bounds(schema)
    if "prefixItems" in schema:
        return "[" + ", ".join(allowed(item) for item in schema["prefixItems"]) + "]"
    if schema.get("type") == "array":
        return "list of " + plural(allowed(schema["items"]).removeprefix("a "))
    names = {"string": "text", "integer": "whole number", "boolean": "`true`, `false`"}
    kind = str(schema["type"])
    return names.get(kind, kind) + bounds(schema)


def plural(words: str) -> str:
    """``whole number >= 0`` -> ``whole numbers >= 0``."""
    noun, *rest = re.split(r"(?= [<>])", words)
    return noun + "s" + "".join(rest)


def bounds(schema: dict[str, Any]) -> str:
    """``>= 1`` and its like."""
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    return "".join(f" {sign} {schema[key]}" for key, sign in signs.items() if key in schema)


def deviations() -> str:
    """What the docstrings say about differences from released code."""
    lines = []
    for entry, text in deviating():
        lines.append(f"- `{entry.name}`: {' '.join(markdown(text).split())}")
    return "\n".join(lines)


def deviating() -> list[tuple[Entry, str]]:
    """Components that differ from the code their authors released."""
    entries = [entry for kind in KINDS for entry in registry().all(kind)]
    found = [(entry, DEVIATION.search(doc(entry))) for entry in entries]
    return [(entry, match[1].strip()) for entry, match in found if match]


def shown(budget: Budget) -> str:
    """A budget in words."""
    if budget.kind == "tokens":
        return f"{budget.value:g} tokens"
    if budget.kind == "share":
        return f"{budget.value:g}" + ("" if budget.of == "original" else f" of {budget.of}")
    return str(budget)


def positions(pipeline: Pipeline) -> str:
    """The policy, and the other one for M-RoPE if there is one."""
    if not pipeline.stages:
        return "-"
    other = pipeline.mrope_positions
    return f"`{pipeline.positions}`" + (f" (M-RoPE: `{other}`)" if other else "")


def key_rows(definition: str) -> str:
    """Keys of the pipeline, of a stage or of a score term."""
    schema = pipeline_schema(registry())["$defs"][definition]
    if definition == "score-term":
        schema = schema["anyOf"][0]
        schema["properties"]["scorer"]["description"] = "its name; its parameters are beside it"
    required = [*schema.get("required", []), *(["keep"] if definition == "stage" else [])]
    rows = []
    for name, found in schema["properties"].items():
        meaning = re.sub(r"; default: .*", "", found.get("description", "-"))
        values, default, _ = described(found, name in required)
        rows.append([f"`{name}`", values, default, meaning])
    return table(["key", "value", "default", "meaning"], rows)
