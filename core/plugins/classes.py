"""Classes are checked before a registry takes them: what is wrong would only show later."""

from __future__ import annotations

import inspect

from tokensieve.core.contract.adapter import Adapter
from tokensieve.core.contract.components import Component
from tokensieve.core.contract.signals import SIGNALS
from tokensieve.core.contract.tasks import Task
from tokensieve.core.errors import PluginError, did_you_mean

PluginClass = type[Component] | type[Adapter] | type[Task]

RESERVED_PARAMETERS: dict[str, frozenset[str]] = {
    "scorer": frozenset({"scorer", "weight", "normalize"}),
    "selector": frozenset({"selector"}),
    "merger": frozenset({"merger"}),
    "task": frozenset({"task", "file", "samples", "name"}),
}
"""Keys that YAML reads itself beside the parameters."""


def check_class(kind: str, base: PluginClass, component: PluginClass) -> None:
    """Refuse what would only fail later, while a pipeline is read or runs."""
    title = f"{kind} {component.__qualname__!r}"
    if inspect.isabstract(component):
        missing = ", ".join(sorted(component.__abstractmethods__))
        raise PluginError(f"{title} is not complete: define {missing}")
    if not issubclass(component, Component | Task) or not issubclass(base, Component | Task):
        return
    hidden = sorted(set(component.model_fields) & set(dir(base)) - set(base.model_fields))
    if hidden:
        raise PluginError(
            f"{title}: parameter {hidden[0]!r} hides an attribute of {base.__name__}: "
            f"write `{hidden[0]} = ...` without a type if you mean that attribute, or rename it"
        )
    reserved = sorted(set(component.model_fields) & RESERVED_PARAMETERS[kind])
    if reserved:
        raise PluginError(
            f"{title}: parameter {reserved[0]!r} is a key of its own in YAML: rename it"
        )
    if not issubclass(component, Component):
        return
    for attribute, signals in (("needs", component.needs), ("uses", component.uses)):
        given: object = signals
        if not isinstance(given, frozenset | set):
            raise PluginError(
                f"{title}: `{attribute}` is {given!r}, allowed: a set of signals such as "
                'frozenset({"hidden"})'
            )
        for signal in sorted(map(str, given - SIGNALS.keys())):
            hint = did_you_mean(signal, SIGNALS)
            raise PluginError(f"{title}: `{attribute}` names the unknown signal {signal!r}{hint}")
