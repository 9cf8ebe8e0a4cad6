"""Fields that hold components: looked up in the plugin registry while a file is validated."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, ValidationError, ValidationInfo
from pydantic_core import PydanticCustomError

from tokensieve.core.blame import blamed
from tokensieve.core.contract.components import Component, Merger, Scorer, Selector
from tokensieve.core.errors import PluginError, did_you_mean
from tokensieve.core.foreign import shown
from tokensieve.core.plugins.registry import Registry, build_registry
from tokensieve.core.strict import located

__all__ = ["AMerger", "AScorer", "ASelector", "as_list", "describe_problem", "dump_component",
           "located", "registry_of"]  # fmt: skip


def _component(kind: str, base: type[Component]) -> BeforeValidator:
    """Validator that turns ``name`` or ``{kind: name, **parameters}`` into a component."""

    def build(value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, base):
            return value
        if isinstance(value, str):
            value = {kind: value}
        if not isinstance(value, dict) or not isinstance(value.get(kind), str):
            raise PydanticCustomError(
                "component",
                f"a {kind} is a name or a mapping with the key '{kind}', not {_short(value)}",
            )
        parameters = {key: entry for key, entry in value.items() if key != kind}
        try:
            component = registry_of(info).get(kind, value[kind])
        except PluginError as error:
            raise located(str(error), (kind,)) from None
        try:
            with blamed(component, "its parameters", (ValidationError,)):
                return component.model_validate(parameters, context=info.context)
        except ValidationError as error:
            raise _relocated(error, component) from None

    return BeforeValidator(build)


def registry_of(info: ValidationInfo) -> Registry:
    """The registry that the file is validated against."""
    context = info.context or {}
    registry: Registry = context.get("registry") or build_registry()
    return registry


def _relocated(error: ValidationError, component: type[Component]) -> PydanticCustomError:
    """The first problem of a nested validation, with its path kept."""
    first = error.errors()[0]
    inner = (first.get("ctx") or {}).get("path", ())
    message = describe_problem(dict(first))
    if first["type"] == "extra_forbidden":
        hint = did_you_mean(str(first["loc"][-1]), component.model_fields)
        message = f"unknown parameter of {component.name!r}{hint}"
        return located(message, (*first["loc"], *inner), at_key=True)
    return located(message, (*first["loc"], *inner))


def describe_problem(problem: dict[str, Any]) -> str:
    """One pydantic problem in our words."""
    kind, given = problem["type"], _short(problem.get("input"))
    if kind == "extra_forbidden":
        return "unknown key"
    if kind == "missing":
        return "is missing"
    if kind in ("located", "value_error"):
        context = problem.get("ctx") or {}
        return str(context.get("message") or context.get("error") or problem["msg"])
    text = str(problem["msg"]).replace("Input should be", "must be")
    return f"{text}, not {given}"


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # it holds an integer of more digits than Python writes down
        text = shown(value)
    return text if len(text) <= 60 else text[:57] + "..."  # noqa: PLR2004 - one line


def dump_component(component: Component) -> Any:
    """The shortest YAML spelling: a name, or a mapping with the parameters that are not default."""
    kind = next(k for k, b in _BASES.items() if isinstance(component, b))
    parameters = component.model_dump(exclude_defaults=True, mode="json")
    return {kind: component.name, **parameters} if parameters else component.name


_BASES: dict[str, type[Component]] = {"scorer": Scorer, "selector": Selector, "merger": Merger}
AScorer = Annotated[Scorer, _component("scorer", Scorer), PlainSerializer(dump_component)]
ASelector = Annotated[Selector, _component("selector", Selector), PlainSerializer(dump_component)]
"""A parameter that is a selector: a name, or a mapping with the key ``selector``."""
AMerger = Annotated[Merger, _component("merger", Merger), PlainSerializer(dump_component)]


def as_list(value: Any) -> Any:
    """A single value stands for a list of one."""
    return value if isinstance(value, list | tuple) else [value]
