"""Components that answer what a test tells them, and the places where components are asked."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar

import pytest
import timm_models
import tiny_models
import torch
from command_line import clear
from torch import Tensor

import tokensieve
from tokensieve.core.contract.components import Merged, Split
from tokensieve.core.contract.ranking import top_counts
from tokensieve.core.contract.view import View
from tokensieve.core.errors import PluginError, TokensieveError
from tokensieve.core.gate.mergers import Room, asked_merged, asked_split
from tokensieve.core.gate.selection import asked_mask, asked_turns
from tokensieve.core.pipeline.scoring import combined_scores
from tokensieve.core.pipeline.stage import ScoreTerm
from tokensieve.core.testing import Scene, SyntheticBatch, synthetic_batch

TOKENS, KEPT = (9, 5), [4, 2]
Answer = Callable[..., Any]


class Scores(tokensieve.Scorer):
    """Answers ``answer(view)``."""

    name = "hostile-scorer"
    needs = frozenset({"hidden"})
    answer: Any = None

    def score(self, view: View) -> Tensor:
        given: Tensor = self.answer(view)
        return given


class Mask(tokensieve.Selector):
    """Answers ``answer(available, counts)``."""

    name = "hostile-selector"
    answer: Any = None

    def select(self, scores: Tensor, available: Tensor, counts: list[int], view: View) -> Tensor:
        given: Tensor = self.answer(available, counts)
        return given


class Adaptive(Mask):
    """The same; how many it keeps depends on the data."""

    name = "hostile-adaptive"
    adaptive_count: ClassVar[bool] = True


class Turns(tokensieve.Selector):
    """Tells its order with its choice."""

    name = "hostile-turns"
    answer: Any = None

    def select(self, scores: Tensor, available: Tensor, counts: list[int], view: View) -> Tensor:
        return top_counts(scores, available, counts)

    def take_in_order(
        self, scores: Tensor, available: Tensor, counts: list[int], view: View
    ) -> Tensor:
        given: Tensor = self.answer(top_counts(scores, available, counts), counts)
        return given


class Ordered(Turns):
    """Tells its order after its choice."""

    name = "hostile-order"
    take_in_order = tokensieve.Selector.take_in_order

    def order(self, scores: Tensor, kept: Tensor, view: View) -> Tensor:
        given: Tensor = self.answer(kept, None)
        return given


class Merges(tokensieve.Merger):
    """Answers ``answer(good)``, from what a good merger would have said."""

    name = "hostile-merger"
    needs = frozenset({"hidden"})
    answer: Any = None
    divide: Any = None
    promised: int = 0

    def split(self, total: int, available: int, has_cls: bool) -> Split:
        if self.divide is not None:
            divided: Split = self.divide(total)
            return divided
        extra = min(self.promised, total - 1)
        return Split(total - extra, 0, extra)

    def apply(self, kept: Tensor, counts: list[int], view: View) -> Merged:
        extra = view.hidden[:, :1] if self.promised else None
        given: Merged = self.answer(Merged(kept, view.hidden, kept.float(), None, extra))
        return given


def batch() -> SyntheticBatch:
    return synthetic_batch(Scene(tokens=TOKENS))


def direct_scores(scorer: Any, **term: Any) -> Tensor:
    """The gate alone, without a model."""
    view = batch().view()
    return combined_scores([ScoreTerm(scorer=scorer, **term)], view)


def direct_mask(selector: Any) -> Tensor:
    made = batch()
    return asked_mask(selector, made.tensors["scores"], made.valid, list(KEPT), made.view())


def direct_turns(selector: Any) -> Tensor:
    made = batch()
    return asked_turns(selector, made.tensors["scores"], made.valid, list(KEPT), made.view())


def direct_merged(merger: Any) -> Merged:
    made = batch()
    scores, hidden, where = made.tensors["scores"], made.tensors["hidden"], "stage 1"
    sizes = zip(KEPT, TOKENS, strict=True)
    splits = [asked_split(merger, total, size, False, where) for total, size in sizes]
    kept = top_counts(scores, made.valid, [split.selected for split in splits])
    room = Room(hidden.dtype, hidden.shape[-1], made.valid.sum(dim=1).float())
    return asked_merged(merger, kept, scores, splits, made.view(), room)


@cache
def llava() -> tuple[Any, dict[str, Any]]:
    model = tiny_models.build("llava", torch.float32)
    prompts = [tiny_models.Prompt(2, (1,), 4, seed=1), tiny_models.Prompt(4, (1,), 3, seed=2)]
    return model, tiny_models.inputs("llava", prompts, dtype=torch.float32)


@cache
def vit() -> tuple[Any, Tensor]:
    return timm_models.build("cls", torch.float32), timm_models.pictures(2, torch.float32)


def in_llava(stage: dict[str, Any]) -> Any:
    """A forward of a vision-language model; the trace."""
    model, inputs = llava()
    with torch.no_grad(), tokensieve.attach(model, stage) as session:
        model(**inputs)
        return session.trace


def in_vit(stage: dict[str, Any]) -> Any:
    """A forward of a classifier; the trace."""
    model, pictures = vit()
    with torch.no_grad(), tokensieve.attach(model, stage) as session:
        model(pictures)
        return session.trace


def first(available: Tensor, counts: list[int], more: int = 0) -> Tensor:
    wanted = torch.tensor(counts)[:, None] + more
    return available & (available.long().cumsum(dim=1) <= wanted)


ENGINES: dict[str, Callable[[dict[str, Any]], Any]] = {"decoder": in_llava, "encoder": in_vit}


PLUGIN = "plugin 'hostile_components'"


def refused(run: Callable[[], Any], *words: str, kind: type[TokensieveError] = PluginError) -> str:
    """One clear line of ours."""
    with pytest.raises(kind) as caught:
        run()
    clear(str(caught.value), *words)
    return str(caught.value)


def each(**cases: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases.values(), ids=cases)
