"""Mistakes in a short form are located in what was written."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field, ModelWrapValidatorHandler, ValidationError, model_validator

from tokensieve.core.pipeline.budgets import largest
from tokensieve.core.pipeline.short_forms import OneOrList, place_in, validated
from tokensieve.core.strict import StrictModel, error_at


class Item(StrictModel):
    size: Annotated[int, Field(gt=0)]
    tags: Annotated[tuple[str, ...], OneOrList(filled=True)] = ()

    @model_validator(mode="after")
    def _no_seven(self) -> Item:
        if self.size == 7:
            raise error_at("seven is taken", ("size",), at_key=True)
        if self.size == 8:
            raise ValueError("eight is odd")
        return self


class Box(StrictModel):
    items: Annotated[tuple[Item, ...], OneOrList()]

    @model_validator(mode="wrap")
    @classmethod
    def _short_form(cls, value: object, handler: ModelWrapValidatorHandler[Box]) -> Box:
        if isinstance(value, int):
            return validated(handler, {"items": {"size": value}}, lambda place: place[2:])
        return handler(value)


def problem(model: type[BaseModel], value: object) -> Any:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(value)
    (first,) = caught.value.errors()
    return first


@pytest.mark.parametrize(
    ("written", "place", "kind"),
    [
        ({"items": {"size": 0}}, ("items", "size"), "greater_than"),
        ({"items": [{"size": 1}, {"size": 0}]}, ("items", 1, "size"), "greater_than"),
        ({"items": {"size": 1, "tags": 5}}, ("items", "tags"), "string_type"),
        ({"items": {"size": 1, "color": 5}}, ("items", "color"), "extra_forbidden"),
        ({"items": {}}, ("items", "size"), "missing"),
        ({"items": {"size": 7}}, ("items", "size"), "located"),
        ({"items": {"size": 8}}, ("items",), "value_error"),
        (0, (), "greater_than"),
        (8, (), "value_error"),
    ],
)
def test_places_are_those_of_the_document(
    written: object, place: tuple[str | int, ...], kind: str
) -> None:
    first = problem(Box, written)
    assert (first["loc"], first["type"]) == (place, kind)


def test_what_an_error_carries_is_kept() -> None:
    taken = problem(Box, {"items": {"size": 7}})
    assert (taken["msg"], taken["ctx"]["at_key"]) == ("seven is taken", True)
    assert str(problem(Box, {"items": {"size": 8}})["ctx"]["error"]) == "eight is odd"
    small = problem(Box, {"items": {"size": -3}})
    assert (small["input"], small["msg"]) == (-3, "Input should be greater than 0")


def test_the_schema_knows_both_spellings() -> None:
    tags = Item.model_json_schema()["properties"]["tags"]["anyOf"]
    assert tags == [{"type": "string"}, {"type": "array", "items": tags[0], "minItems": 1}]


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (("keep", "int"), ("keep",)),
        (("parts", 0, "share"), ("parts", "share")),
        (("list", 1, "name"), ("list", 1, "name")),
        (("parts", "missing"), ("parts", "missing")),
        (("list", 5, "name"), ("list",)),
    ],
)
def test_parts_that_the_document_lacks_are_left_out(
    place: tuple[str | int, ...], expected: tuple[str | int, ...]
) -> None:
    given = {"keep": 3, "parts": {"share": 1}, "list": [{}, {"name": "x"}]}
    assert place_in(given, place) == expected


@pytest.mark.parametrize("limit", range(2, 14))
def test_bisection_finds_the_largest(limit: int) -> None:
    asked: list[int] = []

    def meets(number: int) -> bool:
        asked.append(number)
        return number < limit

    assert largest(meets, 1, 12) == min(limit - 1, 12)
    assert len(asked) <= 4
