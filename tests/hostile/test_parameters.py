"""Hostile numbers: whatever stands for one is in its bounds, or one line that names the place."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numeric_fields
import pytest
from command_line import Call, clear, one_line
from hypothesis import given, settings
from hypothesis import strategies as some
from numeric_fields import Number
from pydantic import BaseModel

import tokensieve
from tokensieve.core.contract.components import Component
from tokensieve.core.contract.view import View
from tokensieve.core.errors import TokensieveError
from tokensieve.core.files.yaml_source import Source
from tokensieve.core.pipeline.budgets import Budget
from tokensieve.core.pipeline.loading import load_pipeline
from tokensieve.core.plugins.discovery import build_registry
from tokensieve.core.strict import MOST_ENTRIES, StrictModel
from tokensieve.core.study.spec.study import StudySpec, read_study

FIELDS = numeric_fields.components()
STAGE: dict[str, Any] = {"at": 2, "score": "uniform", "keep": 5}
KEYS = {"scorer": "score", "selector": "select", "merger": "merge"}


def refused(run: Any, *words: str) -> None:
    """One clear line of ours."""
    with pytest.raises(TokensieveError) as caught:
        run()
    clear(str(caught.value), *words)


def read(number: Number, value: Any) -> None:
    """The field as a pipeline or a study has it, with what else it needs."""
    name, given_value = number.model.name, number.wrapped(value)
    if not issubclass(number.model, Component):
        task = {"task": name, number.field: given_value}
        return study(tasks=[task])
    kind = number.model.kind
    part: dict[str, Any] = {kind: name, number.field: given_value}
    stage = {**STAGE, KEYS[kind]: part}
    stage["at"] = 0 if getattr(number.model, "space", "") == "vision" else 2
    load_pipeline(stage)
    return None


def study(**changes: Any) -> None:
    plain = {"models": ["tiny-llava"], "budgets": [0.5], "tasks": ["digits"]}
    read_study(Source("study.yaml", {**plain, **changes}), build_registry(), Path())


# ------------------------------------------------------------------ every field of every component

NO_NUMBERS: dict[str, Any] = {
    "true": True,
    "false": False,
    "text": "5",
    "underscore": "1_000",
    "words": "many",
    "empty-text": "",
    "nan-text": "nan",
    "nan": math.nan,
    "inf": math.inf,
    "minus-inf": -math.inf,
    "wide": 10**20,
    "minus-wide": -(10**20),
    "thousands-of-digits": 10**5000,
    "list": [1, 2, 3, 4, 5],
    "mapping": {"value": 1},
    "bytes": b"5",
    "complex": 1j,
}


@pytest.mark.parametrize("value", NO_NUMBERS.values(), ids=NO_NUMBERS)
@pytest.mark.parametrize("number", FIELDS, ids=lambda number: number.title)
def test_what_is_no_number_for_a_component(number: Number, value: Any) -> None:
    refused(lambda: read(number, value), number.field)


@pytest.mark.parametrize("side", ["below", "above", "far-below", "far-above"])
@pytest.mark.parametrize("number", FIELDS, ids=lambda number: number.title)
def test_numbers_out_of_bounds_for_a_component(number: Number, side: str) -> None:
    assert number.low is not None
    assert number.high is not None
    step = 1 if number.kind is int else max(1e-3, abs(number.high) * 1e-3)
    values = {"below": number.low - step, "above": number.high + step,
              "far-below": number.low - 2**62, "far-above": 2**62}  # fmt: skip
    value = number.kind(values[side])
    if number.kind is int and number.high >= 2**62:
        value = 2**63 if "above" in side else value
    refused(lambda: read(number, value), number.field)


@pytest.mark.parametrize(
    "number", [n for n in FIELDS if n.kind is int], ids=lambda number: number.title
)
def test_fractions_are_no_whole_numbers(number: Number) -> None:
    if number.field != "keep":  # which may be a share as well
        refused(lambda: read(number, 2.5), number.field)
        refused(lambda: read(number, 2.0), number.field)
    else:
        refused(lambda: read(number, 2.5), number.field)


FLAGS = [
    (entry.value, name)
    for kind in KEYS
    for entry in build_registry().all(kind)
    for name, field in entry.value.model_fields.items()
    if field.annotation is bool
]


@pytest.mark.parametrize("value", [1, 0, 1.0, "yes", "true", "off", "", None, [True]], ids=repr)
@pytest.mark.parametrize(("model", "name"), FLAGS, ids=lambda value: getattr(value, "name", value))
def test_what_is_neither_true_nor_false(model: Any, name: str, value: Any) -> None:
    examples: dict[str, Any] = next(iter(model.examples()), {})
    part = {model.kind: model.name, **examples, name: value}
    stage = {**STAGE, KEYS[model.kind]: part}
    stage["at"] = 0 if getattr(model, "space", "") == "vision" else 2
    refused(lambda: load_pipeline(stage), name)


# ------------------------------------------------------------------ nothing is forgotten


def test_every_model_of_a_file_is_strict() -> None:
    numeric_fields.import_everything()
    found = numeric_fields.models()
    loose = {kind.__name__ for kind in found if not issubclass(kind, StrictModel)}
    assert not loose
    assert {"Pipeline", "Stage", "Budget", "StudySpec", "AttributionSpec", "TtvScorer", "Part"} <= {
        kind.__name__ for kind in found
    }


def test_every_number_has_bounds() -> None:
    numeric_fields.import_everything()
    numbers = [n for kind in numeric_fields.models() for n in numeric_fields.numbers_of(kind)]
    unbounded = {n.title for n in numbers if n.low is None or n.high is None}
    assert not unbounded
    assert len(numbers) > len(FIELDS) > 25


def test_every_list_of_numbers_or_parts_is_capped() -> None:
    long = [0.5] * (MOST_ENTRIES + 1)
    refused(lambda: study(budgets=long), "budgets", "10,001 entries")


class Loose(tokensieve.Scorer):
    """Its author forgot bounds."""

    name = "loose"
    power: float = 1.0
    rounds: int = 1
    flag: bool = False
    either: int | float | None = None
    several: tuple[float, ...] = ()
    anything: Any = None

    def score(self, view: View) -> Any:
        return view.hidden[..., 0]


@pytest.mark.parametrize("value", NO_NUMBERS.values(), ids=NO_NUMBERS)
@pytest.mark.parametrize("field", ["power", "rounds", "either", "several"])
def test_components_of_others_are_strict_too(field: str, value: Any) -> None:
    registry = build_registry().copy()
    registry.add(Loose)
    wrapped = [value] if field == "several" else value
    stage = {**STAGE, "score": {"scorer": "loose", field: wrapped}}
    if field == "several" and value == NO_NUMBERS["list"]:
        wrapped = stage["score"][field] = [[math.nan]]
    refused(lambda: load_pipeline(stage, registry=registry), field)


@pytest.mark.parametrize("value", [math.nan, -math.inf, 10**30, [1] * 20_000, {"a": [math.inf]}])
def test_even_anything_is_finite_and_short(value: Any) -> None:
    registry = build_registry().copy()
    registry.add(Loose)
    stage = {**STAGE, "score": {"scorer": "loose", "anything": value}}
    refused(lambda: load_pipeline(stage, registry=registry), "anything")


# ------------------------------------------------------------------ pipelines

PIPELINE_PLACES: dict[str, Any] = {
    "at": lambda v: {**STAGE, "at": v},
    "at-second": lambda v: {**STAGE, "at": [1, v]},
    "keep": lambda v: {**STAGE, "keep": v},
    "keep-tokens": lambda v: {**STAGE, "keep": {"tokens": v}},
    "keep-average": lambda v: {**STAGE, "keep": {"average": v}},
    "keep-share": lambda v: {**STAGE, "keep": {"share": v}},
    "keep-flops": lambda v: {**STAGE, "keep": {"flops": v}},
    "keep-kind": lambda v: {**STAGE, "keep": {"kind": "share", "value": v}},
    "keep-overall": lambda v: {"stages": [STAGE], "keep": {"average": v}},
    "weight": lambda v: {**STAGE, "score": {"scorer": "ttv", "weight": v}},
    "depth": lambda v: {"stages": [STAGE], "depth": v},
    "year": lambda v: {"stages": [STAGE], "about": {"year": v}},
    "share-of-a-part": lambda v: {
        **STAGE, "select": {"selector": "composite", "parts": [{"share": v}, {}]}
    },
    "nested-seed": lambda v: {
        **STAGE, "select": {"selector": "composite",
                            "parts": [{"score": {"scorer": "random", "seed": v}}]}
    },
}  # fmt: skip
WORDS = {"at-second": "at", "share-of-a-part": "share", "nested-seed": "seed", "year": "year"}
NEVER = {**NO_NUMBERS, "above": 10**12, "minus": -5, "minus-float": -0.5}


@pytest.mark.parametrize("value", NEVER.values(), ids=NEVER)
@pytest.mark.parametrize("place", PIPELINE_PLACES)
def test_numbers_of_a_pipeline(place: str, value: Any) -> None:
    if place == "weight" and value in (-5, -0.5):
        value = -1e9
    if place == "nested-seed" and value == 10**12:
        value = 2**63
    if place == "at" and isinstance(value, list):
        value = [5, 4]
    document = PIPELINE_PLACES[place](value)
    refused(lambda: load_pipeline(document), WORDS.get(place, place.partition("-")[0]))


@pytest.mark.parametrize("value", NEVER.values(), ids=NEVER)
def test_budgets_from_outside(value: Any) -> None:
    refused(lambda: load_pipeline("fastv", keep=value))


LONG: dict[str, Any] = {
    "stages": {"stages": [{**STAGE, "at": n} for n in range(1001)]},
    "boundaries": {**STAGE, "at": list(range(1001))},
    "budgets": {**STAGE, "at": [1, 2], "keep": [0.5] * 1001},
    "scorers": {**STAGE, "score": ["uniform"] * 65},
    "parts": {**STAGE, "select": {"selector": "composite", "parts": [{"share": 0.01}] * 65}},
    "first-choice": {**STAGE, "select": {"selector": "windowed", "score": ["uniform"] * 65}},
    "deviations": {"stages": [STAGE], "about": {"deviations": ["x"] * 10_001}},
    "windows": {**STAGE, "select": {"selector": "windowed", "windows": [1] * 100}},
    "layers": {**STAGE, "score": {"scorer": "ttv", "layers": list(range(10_001))}},
}


@pytest.mark.parametrize("case", LONG)
def test_lists_that_nobody_writes(case: str) -> None:
    refused(lambda: load_pipeline(LONG[case]))


def one_of(number: Number) -> str:
    kind = number.model.kind
    value = "[2, 1e9]" if number.entries else "1e9" if number.kind is int else "1e30"
    at = 0 if getattr(number.model, "space", "") == "vision" else 2
    part = f"{{{kind}: {number.model.name}, {number.field}: {value}}}"
    stage = {"at": at, "score": "uniform", KEYS[kind]: part, "keep": 5}
    return "".join(f"{key}: {entry}\n" for key, entry in stage.items())


@pytest.mark.parametrize(
    "number", [n for n in FIELDS if issubclass(n.model, Component)], ids=lambda n: n.title
)
def test_files_name_line_and_column(number: Number, call: Call, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(one_of(number))
    result = call("validate", "p.yaml")
    one_line(result, "p.yaml:", number.field)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    some.one_of(
        some.integers(),
        some.floats(),
        some.booleans(),
        some.text(max_size=9),
        some.none(),
        some.dictionaries(
            some.sampled_from(["tokens", "share", "average", "flops", "of", "kind", "value"]),
            some.one_of(some.integers(), some.floats(), some.booleans(), some.text(max_size=5)),
            max_size=3,
        ),
    )
)
def test_a_budget_is_possible_or_refused(value: Any) -> None:
    """Whatever is taken is a finite number of tokens, or a share, within what images have."""
    try:
        pipeline = load_pipeline({**STAGE, "keep": value})
    except TokensieveError as error:
        for line in str(error).splitlines():  # one for each problem
            clear(line, "keep")
    else:
        (budget,) = pipeline.stages[0].keep
        counts = budget.kind in ("tokens", "average")
        assert 1 <= budget.value <= 1_000_000 if counts else 0 < budget.value <= 1
        assert Budget.model_validate(budget.model_dump()) == budget


# ------------------------------------------------------------------ studies

STUDY_PLACES: dict[str, Any] = {
    "samples": lambda v: {"samples": v},
    "batch": lambda v: {"batch": v},
    "max_new_tokens": lambda v: {"max_new_tokens": v},
    "seeds": lambda v: {"seeds": [0, 1, v]},
    "budgets": lambda v: {"budgets": [{"average": v}]},
    "budgets-share": lambda v: {"budgets": [{"share": v}]},
    "budgets-flops": lambda v: {"budgets": [{"flops": v}]},
    "tasks": lambda v: {"tasks": [{"task": "digits", "samples": v}]},
    "tasks-side": lambda v: {"tasks": [{"task": "digits", "side": v}]},
    "anatomy": lambda v: {"anatomy": {"scorers": ["ttv"], "samples": v}},
    "anatomy-boundary": lambda v: {"anatomy": {"scorers": ["ttv"], "boundary": v}},
    "anatomy-seed": lambda v: {"anatomy": {"scorers": [{"scorer": "random", "seed": v}]}},
    "pipelines": lambda v: {"pipelines": [{"pipeline": {**STAGE, "keep": v}, "name": "mine"}]},
    "pipelines-weight": lambda v: {
        "pipelines": [
            {"pipeline": {**STAGE, "score": {"scorer": "ttv", "weight": v}}, "name": "mine"}
        ]
    },
}


@pytest.mark.parametrize("value", NEVER.values(), ids=NEVER)
@pytest.mark.parametrize("place", STUDY_PLACES)
def test_numbers_of_a_study(place: str, value: Any) -> None:
    if place in ("seeds", "anatomy-seed") and value == 10**12:
        value = 2**63
    if place == "pipelines-weight" and value in (-5, -0.5):
        value = -1e9
    refused(lambda: study(**STUDY_PLACES[place](value)), place.partition("-")[0])


def test_a_study_has_no_free_number() -> None:
    names = {number.field for number in numeric_fields.numbers_of(StudySpec)}
    assert names == {"samples", "seeds", "max_new_tokens", "batch"}
    assert issubclass(StudySpec, BaseModel)
