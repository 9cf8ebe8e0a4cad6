"""Maximum coverage of text and image (MMTok), facility location."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from tokensieve.plugin import Factor, View, first_max, on_device, take_rows, torch, unit
from tokensieve.strategies.features import Features, FeatureSelector
from tokensieve.strategies.ordered import with_turn

if TYPE_CHECKING:
    from torch import Tensor


class CoverageSelector(FeatureSelector):
    """Keep tokens that together resemble everything in the image, and every word of the question.

    Greedily maximizes ``sum over rows of max over kept tokens of M[row, token]``, ties by lowest
    index. ``M`` stacks two row-wise softmaxes of cosines: instruction tokens against visual ones
    (by embedding), divided by their number, and ``image_weight`` times visual tokens against each
    other (by ``features``), divided by theirs. With ``text: false`` only the second remains:
    facility location. What earlier parts of a ``composite`` took covers already.

    Source: MMTok, ICLR 2026, arXiv 2508.18264, and its released code. Deviations: the release
    leaves out stop words, which needs the tokenizer; here all text after the last image counts.
    """

    name = "coverage"
    needs = FeatureSelector.needs | {"embeddings"}

    features: Features = "vision_features"
    text: bool = Field(default=True, description="whether the question has to be covered as well")
    image_weight: Factor = Field(default=0.5, description="alpha, the weight of the image")
    text_temperature: Factor = Field(default=0.02, description="of text against image")
    image_temperature: Factor = Field(default=0.2, description="of image against image")

    def required(self) -> frozenset[str]:
        """The features, and the embeddings if the text counts."""
        return super().required() | (frozenset({"embeddings"}) if self.text else frozenset())

    def reads_scores(self) -> bool:
        """Coverage alone."""
        return False

    def take_in_order(
        self, scores: Tensor, available: Tensor, counts: list[int], view: View
    ) -> Tensor:
        """``[batch, tokens]`` turns; the loop runs over the budget."""
        image = self.similarity(view) / self.image_temperature
        rows = self.image_weight * _shares(image, view.valid, view.valid)
        if self.text:
            states = view.embeddings
            words = unit(states.text) @ unit(states.visual).transpose(1, 2) / self.text_temperature
            rows = torch.cat([_shares(words, states.question, view.valid), rows], dim=1)
        worth = rows.transpose(1, 2).contiguous()  # equal tokens add up in one order
        covered = worth.new_zeros(worth.shape[0], 1, worth.shape[2])
        if view.selected is not None:
            covered = worth.masked_fill(~view.selected[..., None], 0).amax(dim=1, keepdim=True)
        turns = torch.zeros_like(available, dtype=torch.long)
        wanted = on_device(counts, available.device)[:, None]
        for step in range(max(counts, default=0)):
            free = available & (turns == 0)
            gain = (worth - covered).clamp_(min=0).sum(dim=2)
            pick = first_max(gain.masked_fill(~free, float("-inf")))[:, None]
            turns = with_turn(turns, pick, step, available & (step < wanted))
            covered = covered.maximum(take_rows(worth, pick))
        return turns


def _shares(logits: Tensor, rows: Tensor, tokens: Tensor) -> Tensor:
    """Softmax over the real tokens, divided by the number of real rows."""
    shares = logits.masked_fill(~tokens[:, None], float("-inf")).softmax(dim=2)
    count = rows.sum(dim=1).clamp(min=1)[:, None, None]
    return shares.masked_fill(~rows[..., None], 0) / count
