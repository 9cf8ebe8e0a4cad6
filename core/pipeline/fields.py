"""Fields that hold components: looked up in the plugin registry while a file is validated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, ValidationError, ValidationInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from tokensieve.core.blame import blamed
from tokensieve.core.contract.components import Component, Merger, Scorer, Selector
from tokensieve.core.errors import PluginError, did_you_mean
from tokensieve.core.foreign import shown
from tokensieve.core.pipeline.short_forms import place_in
from tokensieve.core.plugins.discovery import build_registry
from tokensieve.core.plugins.registry import Registry
from tokensieve.core.strict import error_at


def _component(kind: str, base: type[Component]) -> BeforeValidator:
    """Validator that turns ``name`` or ``{kind: name, **parameters}`` into a component."""

    def build(value: object, info: ValidationInfo) -> Component:
        if isinstance(value, base):
            return value
        given = {kind: value} if isinstance(value, str) else value
        if not isinstance(given, dict) or not isinstance(given.get(kind), str):
            raise PydanticCustomError(
                "component",
                f"a {kind} is a name or a mapping with the key '{kind}', not {_short(value)}",
            )
        parameters = {key: entry for key, entry in given.items() if key != kind}
        try:
            component: type[Component] = registry_of(info).get(kind, given[kind])
        except PluginError as error:
            raise error_at(str(error), (kind,) if given is value else ()) from None
        try:
            with blamed(component, "its parameters", (ValidationError,)):
                return component.model_validate(parameters, context=info.context)
        except ValidationError as error:
            known = component.model_fields
            raise first_problem(error, parameters, component.name, known) from None

    return BeforeValidator(build)


def registry_of(info: ValidationInfo) -> Registry:
    """The registry that the file is validated against."""
    context = info.context or {}
    registry: Registry = context.get("registry") or build_registry()
    return registry


def first_problem(
    error: ValidationError, parameters: Mapping[str, object], name: str, known: Iterable[str]
) -> PydanticCustomError:
    """The first problem of the ``parameters`` of plugin ``name``, with its place among them."""
    first = error.errors()[0]
    place = place_in(parameters, (*first["loc"], *first.get("ctx", {}).get("path", ())))
    if first["type"] == "extra_forbidden":
        hint = did_you_mean(str(first["loc"][-1]), known)
        return error_at(f"unknown parameter of {name!r}{hint}", place, at_key=True)
    return error_at(describe_problem(first), place)


def describe_problem(problem: ErrorDetails) -> str:
    """One pydantic problem in our words."""
    kind, given = problem["type"], _short(problem.get("input"))
    if kind == "extra_forbidden":
        return "unknown key"
    if kind == "missing":
        return "is missing"
    if kind in ("located", "value_error"):
        context = problem.get("ctx") or {}
        return str(context.get("message") or context.get("error") or problem["msg"])
    text = problem["msg"].replace("Input should be", "must be")
    return f"{text}, not {given}"


def _short(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # it holds an integer of more digits than Python writes down
        text = shown(value)
    return text if len(text) <= 60 else text[:57] + "..."  # noqa: PLR2004 - one line


def dump_component(component: Component) -> str | dict[str, object]:
    """The shortest YAML spelling: a name, or a mapping with the parameters that are not default."""
    kind = next(k for k, b in _BASES.items() if isinstance(component, b))
    parameters = component.model_dump(exclude_defaults=True, mode="json")
    return {kind: component.name, **parameters} if parameters else component.name


_BASES: dict[str, type[Component]] = {"scorer": Scorer, "selector": Selector, "merger": Merger}
ScorerField = Annotated[Scorer, _component("scorer", Scorer), PlainSerializer(dump_component)]
SelectorField = Annotated[
    Selector, _component("selector", Selector), PlainSerializer(dump_component)
]
"""A parameter that is a selector: a name, or a mapping with the key ``selector``."""
MergerField = Annotated[Merger, _component("merger", Merger), PlainSerializer(dump_component)]
