"""Tokens unlike a few pivots (DART)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from tokensieve.plugin import View, on_device, selection_order, take_rows, top_counts, torch, unit
from tokensieve.strategies.ordered import OrderedSelector, then, top_in_order

if TYPE_CHECKING:
    from torch import Tensor


MOST_PIVOTS = 256  # of each kind: every pivot looks at every token


class PivotsSelector(OrderedSelector):
    """Keep a few pivots, and for each of them the tokens that duplicate it least.

    Pivots are the visual tokens and the instruction tokens whose keys (layer before the boundary,
    all heads, after RoPE) have the largest L1 norm. In falling order of norm, visual pivots first,
    each takes its share of the remaining tokens: those with the lowest cosine to it, in hidden
    states after the decoder's final norm. Text pivots only choose. Ties go to the lowest index.
    With ``order: selection`` the pivots come first, then what each of them took, unlike it first.
    The L1 norm of a rotated key depends on its absolute position: a prompt after left padding
    keeps the same tokens only if its positions are counted from its own start, as ``generate``
    does.

    Source: DART, EMNLP 2025, arXiv 2502.11494, after its ports. The budget is the total; what does
    not divide evenly among the pivots goes to the first of them, one each. Deviations: the ports
    walk through a Python set, whose order is no rule; pivots here go by falling norm.
    """

    name = "pivots"
    needs = frozenset({"previous_keys", "normed_states"})

    image_pivots: int = Field(
        default=4, ge=1, le=MOST_PIVOTS, description="visual pivots, which are kept"
    )
    text_pivots: int = Field(
        default=4, ge=0, le=MOST_PIVOTS, description="pivots among the instruction's tokens"
    )

    def reads_scores(self) -> bool:
        """Keys and hidden states decide."""
        return False

    def take_in_order(
        self, scores: Tensor, available: Tensor, counts: list[int], view: View
    ) -> Tensor:
        """``[batch, tokens]`` turns; the loop runs over the pivots."""
        keys, states = view.previous_keys, view.normed_states
        norms = keys.visual.abs().sum(dim=-1)
        own = [min(self.image_pivots, count) for count in counts]
        turns = top_in_order(norms, available, own)
        kept = turns > 0
        words = keys.question
        text = top_counts(
            keys.text.abs().sum(dim=-1), words, [self.text_pivots if o else 0 for o in own]
        )
        images = _ordered(states.visual, norms, kept, self.image_pivots)
        texts = _ordered(states.text, keys.text.abs().sum(dim=-1), text, self.text_pivots)
        directions = unit(states.visual)
        number = kept.sum(dim=1, keepdim=True) + text.sum(dim=1, keepdim=True)
        budget = on_device(counts, available.device)[:, None] - kept.sum(dim=1, keepdim=True)
        turn = torch.zeros_like(number)
        for pivot, real in (*images, *texts):
            share = budget // number.clamp(min=1) + (turn < budget % number.clamp(min=1)).long()
            likeness = (directions @ unit(pivot)[..., None])[..., 0]
            share = torch.where(real[:, None], share, 0)[:, 0]
            turns = then(turns, top_in_order(-likeness, available & (turns == 0), share))
            turn = turn + real[:, None].long()
        return turns


def _ordered(
    states: Tensor, norms: Tensor, chosen: Tensor, most: int
) -> list[tuple[Tensor, Tensor]]:
    """The chosen rows by falling norm: vectors ``[batch, n]`` and whether there is one."""
    order = selection_order(norms, chosen).argsort(dim=1)[:, :most]
    rows, real = take_rows(states, order), chosen.gather(1, order)
    return [(rows[:, place], real[:, place]) for place in range(order.shape[1])]
