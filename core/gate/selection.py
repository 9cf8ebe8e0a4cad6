"""The gate: answers of components are checked here, whoever asked, before anything uses them.

Kind, shape, type and device are known to the host and refused at once. Facts that only the device
knows (is it finite, are there as many as asked for) are noted with ``view.check_later``: collected
as tensors and read once, after the forward and before its answer leaves. Mergers: ``mergers``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokensieve.core.blame import blamed, titled
from tokensieve.core.contract.answers import INTEGERS, NUMBERS, check_mask, checked, in_order
from tokensieve.core.contract.tensors import at_least_float32, on_device
from tokensieve.core.contract.view import View
from tokensieve.core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from tokensieve.core.contract.components import Scorer, Selector

LARGEST = 1e15
"""Scores beyond it overflow in float32 when they are squared, weighted and summed."""
EXACT = 2**24
"""Whole numbers up to here are told apart in float32."""


# ---------------------------------------------------------------------------------- scorers


def asked_scores(scorer: Scorer, view: View) -> Tensor:
    """``[batch, tokens]`` of a scorer, at least float32; finite where the tokens are valid."""
    title = f"{titled(scorer)} at {view.place}"
    with blamed(scorer, view.place):
        answer = scorer.score(view.for_component(scorer))
    raw = checked(answer, title, tuple(view.valid.shape), NUMBERS, view.valid.device)
    if raw.dtype in (torch.int32, torch.int64):
        large = (raw > EXACT) | (raw < -EXACT)
        message = f"{title}: whole numbers beyond {EXACT:,} are not told apart: return float64"
        view.check_later(message, (large & view.valid).any())
    scores = at_least_float32(raw)
    check_finite(f"{title}: scores", scores, view)
    return scores


def check_finite(what: str, scores: Tensor, view: View) -> None:
    """Scores by which nothing can be ranked, or that overflow when they are combined."""
    wrong = ~(scores.abs() <= LARGEST) & view.valid
    message = f"{what} are not finite: nothing can be ranked by them (or they are beyond 1e15)"
    view.check_later(message, wrong.any())


# -------------------------------------------------------------------------------- selectors


def asked_mask(
    selector: Selector, scores: Tensor, available: Tensor, counts: list[int], view: View
) -> Tensor:
    """``[batch, tokens]`` bool: as many available tokens as a selector was asked for."""
    with blamed(selector, view.place):
        reader = view.for_component(selector)
        answer = selector.select(scores.clone(), available.clone(), list(counts), reader)
    kept = check_mask(selector, answer, available, view)
    _check_counts(selector, kept, counts, view)
    return kept


def asked_turns(
    selector: Selector, scores: Tensor, available: Tensor, counts: list[int], view: View
) -> Tensor:
    """``[batch, tokens]`` turns 1, 2, ... of the tokens that a selector takes, 0 for the others."""
    with blamed(selector, view.place):
        reader = view.for_component(selector)
        answer = selector.take_in_order(scores.clone(), available.clone(), list(counts), reader)
    title = f"{titled(selector)} at {view.place}: take_in_order"
    turns = checked(answer, title, tuple(available.shape), INTEGERS, available.device).long()
    view.check_later(f"{title} returned a turn below 0", ((turns < 0) & available).any())
    kept = (turns > 0) & available
    _check_counts(selector, kept, counts, view)
    return in_order(title, turns, kept, view)


def _check_counts(selector: Selector, kept: Tensor, counts: list[int], view: View) -> None:
    """A wrong count would break the layout, or the budget."""
    title, got = f"{titled(selector)} at {view.place}", kept.sum(dim=1)
    most = on_device(counts, kept.device)
    if selector.adaptive_count:
        least = on_device([min(count, selector.least) for count in counts], kept.device)
        message = f"{title} kept no token of an image, or more than the budget ({counts})"
        view.check_later(message, ((got < least) | (got > most)).any())
    else:
        message = f"{title} kept another number of tokens than it was asked for ({counts})"
        view.check_later(message, (got != most).any())
