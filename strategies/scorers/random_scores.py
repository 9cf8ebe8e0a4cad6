"""Random ranking: the floor that every method has to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from tokensieve.plugin import Scorer, Seed, View, torch

if TYPE_CHECKING:
    from torch import Tensor


class RandomScorer(Scorer):
    """Rank visual tokens at random.

    The numbers depend on the seed, on the sample's own prompt and on each token's original place,
    not on the batch, the device or earlier draws: a sample keeps the same tokens alone and in a
    batch, and a later boundary keeps a subset of an earlier one's.
    """

    name = "random"
    needs = frozenset()

    seed: Seed = Field(default=0, description="another seed, another draw")

    def score(self, view: View) -> Tensor:
        """``[batch, tokens]`` uniform numbers in [0, 1)."""
        index = view.index.clamp(min=0)
        longest = int(index.max()) + 1 if index.numel() else 1
        tables = []
        for key in view.keys:
            generator = torch.Generator().manual_seed(key + self.seed)
            tables.append(torch.rand(longest, generator=generator))
        table = torch.stack(tables).to(index.device)
        return table.gather(1, index)
