"""The built-in strategies: what to keep. Pure tensor math; no model names, no hooks.

Not here: where a signal comes from (``adapters``, ``core/engine``).

One published idea a file; a new scorer is one file in ``scorers/`` and one line here. What several
of them share is beside this file.
"""

from __future__ import annotations

from pathlib import Path

from tokensieve.plugin import Registry, hookimpl
from tokensieve.strategies.mergers.absorb import AbsorbMerger
from tokensieve.strategies.mergers.contextual import ContextualMerger
from tokensieve.strategies.mergers.knn_weighted import KnnWeightedMerger
from tokensieve.strategies.mergers.recycle import RecycleMerger
from tokensieve.strategies.mergers.tome import TomeMerger
from tokensieve.strategies.scorers.attention import AttentionScorer
from tokensieve.strategies.scorers.cls_attention import ClsAttentionScorer
from tokensieve.strategies.scorers.hidden_change import HiddenChangeScorer
from tokensieve.strategies.scorers.iga import IgaScorer
from tokensieve.strategies.scorers.random_scores import RandomScorer
from tokensieve.strategies.scorers.received_attention import ReceivedAttentionScorer
from tokensieve.strategies.scorers.relevance import RelevanceScorer
from tokensieve.strategies.scorers.ttv import TtvScorer
from tokensieve.strategies.scorers.uniform import UniformScorer
from tokensieve.strategies.selectors.bottom_k import BottomKSelector
from tokensieve.strategies.selectors.composite import CompositeSelector
from tokensieve.strategies.selectors.coverage import CoverageSelector
from tokensieve.strategies.selectors.dedupe import DedupeSelector
from tokensieve.strategies.selectors.dilated import DilatedSelector
from tokensieve.strategies.selectors.dpp import DppSelector
from tokensieve.strategies.selectors.max_min import MaxMinSelector
from tokensieve.strategies.selectors.partitioned import PartitionedSelector
from tokensieve.strategies.selectors.pivots import PivotsSelector
from tokensieve.strategies.selectors.scope import ScopeSelector
from tokensieve.strategies.selectors.threshold import ThresholdSelector
from tokensieve.strategies.selectors.top_k import TopKSelector
from tokensieve.strategies.selectors.windowed import WindowedSelector


@hookimpl
def tokensieve_register(registry: Registry) -> None:
    """Add the built-in scorers, selectors, mergers and presets."""
    registry.add(AttentionScorer)
    registry.add(ClsAttentionScorer)
    registry.add(HiddenChangeScorer)
    registry.add(IgaScorer)
    registry.add(RandomScorer)
    registry.add(ReceivedAttentionScorer)
    registry.add(RelevanceScorer)
    registry.add(TtvScorer)
    registry.add(UniformScorer)
    registry.add(BottomKSelector)
    registry.add(CompositeSelector)
    registry.add(CoverageSelector)
    registry.add(DedupeSelector)
    registry.add(DilatedSelector)
    registry.add(DppSelector)
    registry.add(MaxMinSelector)
    registry.add(PartitionedSelector)
    registry.add(PivotsSelector)
    registry.add(ScopeSelector)
    registry.add(ThresholdSelector)
    registry.add(TopKSelector)
    registry.add(WindowedSelector)
    registry.add(AbsorbMerger)
    registry.add(ContextualMerger)
    registry.add(KnnWeightedMerger)
    registry.add(RecycleMerger)
    registry.add(TomeMerger)
    registry.add_pipelines(Path(__file__).parent / "pipelines")
