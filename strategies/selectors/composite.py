"""Several selectors share one budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from tokensieve.plugin import (
    Component,
    LayerRange,
    ScoreTerms,
    SelectorField,
    Share,
    StrictModel,
    View,
    asked_turns,
    combined_scores,
    floor_count,
)
from tokensieve.strategies.ordered import OrderedSelector, then

if TYPE_CHECKING:
    from torch import Tensor


class Part(StrictModel):
    """One share of the budget, with its own scorers (default: the stage's) and selector."""

    share: Share | None = None
    score: ScoreTerms = ()
    select: SelectorField = Field(default="top-k", validate_default=True)


class CompositeSelector(OrderedSelector):
    """Fill the budget part by part; a later part chooses among what earlier ones left.

    Each part takes ``share`` of the stage's budget, rounded down; the last part (or the one
    without a share) takes the rest. ``83 % by attention, the rest evenly spread``::

        select:
          selector: composite
          parts:
            - {share: 0.83, score: attention}
            - {score: uniform}

    With ``order: selection`` the parts follow each other, each in its selector's order.
    """

    name = "composite"
    adaptive_count: ClassVar[bool] = False

    parts: tuple[Part, ...] = Field(
        min_length=1, max_length=64, description="each with `share`, `score` and `select`"
    )

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        """Own scorers, shares that round down to nothing, and a composite of composites."""
        own = [{"share": 0.6, "score": "random"}, {"score": "uniform"}]
        inner = {"selector": "composite", "parts": [{"share": 0.5, "score": "attention"}, {}]}
        return [
            {"parts": own},
            {"parts": [{"share": 0.05}, {"share": 0.4}, {}]},
            {"parts": [{"share": 0.5, "select": inner}, {"score": "iga"}]},
        ]

    @model_validator(mode="after")
    def _fits(self) -> CompositeSelector:
        if any(part.share is None for part in self.parts[:-1]):
            raise ValueError("only the last part may leave out its share (it takes the rest)")
        given = sum(part.share or 0.0 for part in self.parts)
        if given > 1 + 1e-9:
            raise ValueError(f"the shares add up to {given:g}, allowed: at most 1")
        if any(part.select.adaptive_count for part in self.parts):
            raise ValueError("a part must select a fixed count: adaptive selectors cannot share")
        return self

    def required(self) -> frozenset[str]:
        """What the parts' selectors need; their scorers are asked separately."""
        return frozenset().union(*(part.select.required() for part in self.parts))

    def readable(self) -> frozenset[str]:
        """What the parts' selectors may read."""
        return frozenset().union(*(part.select.readable() for part in self.parts))

    def history(self, boundary: int) -> LayerRange | None:
        """All layers that some part's selector reads."""
        spans = [part.select.history(boundary) for part in self.parts]
        known = [span for span in spans if span is not None]
        if not known:
            return None
        return min(span[0] for span in known), max(span[1] for span in known)

    def reads_scores(self) -> bool:
        """Whether some part falls back to the stage's scores."""
        return any(not part.score and part.select.reads_scores() for part in self.parts)

    def terms(self) -> list[Any]:
        """The score terms of all parts, those inside a part's selector included."""
        return [term for part in self.parts for term in (*part.score, *part.select.terms())]

    def rescaled(self, boundary: Any) -> Component:
        """Rescale the parts."""
        parts = tuple(
            part.model_copy(
                update={
                    "score": tuple(t.rescaled(boundary) for t in part.score),
                    "select": part.select.rescaled(boundary),
                }
            )
            for part in self.parts
        )
        return self.model_copy(update={"parts": parts})

    def take_in_order(
        self, scores: Tensor, available: Tensor, counts: list[int], view: View
    ) -> Tensor:
        """``[batch, tokens]`` turns."""
        left, open_, turns = list(counts), available, available.long() * 0
        for number, part in enumerate(self.parts):
            last = number == len(self.parts) - 1
            share = None if last else part.share
            take = [
                rest if share is None else min(rest, floor_count(share * total))
                for rest, total in zip(left, counts, strict=True)
            ]
            own = combined_scores(part.score, view) if part.score else scores
            taken = turns > 0 if view.selected is None else view.selected | (turns > 0)
            reader = view.after(taken) if number else view
            chosen = asked_turns(part.select, own, open_, take, reader)
            turns, open_ = then(turns, chosen), open_ & (chosen == 0)
            left = [rest - count for rest, count in zip(left, take, strict=True)]
        return turns
