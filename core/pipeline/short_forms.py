"""Short forms: expanded before they are validated, with mistakes located in what was written.

Pydantic locates a mistake in the long form that it validates. The field or model that expands a
short form knows where its parts went, so it also says where they came from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, get_args

from pydantic import ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_core.core_schema import ErrorType

from tokensieve.core.strict import Place, error_at

if TYPE_CHECKING:
    from pydantic import GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

PYDANTIC_ERRORS = frozenset[str](get_args(ErrorType))
Validated = TypeVar("Validated")


def validated(
    handler: Callable[[object], Validated], long_form: object, written: Callable[[Place], Place]
) -> Validated:
    """Validate a long form; ``written`` turns a place in it into one in the short form.

    Raises:
        ValidationError: the same problems, in the short form.
    """
    try:
        return handler(long_form)
    except ValidationError as error:
        problems = []
        for problem in error.errors(include_url=False):
            kind: str | PydanticCustomError = problem["type"]
            context = problem.get("ctx", {})
            place = written((*problem["loc"], *context.get("path", ())))
            if kind == "located":
                kind = error_at(context["message"], (), at_key=context["at_key"])
            elif kind not in PYDANTIC_ERRORS:
                kind = PydanticCustomError(problem["type"], problem["msg"])
            given = problem["input"]
            problems.append(InitErrorDetails(type=kind, loc=place, input=given, ctx=context))
        raise ValidationError.from_exception_data(error.title, problems) from None


def place_in(given: object, place: Place) -> Place:
    """A place without the parts that what was given does not have.

    Those are the numbers and keys of short forms, and the names of union members, which pydantic
    puts between the keys. A key that is missing is the last part.
    """
    path: list[str | int] = []
    for number, part in enumerate(place):
        if isinstance(given, Mapping) and part in given:
            path.append(part)
            given = given[part]
        elif isinstance(given, list) and isinstance(part, int) and part < len(given):
            path.append(part)
            given = given[part]
        elif isinstance(given, Mapping) and isinstance(part, str) and number == len(place) - 1:
            path.append(part)
    return tuple(path)


def as_list(value: object) -> Sequence[object]:
    """A single value stands for a list of one."""
    return value if isinstance(value, list | tuple) else [value]


def _read_list(value: object, handler: ValidatorFunctionWrapHandler) -> object:
    """Validate a list, or a single value as a list of one."""
    if isinstance(value, list | tuple):
        return handler(value)
    return validated(handler, [value], lambda place: place[1:])


@dataclass(frozen=True)
class OneOrList(WrapValidator):
    """Annotation of a tuple: a single value stands for a list of one.

    Attributes:
        filled: the JSON Schema refuses an empty list; the model has to do so itself.
    """

    func: Callable[[object, ValidatorFunctionWrapHandler], object] = _read_list
    filled: bool = False

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """The items alone, or a list of them."""
        listed = handler(schema)
        return {"anyOf": [listed["items"], {**listed, "minItems": 1} if self.filled else listed]}
