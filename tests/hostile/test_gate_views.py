"""What a component reads is its own: whatever it writes there, others decide as without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import hostile_components as parts
import pytest
import torch
from torch import Tensor

import tokensieve
from tokensieve.core.contract.components import Merged
from tokensieve.core.contract.view import View
from tokensieve.core.gate.mergers import Room, asked_merged, asked_split
from tokensieve.core.gate.selection import asked_mask, asked_scores
from tokensieve.core.plugins.discovery import build_registry
from tokensieve.core.testing import Scene, synthetic_batch

READ: dict[str, Callable[[View], Any]] = {
    "hidden": lambda view: [view.hidden],
    "previous_hidden": lambda view: [view.previous_hidden],
    "normed_states": lambda view: list(vars(view.normed_states).values()),
    "embeddings": lambda view: list(vars(view.embeddings).values()),
    "previous_keys": lambda view: list(vars(view.previous_keys).values()),
    "transitions": lambda view: [t for one in view.transitions for t in tensors_of(one)],
    "block_transitions": lambda view: [
        t for one in view.block_transitions for t in tensors_of(one)
    ],
    "next_attention": lambda view: [view.next_attention.received("last")],
    "previous_attention": lambda view: [view.previous_attention.received("last")],
    "sizes": lambda view: [view.sizes],
    "vision_attention": lambda view: [view.vision_attention],
    "vision_keys": lambda view: [view.vision_keys],
    "vision_features": lambda view: [view.vision_features],
    "encoder_layers": lambda view: [
        view.encoder_layer().attention(), view.encoder_layer().keys(),
        view.encoder_layer().keys(joined=True),
    ],
    "cls_feature": lambda view: [view.cls_feature],
    "grid": lambda view: [view.grid],
    "tile": lambda view: [view.tile],
}  # fmt: skip
"""All tensors that a signal is made of."""
WRITES: dict[str, Callable[[Tensor], Any]] = {
    "zeros": lambda tensor: tensor.zero_(),
    "another sign": lambda tensor: tensor.copy_(~tensor if tensor.dtype == torch.bool else -tensor),
    "by numpy": lambda tensor: tensor.numpy().fill(1),
    "by data": lambda tensor: tensor.data.fill_(1),
}


def tensors_of(transition: Any) -> list[Tensor]:
    return [value for value in vars(transition).values() if isinstance(value, torch.Tensor)]


def total(tensors: list[Tensor]) -> Tensor:
    """A number that shows whether one of them is another one."""
    return torch.stack([(t.double().nan_to_num() + 1).sum() for t in tensors])


class Writes(tokensieve.Scorer):
    """Writes to what it reads."""

    name = "writes"
    signal: str
    write: str

    def required(self) -> frozenset[str]:
        return frozenset({self.signal})

    def score(self, view: View) -> Tensor:
        for tensor in READ[self.signal](view):
            WRITES[self.write](tensor)
        return view.valid.float()


class Reads(tokensieve.Scorer):
    """Remembers what it read."""

    name = "reads"
    signal: str
    seen: ClassVar[list[Tensor]] = []

    def required(self) -> frozenset[str]:
        return frozenset({self.signal})

    def score(self, view: View) -> Tensor:
        Reads.seen.append(total(READ[self.signal](view)))
        return view.valid.float()


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("signal", READ)
def test_what_a_scorer_writes_to_a_signal_no_other_component_sees(signal: str, write: str) -> None:
    view = synthetic_batch(Scene(tokens=parts.TOKENS)).view()
    Reads.seen.clear()
    with torch.no_grad():
        asked_scores(Reads(signal=signal), view)
        asked_scores(Writes(signal=signal, write=write), view)
        asked_scores(Reads(signal=signal), view)
    before, after = Reads.seen
    assert torch.equal(before, after)


@pytest.mark.parametrize("write", ["zeros", "another sign"])
@pytest.mark.parametrize("signal", [name for name in READ if name != "cls_feature"])
def test_what_a_scorer_writes_changes_no_answer(signal: str, write: str) -> None:
    """In a model, beside another scorer that looks at the same."""
    Reads.seen.clear()
    calm = logits([Reads(signal=signal)])
    loud = logits([Writes(signal=signal, write=write), Reads(signal=signal)])
    assert torch.equal(loud, calm)
    assert torch.equal(*Reads.seen)


def logits(score: list[tokensieve.Scorer]) -> Tensor:
    model, inputs = parts.llava()
    stage = {"at": 2, "keep": 5, "score": score}
    with torch.no_grad(), tokensieve.attach(model, stage):
        found: Tensor = model(**inputs).logits
    return found.nan_to_num()


class Chooses(tokensieve.Selector):
    """Writes to whatever it is given, in a composite."""

    name = "chooses"
    needs = frozenset({"hidden"})

    def select(self, scores: Tensor, available: Tensor, counts: list[int], view: View) -> Tensor:
        kept = parts.first(available, counts)
        for tensor in (view.hidden, scores, view.index, view.selected):
            if tensor is not None:
                tensor.zero_()
        counts.clear()
        return kept


class Joins(tokensieve.Merger):
    """Writes to whatever it is given, before it merges nothing."""

    name = "joins"
    needs = frozenset({"hidden"})

    def apply(self, kept: Tensor, counts: list[int], view: View) -> Merged:
        merged = Merged(kept.clone(), view.hidden.clone(), kept.float())
        for tensor in (view.hidden, view.scores, view.selected, view.index, kept):
            assert tensor is not None
            tensor.zero_()
        return merged


@pytest.mark.parametrize("parts_of_it", [1, 2, 3])
def test_what_a_selector_or_merger_writes_to_is_its_own(parts_of_it: int) -> None:
    made = synthetic_batch(Scene(tokens=parts.TOKENS))
    view, scores, room = made.view(), made.tensors["scores"], Room(torch.float32, None)
    chooses = {"share": 0.3, "select": Chooses()}
    composite = build_registry().get("selector", "composite")
    selector = composite(parts=[*[chooses] * parts_of_it, {}])
    wanted = composite(parts=[*[{"share": 0.3, "select": Calm()}] * parts_of_it, {}])
    kept = asked_mask(selector, scores, made.valid, list(parts.KEPT), view)
    assert torch.equal(kept, asked_mask(wanted, scores, made.valid, list(parts.KEPT), made.view()))
    splits = [asked_split(Joins(), count, count, False, "stage 1") for count in parts.KEPT]
    before = made.tensors["hidden"].clone()
    merged = asked_merged(Joins(), kept, scores, splits, view, room)
    assert torch.equal(merged.vectors, before)
    assert torch.equal(view.hidden, before)


class Calm(Chooses):
    """The same, without writing."""

    name = "calm"

    def select(self, scores: Tensor, available: Tensor, counts: list[int], view: View) -> Tensor:
        return parts.first(available, counts)
