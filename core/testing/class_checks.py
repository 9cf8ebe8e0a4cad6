"""Checks of what a class declares: name, words, parameters."""

from __future__ import annotations

import copy
import pickle
import re
import sys
from typing import TYPE_CHECKING

import torch
from pydantic import ValidationError

from tokensieve.core.contract.components import Scorer
from tokensieve.core.files.yaml_source import parse_yaml
from tokensieve.core.pipeline.loading import dump_yaml, load_pipeline
from tokensieve.core.plugins.registry import KINDS
from tokensieve.core.testing.checks import check, check_each
from tokensieve.core.testing.trials import ComponentUnderTest, Trial, require

if TYPE_CHECKING:
    from tokensieve.core.contract.view import View

_KEBAB = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_ROOT = __name__.split(".", maxsplit=1)[0]


def registers(tested: ComponentUnderTest) -> None:
    """the registry takes it: complete, named, known signals, no parameter that hides something"""
    found = tested.registry.get(tested.kind, tested.cls.name)
    require(found is tested.cls, f"its name leads to {found!r}")


def name(tested: ComponentUnderTest) -> None:
    """its name is kebab-case; a built-in one is also the name of its module"""
    own, module = tested.cls.name, tested.cls.__module__.split(".")
    require(bool(_KEBAB.fullmatch(own)), f"{own!r} is not kebab-case (such as 'cls-attention')")
    expected = own.replace("-", "_")
    clash = expected in sys.stdlib_module_names  # random is called random_scores
    fitting = module[-1].startswith(f"{expected}_") if clash else module[-1] == expected
    require(
        module[0] != _ROOT or fitting,
        f"built-in {own!r} stands in {module[-1]}.py, expected {expected}.py",
    )


def documented(tested: ComponentUnderTest) -> None:
    """it has a docstring, and every parameter has a default or is explained"""
    text = (tested.cls.__doc__ or "").strip()
    require(bool(text), "the class has no docstring: say in one line what is kept and why")
    for parameter, info in getattr(tested.cls, "model_fields", {}).items():
        explained = info.description or re.search(rf"\b{re.escape(parameter)}\b", text)
        require(
            not info.is_required() or bool(explained),
            f"parameter {parameter!r} has no default: explain it in the docstring or by "
            "Field(description=...)",
        )


def schema(tested: ComponentUnderTest) -> None:
    """its parameters have a JSON Schema, for `tokensieve schema` and for editors"""
    tested.cls.model_json_schema()


def parameters(tested: ComponentUnderTest) -> None:
    """it can be built from its examples(), and with every option of its parameters"""
    require(bool(tested.trials), "there is no parameter set to try")


def strict_parameters(trial: Trial) -> None:
    """an unknown parameter is an error, and a built component cannot be changed"""
    cls, component = trial.tested.cls, trial.component
    unknown = {**trial.parameters, "no_such_parameter": 1}
    try:
        trial.tested.cls.model_validate(unknown, context={"registry": trial.tested.registry})
    except ValidationError:
        pass
    else:
        require(False, "takes an unknown parameter silently: leave `extra` in model_config alone")
    for parameter in cls.model_fields:
        try:
            setattr(component, parameter, getattr(component, parameter))
        except ValidationError:
            continue
        require(False, f"{parameter!r} can be assigned: leave `frozen` in model_config alone")


def yaml_round_trip(trial: Trial) -> None:
    """written to YAML and read again, it is equal; also with every parameter written out"""
    component, kind = trial.component, trial.tested.kind
    _same_after_yaml(trial, component)
    plain = {kind: component.name, **component.model_dump(mode="json")}
    _same_after_yaml(trial, plain)


def _same_after_yaml(trial: Trial, written: object) -> None:
    """Load a pipeline of one stage with the component, write it to YAML, and read that again."""
    registry = trial.tested.registry.copy()
    registry.add(_PlainScorer)
    key = {"scorer": "score", "selector": "select", "merger": "merge"}[trial.tested.kind]
    stage = {"at": 0, "keep": 0.5, "score": {"scorer": _PlainScorer.name}, key: written}
    pipeline = load_pipeline({"name": "conformance", "stages": [stage]}, registry=registry)
    text = dump_yaml(pipeline)
    again = load_pipeline(parse_yaml(text, "<yaml>").data, registry=registry)
    require(again == pipeline, f"reads back as another pipeline from: {text!r}")
    (only,) = again.stages
    found = {"scorer": only.score[0].scorer, "selector": only.select, "merger": only.merge}
    component = found[trial.tested.kind]
    require(component == trial.component, f"reads back as {component!r} from: {text!r}")


class _PlainScorer(Scorer):
    """Rank tokens by index: a stage must have some scorer."""

    name = "conformance-index"

    def score(self, view: View) -> torch.Tensor:
        return -view.index.float()


def rescales(trial: Trial) -> None:
    """rescaled() gives a component of its kind, an equal one if the depth stays the same"""
    component = trial.component
    same, half = component.rescaled(lambda at: at), component.rescaled(lambda at: (at + 1) // 2)
    require(same == component, f"rescaled() to the same depth gives {same!r}")
    base = KINDS[trial.tested.kind]
    require(isinstance(half, base), f"rescaled() gives {half!r}, not a {trial.tested.kind}")


def copies(trial: Trial) -> None:
    """a deep copy is equal, and so is a pickled one if the class can be imported"""
    component = trial.component
    require(copy.deepcopy(component) == component, "a deep copy is not equal to the original")
    if "<locals>" in trial.tested.cls.__qualname__:
        return  # Python cannot pickle objects of a class that was made inside a function
    again = pickle.loads(pickle.dumps(component))
    require(again == component, "a pickled copy is not equal to the original")


REGISTERS = check(registers, gate=True)
NAME = check(name)
DOCUMENTED = check(documented)
CLASS_CHECKS = (
    REGISTERS,
    NAME,
    DOCUMENTED,
    check(schema),
    check(parameters, gate=True),
    check_each(strict_parameters),
    check_each(yaml_round_trip),
    check_each(rescales),
    check_each(copies),
)
