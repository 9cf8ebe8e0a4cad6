"""Deciding needs no model: a dict of tensors in, a reduction out, as a slow loop says."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import tokensieve
from tokensieve.core.contract.boundary_log import settle
from tokensieve.core.contract.components import Merged, Split
from tokensieve.core.contract.view import View
from tokensieve.core.engine.decision import BoundaryTokens, decide
from tokensieve.core.engine.layout import Layout, Segment
from tokensieve.core.engine.reduction import Groups, Reduction
from tokensieve.core.errors import SignalError
from tokensieve.core.pipeline.pipeline import Pipeline, PlacedStage
from tokensieve.core.pipeline.stage import ScoreTerm, Stage

DIM, HEADS, AT = 6, 3, 2
SAMPLES = (
    (Segment("text", 2), Segment("image", 9, 0), Segment("text", 3)),
    (Segment("image", 7, 0), Segment("text", 1), Segment("image", 8, 1), Segment("text", 2)),
    (Segment("pad", 1), Segment("text", 1), Segment("image", 6, 0), Segment("text", 1)),
)
LAYOUT = Layout(SAMPLES, max(sum(part.length for part in parts) for parts in SAMPLES))
TARGETS = {(0, 0): 5, (1, 0): 4, (1, 1): 5, (2, 0): 4}


class Looks(tokensieve.Scorer):
    """The encoder's attention, summed over heads."""

    name = "looks"
    needs = frozenset({"vision_attention"})

    def score(self, view: View) -> Tensor:
        return view.vision_attention.sum(dim=-1)


class Bunch(tokensieve.Merger):
    """Appends the mean of the dropped tokens, half of it first, and puts the sum of the kept ones
    in front."""

    name = "bunch"
    needs = frozenset({"hidden"})

    def split(self, total: int, available: int, has_cls: bool) -> Split:
        return Split(total - 3, 2, 1)

    def apply(self, kept: Tensor, counts: list[int], view: View) -> Merged:
        others = view.valid & ~kept
        turn = others.long().cumsum(dim=1).masked_fill(~others, 0)
        number = others.sum(dim=1)
        mean = (view.hidden * others[..., None]).sum(dim=1) / number[:, None]
        half = mean[:, None] / turn.clamp(min=1)[..., None]
        last_first = torch.where(turn > 0, 3 - turn, 0).clamp(min=0)
        extra = (view.hidden * kept[..., None]).sum(dim=1, keepdim=True)
        sizes = (turn > 0) * number[:, None]
        return Merged((turn > 0) & (turn < 3), half, sizes, last_first, extra)


def signals_of(hidden: Tensor, groups: Groups) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(3)
    batch, tokens = groups.valid.shape
    before = torch.randn(batch, tokens, DIM, generator=draw)
    attention = torch.rand(batch, tokens, HEADS, generator=draw)
    return {
        "hidden": groups.take(hidden),
        "previous_hidden": before,
        "vision_attention": attention,
    }


def stage_of(**more: Any) -> Stage:
    written = {"scorer": "hidden-change", "normalize": "minmax", "weight": 2}
    change = ScoreTerm.model_validate(written)
    score = (change, ScoreTerm(scorer=Looks()))
    return Stage.model_validate({"at": AT, "score": score, "keep": 3, **more})


def case(**more: Any) -> tuple[PlacedStage, BoundaryTokens]:
    stage = stage_of(**more)
    (placed,) = Pipeline(name="t", stages=(stage,)).placed_stages(depth=4)
    hidden = torch.randn(3, LAYOUT.length, DIM, generator=torch.Generator().manual_seed(1))
    groups = Groups.of(LAYOUT, stage.scope, hidden.device)
    index = groups.valid.long().cumsum(dim=1) - 1
    tokens = BoundaryTokens(
        LAYOUT, groups, index, signals_of(hidden, groups), keys=[7] * len(groups.blocks),
        sizes=(1.0 + index % 3) * groups.valid, hidden=hidden,
    )  # fmt: skip
    return placed, tokens


def signal_of(tokens: BoundaryTokens, name: str) -> Tensor:
    value = tokens.signals[name]
    assert isinstance(value, Tensor)
    return value


def hidden_of(tokens: BoundaryTokens) -> Tensor:
    assert tokens.hidden is not None
    return tokens.hidden


def reduced(placed: PlacedStage, tokens: BoundaryTokens) -> Reduction:
    reduction = decide(placed, tokens, TARGETS).reduction
    assert reduction is not None
    return reduction


# ------------------------------------------------------------------ the same, slowly


@dataclass
class Token:
    """A visual token: the row where it is, the image that it is of, and what it holds."""

    row: int
    image: int
    score: float
    vector: list[float]
    size: float


def norm(vector: list[float]) -> float:
    return math.sqrt(sum(x * x for x in vector))


def slow_tokens(tokens: BoundaryTokens, number: int) -> list[Token]:
    """The tokens of a row of the batch, scored."""
    after, before, looks = (
        signal_of(tokens, name)[number].double().tolist()
        for name in ("hidden", "previous_hidden", "vision_attention")
    )
    places = [(b.image, row) for b in tokens.groups.blocks[number] for row in b.rows]
    moved = [
        norm([x - y for x, y in zip(after[n], before[n], strict=True)]) for n in range(len(places))
    ]
    low, high = min(moved), max(moved)
    scores = [2 * (m - low) / (high - low) + sum(looks[n]) for n, m in enumerate(moved)]
    assert tokens.sizes is not None
    sizes = tokens.sizes[number].tolist()
    return [
        Token(row, image, score, vector, size)
        for (image, row), score, vector, size in zip(places, scores, after, sizes, strict=False)
    ]


def slow_group(group: list[Token], budget: int, *, order: str, merge: bool) -> list[Token]:
    """What stays of a row of the batch, at the rows where it stays."""
    first_row = {token.image: token.row for token in reversed(group)}
    ranked = sorted(group, key=lambda token: (-token.score, token.row))
    kept = ranked[: budget - 3 if merge else budget]
    others = [token for token in group if token not in kept]
    in_turn = kept if order == "selection" else sorted(kept, key=lambda token: token.row)
    alive = [((first_row[token.image], 1, n), token) for n, token in enumerate(in_turn)]
    if merge:
        parts = zip(*(token.vector for token in others), strict=True)
        mean = [sum(part) / len(others) for part in parts]
        total = [sum(part) for part in zip(*(token.vector for token in kept), strict=True)]
        first, second, spare = others[:3]
        for place, target, share in ((1, first, 1), (0, second, 2)):
            vector, size = [x / share for x in mean], len(others)
            appended = Token(target.row, target.image, 0, vector, size)
            alive.append(((first_row[target.image], 3, place), appended))
        front = Token(spare.row, spare.image, 0, total, 1)
        alive.append(((first_row[spare.image], 0, 0), front))
    alive.sort(key=lambda entry: entry[0])
    rows = sorted(token.row for _, token in alive)
    return [
        Token(row, token.image, token.score, token.vector, token.size)
        for row, (_, token) in zip(rows, alive, strict=True)
    ]


def slow(
    tokens: BoundaryTokens, *, order: str = "raster", merge: bool = False
) -> list[list[tuple[list[float], float]]]:
    """Per sample, the vectors and sizes of its rows that stay, in their order."""
    hidden: list[list[list[float]]] = hidden_of(tokens).double().tolist()
    answer: list[list[tuple[list[float], float]]] = []
    for sample, parts in enumerate(SAMPLES):
        start = LAYOUT.length - sum(part.length for part in parts)
        rows: dict[int, tuple[list[float], float]] = {
            row: (hidden[sample][row], 1) for row in range(start, LAYOUT.length)
        }
        for number, group in enumerate(tokens.groups.blocks):
            if group[0].sample != sample:
                continue
            own = slow_tokens(tokens, number)
            budget = sum(TARGETS[block.sample, block.image] for block in group)
            for token in own:
                del rows[token.row]
            for token in slow_group(own, budget, order=order, merge=merge):
                rows[token.row] = (token.vector, token.size)
        answer.append([rows[row] for row in sorted(rows)])
    return answer


@pytest.mark.parametrize("merge", [False, True], ids=["dropped", "merged"])
@pytest.mark.parametrize("order", ["raster", "selection"])
@pytest.mark.parametrize("scope", ["image", "sample"])
def test_a_decision_is_what_a_slow_loop_decides(scope: str, order: str, merge: bool) -> None:
    more = {"merge": Bunch()} if merge else {}
    placed, tokens = case(scope=scope, order=order, **more)
    decision = decide(placed, tokens, TARGETS)
    settle(decision.later_checks)
    reduction = decision.reduction
    assert reduction is not None
    assert reduction.valid is not None
    hidden = reduction.hidden(hidden_of(tokens))
    expected = slow(tokens, order=order, merge=merge)
    lengths = [len(rows) for rows in expected]
    assert reduction.layout.length == max(lengths) == hidden.shape[1]
    assert [reduction.layout.used(sample) for sample in range(3)] == lengths
    assert reduction.valid.sum(dim=1).tolist() == lengths
    for sample, rows in enumerate(expected):
        vectors = torch.tensor([vector for vector, _ in rows], dtype=torch.float64)
        torch.testing.assert_close(
            hidden[sample, -len(rows) :].double(), vectors, rtol=1e-5, atol=1e-5
        )
        assert bool(reduction.valid[sample, -len(rows) :].all())
        if merge:
            assert reduction.sizes is not None
            sizes = reduction.rows(reduction.sizes)[sample, -len(rows) :]
            assert sizes.tolist() == [size for _, size in rows]


def test_what_stays_whole_asks_nobody() -> None:
    placed, tokens = case()
    everything = {(block.sample, block.image): block.length for block in LAYOUT.blocks()}
    silent = BoundaryTokens(LAYOUT, tokens.groups, tokens.index, {})
    assert decide(placed, silent, everything).reduction is None
    with pytest.raises(SignalError, match="does not give at boundary 2"):
        decide(placed, silent, TARGETS)


def test_signals_may_be_functions_that_are_called_once_and_if_they_are_read() -> None:
    placed, tokens = case()
    called: list[str] = []

    def reader(name: str) -> Any:
        def read() -> Any:
            called.append(name)
            return tokens.signals[name]

        return read

    lazy = {name: reader(name) for name in tokens.signals} | {"grid": reader("grid")}
    wanted = reduced(placed, tokens)
    made = reduced(placed, BoundaryTokens(LAYOUT, tokens.groups, tokens.index, lazy))
    assert torch.equal(made.order, wanted.order)
    assert sorted(called) == sorted(tokens.signals)


def test_a_decision_changes_nothing_that_it_was_given() -> None:
    placed, tokens = case(merge=Bunch(), order="selection")
    hidden = hidden_of(tokens)
    signals = {name: signal_of(tokens, name) for name in tokens.signals}
    tensors = {**signals, "hidden rows": hidden, "index": tokens.index}
    copies = {name: tensor.clone() for name, tensor in tensors.items()}
    first, second = reduced(placed, tokens), reduced(placed, tokens)
    assert all(torch.equal(tensor, copies[name]) for name, tensor in tensors.items())
    assert torch.equal(first.order, second.order)
    assert torch.equal(first.hidden(hidden), second.hidden(hidden))


def test_merging_says_what_it_lacks() -> None:
    placed, tokens = case(merge=Bunch())
    bare = BoundaryTokens(LAYOUT, tokens.groups, tokens.index, tokens.signals)
    with pytest.raises(SignalError, match=r"merger 'bunch' at stage 1, boundary 2 .*'hidden'"):
        decide(placed, bare, TARGETS)


def test_no_library_of_models_is_needed() -> None:
    code = (
        "import sys, tokensieve.core.engine.decision\n"
        "known = {'transformers', 'timm', 'tokensieve.core.engine.session'} & set(sys.modules)\n"
        "print(*known)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")
