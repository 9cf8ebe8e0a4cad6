"""Stages and score terms: the levels of a file between a pipeline and its components."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ModelWrapValidatorHandler,
    PlainSerializer,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from tokensieve.core.blame import blamed
from tokensieve.core.contract.adapted import IMAGE
from tokensieve.core.contract.components import Component, Scorer
from tokensieve.core.gate.declarations import asked_rescaled
from tokensieve.core.pipeline.budgets import Budget
from tokensieve.core.pipeline.fields import (
    MergerField,
    ScorerField,
    SelectorField,
    dump_component,
)
from tokensieve.core.pipeline.short_forms import OneOrList, as_list, validated
from tokensieve.core.strict import MOST_LAYERS, Place, StrictModel, error_at

if TYPE_CHECKING:
    from pydantic import GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

Normalize = Literal["none", "sum", "minmax", "rank", "zscore"]
Scope = Literal["image", "sample"]
OrderPolicy = Literal["raster", "selection"]
MOST_WEIGHT, LEAST_WEIGHT = 1e6, 1e-6
MOST_TERMS = 64
MOST_BOUNDARIES = 1000


def _weighs(weight: float) -> float:
    """Tiny weights would leave nothing of scores but ties."""
    if 0 < abs(weight) < LEAST_WEIGHT:
        raise ValueError(f"a weight is 0 or at least {LEAST_WEIGHT:g} in size, not {weight:g}")
    return weight


Weight = Annotated[float, Field(ge=-MOST_WEIGHT, le=MOST_WEIGHT), AfterValidator(_weighs)]


class ScoreTerm(StrictModel):
    """One scorer of a stage, how its scores are normalized over an image, and its weight."""

    scorer: ScorerField
    weight: Weight = 1.0
    normalize: Normalize = "none"

    @model_validator(mode="wrap")
    @classmethod
    def _short_form(cls, value: object, handler: ModelWrapValidatorHandler[ScoreTerm]) -> ScoreTerm:
        """``ttv`` or ``{scorer: ttv, normalize: sum, <parameters of ttv>}``."""
        if isinstance(value, str | Scorer):
            return validated(handler, {"scorer": value}, lambda place: place[1:])
        if not isinstance(value, dict) or not isinstance(value.get("scorer"), str):
            return handler(value)
        own = {key: value[key] for key in ("weight", "normalize") if key in value}
        scorer = {key: entry for key, entry in value.items() if key not in own}

        def written(place: Place) -> Place:
            return place[1:] if place[:1] == ("scorer",) and len(place) > 1 else place

        return validated(handler, {**own, "scorer": scorer}, written)

    def rescaled(self, boundary: Callable[[int], int]) -> ScoreTerm:
        """The term on a model of another depth."""
        return self.model_copy(update={"scorer": asked_rescaled(self.scorer, boundary)})

    def dump(self) -> str | dict[str, object]:
        """The shortest YAML spelling."""
        plain = dump_component(self.scorer)
        own = self.model_dump(include={"weight", "normalize"}, exclude_defaults=True)
        if not own:
            return plain
        return {**(plain if isinstance(plain, dict) else {"scorer": plain}), **own}


AScoreTerm = Annotated[ScoreTerm, PlainSerializer(lambda term: term.dump())]
ScoreTerms = Annotated[tuple[AScoreTerm, ...], Field(max_length=MOST_TERMS), OneOrList()]
"""A parameter that is one score term or a list of them, as in the ``score`` of a stage."""


def _read_image(value: object) -> object:
    """The boundary that is meant, or ``value`` as it is."""
    if value in ("image", ["image"]):
        return (IMAGE,)
    listed = as_list(value)
    if any(isinstance(entry, int) and entry < 0 for entry in listed) and value != (IMAGE,):
        raise ValueError("a boundary is a number of decoder layers, 0 or more, or 'image'")
    return value


@dataclass(frozen=True)
class OrImage(BeforeValidator):
    """Annotation: ``image`` is the boundary before the encoder; it has a stage of its own."""

    func: Callable[[object], object] = _read_image

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """The numbers, or the word."""
        return {"anyOf": [*handler(schema)["anyOf"], {"const": "image"}]}


Boundary = Annotated[
    int,
    Field(ge=IMAGE, lt=MOST_LAYERS, strict=True),
    WithJsonSchema({"exclusiveMaximum": MOST_LAYERS, "minimum": 0, "type": "integer"}),
]
"""A boundary as a number of decoder layers; ``image`` is read as ``IMAGE``."""


class Stage(StrictModel):
    """One reduction, or with lists several alike, at decoder boundaries.

    ``at: image`` is not a boundary of the decoder: the image is made smaller in front of the
    vision encoder, until it gives as many tokens as the budget says.
    """

    at: Annotated[
        tuple[Boundary, ...],
        Field(max_length=MOST_BOUNDARIES),
        OneOrList(filled=True),
        OrImage(),
        PlainSerializer(lambda at: ["image" if boundary == IMAGE else boundary for boundary in at]),
    ]
    score: ScoreTerms = ()
    select: SelectorField = Field(default="top-k", validate_default=True)
    keep: Annotated[
        tuple[Budget, ...], Field(max_length=MOST_BOUNDARIES), OneOrList(filled=True)
    ] = Field(default=1.0, validate_default=True)
    merge: MergerField | None = None
    scope: Scope = "image"
    order: OrderPolicy = "raster"

    @field_validator("at")
    @classmethod
    def _not_empty(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value:
            raise ValueError("needs at least one boundary")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Stage:
        if any(b <= a for a, b in zip(self.at, self.at[1:], strict=False)):
            raise error_at("boundaries must increase", ("at",))
        if len(self.keep) not in (1, len(self.at)):
            boundaries = len(self.at)
            message = (
                f"{len(self.keep)} budgets for {boundaries} boundaries, allowed: 1 or {boundaries}"
            )
            raise error_at(message, ("keep",))
        if self.shrinks_images:
            for key in ("score", "select", "merge", "scope", "order"):
                if key in self.model_fields_set:
                    message = (
                        "a smaller image needs no components: a stage at 'image' has `keep` only"
                    )
                    raise error_at(message, (key,))
        elif not self.score:
            with blamed(self.select, "reads_scores()"):
                reads_scores = self.select.reads_scores()
            if reads_scores:
                raise error_at("is missing: a stage needs a scorer", ("score",))
        if self.merge is not None and self.merge.space == "vision" and self.at != (0,):
            message = (
                f"{self.merge.name!r} merges before the projector: allowed only in a stage at "
                "boundary 0"
            )
            raise error_at(message, ("merge",))
        if "keep" not in self.model_fields_set and not self.select.adaptive_count:
            raise error_at("is missing: a stage needs a budget", ("keep",))
        return self

    @property
    def shrinks_images(self) -> bool:
        """Whether the stage makes the image smaller, instead of choosing among its tokens."""
        return self.at == (IMAGE,)

    def budgets(self) -> tuple[Budget, ...]:
        """One budget per boundary."""
        return self.keep if len(self.keep) == len(self.at) else self.keep * len(self.at)

    def terms(self) -> list[ScoreTerm]:
        """All score terms of the stage, those inside its selector included."""
        with blamed(self.select, "terms()"):
            return [*self.score, *self.select.terms()]

    def rescaled(self, boundary: Callable[[int], int]) -> Stage:
        """The stage with its components on a model of another depth."""
        select = asked_rescaled(self.select, boundary)
        score = tuple(term.rescaled(boundary) for term in self.score)
        return self.model_copy(update={"select": select, "score": score})

    def components(self) -> list[Component]:
        """Everything that may read a signal."""
        if self.shrinks_images:
            return []
        own: list[Component] = [self.select, *([self.merge] if self.merge else [])]
        return [*own, *(term.scorer for term in self.terms())]
