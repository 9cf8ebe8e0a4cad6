"""Pipelines: what stands in a YAML file, validated.

A :class:`Pipeline` is a list of :class:`Stage`; a stage cuts at one boundary or, with lists, at
several. Components are looked up in the plugin registry while the file is validated, so a wrong
parameter of a third-party scorer is reported like any other mistake.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tokensieve.core.contract.adapted import IMAGE
from tokensieve.core.contract.components import Component
from tokensieve.core.contract.dims import DecoderDims
from tokensieve.core.errors import PipelineError
from tokensieve.core.pipeline.budgets import Boundary, Budget, Schedule, whole
from tokensieve.core.pipeline.fields import (
    located,
)
from tokensieve.core.pipeline.stage import MOST_BOUNDARIES, Stage
from tokensieve.core.strict import MOST_LAYERS, StrictModel

PositionPolicy = Literal["keep", "reindex"]


@dataclass(frozen=True)
class PlacedStage:
    """One boundary of a stage on a concrete model."""

    stage: Stage
    number: int
    at: int
    written_at: int
    budget: Budget


class About(StrictModel):
    """Where a method comes from, and what to know before comparing it: for people, not for us.

    ``keep`` says what a budget from outside means for this pipeline; ``deviations`` what differs
    from the released code.
    """

    year: Annotated[int, Field(ge=1900, le=2200)] | None = None
    code: str = ""
    licence: str = ""
    training_free: bool = True
    keep: str = ""
    deviations: tuple[str, ...] = ()


class Pipeline(StrictModel):
    """A named list of stages and what happens to positions.

    ``depth`` is the number of decoder layers the boundaries were tuned for. A model that is deep
    enough takes them as written; on a shallower one they are scaled in proportion.
    ``keep`` is an overall budget that scales the stages' own budgets.
    """

    name: str = Field(default="unnamed", min_length=1)
    description: str = ""
    source: str = ""
    about: About = About()
    depth: int | None = Field(default=None, ge=1, le=MOST_LAYERS, strict=True)
    positions: PositionPolicy = "keep"
    mrope_positions: PositionPolicy | None = None
    keep: Budget | None = None
    stages: Annotated[tuple[Stage, ...], Field(max_length=MOST_BOUNDARIES)] = ()

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        """Stage keys at the top level describe a pipeline of one stage."""
        if isinstance(value, dict) and "at" in value and "stages" not in value:
            own = {key: entry for key, entry in value.items() if key in _PIPELINE_KEYS}
            return {**own, "stages": [{k: v for k, v in value.items() if k not in own}]}
        return value

    @model_validator(mode="after")
    def _ordered(self) -> Pipeline:
        if self.keep is not None and self.keep.of != "original":
            raise located(_NO_REFERENCE, ("keep",))
        last, share = IMAGE - 1, 1.0
        for number, stage in enumerate(self.stages):
            if stage.at[0] <= last:
                message = (
                    f"boundary {stage.at[0]} comes after boundary {last}: "
                    "stages must follow each other"
                )
                raise located(message, ("stages", number, "at"))
            last = stage.at[-1]
            for budget in stage.budgets():
                if budget.kind == "share" and budget.of == "original":
                    if budget.value > share:
                        message = (
                            f"keeps {budget} but {share:g} are left: "
                            "a later boundary cannot keep more"
                        )
                        raise located(message, ("stages", number, "keep"))
                    share = budget.value
        return self

    def placed_stages(self, depth: int) -> list[PlacedStage]:
        """The pipeline on a decoder of ``depth`` layers; components are rescaled to it."""
        boundary_at = partial(self.scale, depth=depth)
        written = [
            (stage.rescaled(boundary_at), number, at, budget)
            for number, stage in enumerate(self.stages)
            for at, budget in zip(stage.at, stage.budgets(), strict=True)
        ]
        real = self.boundaries(depth)
        return [
            PlacedStage(stage, number, boundary, at, budget)
            for (stage, number, at, budget), boundary in zip(written, real, strict=True)
        ]

    def boundaries(self, depth: int) -> list[int]:
        """Boundaries on a decoder of ``depth`` layers: as written, or scaled to fit."""
        written = [at for stage in self.stages for at in stage.at]
        if not self.scales(depth):
            return written
        real: list[int] = []
        for at in written:
            scaled = self._in_proportion(at, depth)
            real.append(max(scaled, real[-1] + 1) if real and at > 0 else scaled)
        return real

    def scales(self, depth: int) -> bool:
        """Whether the boundaries do not fit and have a tuned depth to be scaled from."""
        deepest = max((at for stage in self.stages for at in stage.at), default=0)
        return deepest >= depth and self.depth is not None and self.depth > depth

    def scale(self, boundary: int, depth: int) -> int:
        """Where a boundary tuned for ``self.depth`` layers lies on ``depth`` layers.

        The pipeline's own boundaries are moved apart where proportion alone would join them, and
        layer ranges that end at one have to move along.
        """
        written = [at for stage in self.stages for at in stage.at]
        if boundary in written:
            return self.boundaries(depth)[written.index(boundary)]
        return self._in_proportion(boundary, depth)

    def _in_proportion(self, boundary: int, depth: int) -> int:
        if not self.scales(depth) or self.depth is None or boundary <= 0:
            return boundary
        return max(1, round(boundary * depth / self.depth))

    def schedule(self, dims: DecoderDims) -> Schedule:
        """The budgets, ready to be resolved for an image."""
        placed = self.placed_stages(dims.layers)
        boundaries = tuple(Boundary(cut.at, cut.budget) for cut in placed)
        return Schedule(boundaries, dims.layers, dims, self.keep)

    def with_keep(self, keep: Any, *, of_decoder: bool = False) -> Pipeline:
        """The pipeline with a budget from outside in place of its own.

        ``of_decoder`` means that the budget is a cost over all decoder layers, wherever the
        pipeline has its boundaries.

        ============  ====================  ======================================================
        boundaries    otherwise             ``of_decoder``
        ============  ====================  ======================================================
        none          stays as it is        stays as it is
        one, by 0     the stage's budget    the stage's; an average is the tokens of every layer
        one, later    the stage's budget    the stage's; a share scales it, as with several
        several       scales them all       scales them all
        ============  ====================  ======================================================

        What scales is an average over decoder layers: tokens mean that average, a share means it
        as a share of the image's tokens.
        """
        budget = Budget.model_validate(keep)
        places = [at for stage in self.stages for at in stage.at]
        if len(places) != 1:
            if budget.of != "original":
                raise PipelineError(f"keep: {budget}: {_NO_REFERENCE}")
            if budget.kind == "tokens":
                budget = Budget(kind="average", value=budget.value)
            return self.model_copy(update={"keep": budget}) if places else self
        own, overall = budget, None
        if of_decoder and budget.kind == "average" and places[0] <= 0:
            own = Budget(kind="tokens", value=whole(budget.value))
        elif of_decoder and budget.kind == "share" and places[0] > 0:
            own, overall = Budget.model_validate(1.0), budget
        (stage,) = self.stages
        stage = stage.model_copy(update={"keep": (own,)})
        return self.model_copy(update={"stages": (stage,), "keep": overall})

    def components(self) -> Iterator[Component]:
        """Every component of every stage."""
        for stage in self.stages:
            yield from stage.components()

    def to_plain(self) -> dict[str, Any]:
        """Plain data that :func:`tokensieve.load_pipeline` reads back to an equal pipeline."""
        plain: dict[str, Any] = self.model_dump(mode="json", exclude_defaults=True)
        plain.pop("stages", None)
        if self.stages:
            plain["stages"] = [_plain_stage(stage) for stage in self.stages]
        return plain


_NO_REFERENCE = "one budget for several boundaries is a share of the original tokens: drop `of`"


def scaling_notes(pipeline: Pipeline, depth: int, unit: str = "decoder layer") -> list[str]:
    """Say that boundaries were scaled, where they were."""
    if not pipeline.scales(depth):
        return []
    written = [at for stage in pipeline.stages for at in stage.at]
    real = pipeline.boundaries(depth)
    return [
        f"boundaries {written} are tuned for {pipeline.depth} {unit}s; "
        f"this model has {depth}: scaled to {real}"
    ]


def end_notes(pipeline: Pipeline, depth: int, unit: str = "decoder layer") -> list[str]:
    """Say that a boundary lies behind the last layer, where one does."""
    if depth not in pipeline.boundaries(depth):
        return []
    return [
        f"boundary {depth} is behind the last {unit}: it removes tokens from what leaves the "
        f"{unit}s, and none runs on fewer of them"
    ]


def _plain_stage(stage: Stage) -> dict[str, Any]:
    plain = stage.model_dump(mode="json", exclude_unset=True)
    for key in ("at", "keep", "score"):
        if key in plain and len(plain[key]) == 1:
            (plain[key],) = plain[key]
    return {key: plain[key] for key in Stage.model_fields if key in plain}


_PIPELINE_KEYS = frozenset(Pipeline.model_fields) - {"stages", "keep"}
