"""Stages and score terms: what stands between a pipeline and its components."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    ValidationInfo,
    field_validator,
    model_validator,
)

from tokensieve.core.blame import blamed
from tokensieve.core.contract.adapted import IMAGE
from tokensieve.core.contract.components import Component, Scorer
from tokensieve.core.gate.classes import asked_rescaled
from tokensieve.core.pipeline.budgets import Budget
from tokensieve.core.pipeline.fields import (
    AMerger,
    AScorer,
    ASelector,
    as_list,
    dump_component,
    located,
)
from tokensieve.core.strict import MOST_LAYERS, StrictModel

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

    scorer: AScorer
    weight: Weight = 1.0
    normalize: Normalize = "none"

    @model_validator(mode="before")
    @classmethod
    def _inline(cls, value: Any) -> Any:
        """``ttv`` or ``{scorer: ttv, normalize: sum, <parameters of ttv>}``."""
        if isinstance(value, str | Scorer):
            return {"scorer": value}
        if isinstance(value, dict) and isinstance(value.get("scorer"), str):
            own = {key: value[key] for key in ("weight", "normalize") if key in value}
            return {**own, "scorer": {k: v for k, v in value.items() if k not in own}}
        return value

    def rescaled(self, boundary: Callable[[int], int]) -> ScoreTerm:
        """The term on a model of another depth."""
        return self.model_copy(update={"scorer": asked_rescaled(self.scorer, boundary)})

    def dump(self) -> Any:
        """The shortest YAML spelling."""
        plain = dump_component(self.scorer)
        own = self.model_dump(include={"weight", "normalize"}, exclude_defaults=True)
        return (
            plain
            if not own
            else {**(plain if isinstance(plain, dict) else {"scorer": plain}), **own}
        )


AScoreTerm = Annotated[ScoreTerm, PlainSerializer(lambda term: term.dump())]
ScoreTerms = Annotated[
    tuple[AScoreTerm, ...], Field(max_length=MOST_TERMS), BeforeValidator(as_list)
]
"""A parameter that is one score term or a list of them, as in the ``score`` of a stage."""


def _named_boundary(value: Any) -> Any:
    """``image`` stands for the boundary in front of the encoder; it has a stage of its own."""
    if value in ("image", ["image"]):
        return (IMAGE,)
    listed = as_list(value)
    if any(isinstance(entry, int) and entry < 0 for entry in listed) and value != (IMAGE,):
        raise ValueError("a boundary is a number of decoder layers, 0 or more, or 'image'")
    return value


class Stage(StrictModel):
    """One reduction, or with lists several alike, at decoder boundaries.

    ``at: image`` is not a boundary of the decoder: the image is made smaller in front of the
    vision encoder, until it gives as many tokens as the budget says.
    """

    at: Annotated[
        tuple[Annotated[int, Field(ge=IMAGE, lt=MOST_LAYERS, strict=True)], ...],
        Field(max_length=MOST_BOUNDARIES),
        BeforeValidator(as_list),
        BeforeValidator(_named_boundary),
        PlainSerializer(lambda at: ["image" if boundary == IMAGE else boundary for boundary in at]),
    ]
    score: ScoreTerms = ()
    select: ASelector = Field(default="top-k", validate_default=True)
    keep: Annotated[
        tuple[Budget, ...], Field(max_length=MOST_BOUNDARIES), BeforeValidator(as_list)
    ] = Field(
        default=1.0,
        validate_default=True,
    )
    merge: AMerger | None = None
    scope: Scope = "image"
    order: OrderPolicy = "raster"

    @field_validator("at", "score")
    @classmethod
    def _not_empty(cls, value: tuple[Any, ...], info: ValidationInfo) -> tuple[Any, ...]:
        if not value and info.field_name == "at":
            raise ValueError("needs at least one boundary")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Stage:
        if any(b <= a for a, b in zip(self.at, self.at[1:], strict=False)):
            raise located("boundaries must increase", ("at",))
        if len(self.keep) not in (1, len(self.at)):
            boundaries = len(self.at)
            message = (
                f"{len(self.keep)} budgets for {boundaries} boundaries, allowed: 1 or {boundaries}"
            )
            raise located(message, ("keep",))
        if self.shrinks_images:
            self._refuse_components()
        elif not self.score and self._reads_scores():
            raise located("is missing: a stage needs a scorer", ("score",))
        if self.merge is not None and self.merge.space == "vision" and self.at != (0,):
            message = (
                f"{self.merge.name!r} merges before the projector: allowed only in a stage at "
                "boundary 0"
            )
            raise located(message, ("merge",))
        if "keep" not in self.model_fields_set and not self.select.adaptive_count:
            raise located("is missing: a stage needs a budget", ("keep",))
        return self

    def _reads_scores(self) -> bool:
        with blamed(self.select, "reads_scores()"):
            return self.select.reads_scores()

    def _refuse_components(self) -> None:
        for key in ("score", "select", "merge", "scope", "order"):
            if key in self.model_fields_set:
                message = "a smaller image needs no components: a stage at 'image' has `keep` only"
                raise located(message, (key,))

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
