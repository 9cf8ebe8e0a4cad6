"""The built-in strategies: what to keep. Pure tensor maths; no model names, no hooks.

One published idea a file; a new scorer is one file in ``scorers/`` and one line here.
"""

from __future__ import annotations

from pathlib import Path

from tokensieve.core.plugins import Registry, hookimpl
from tokensieve.strategies.mergers.contextual import ContextualMerger
from tokensieve.strategies.scorers.attention import AttentionScorer
from tokensieve.strategies.scorers.cls_attention import ClsAttentionScorer
from tokensieve.strategies.scorers.iga import IgaScorer
from tokensieve.strategies.scorers.random_scores import RandomScorer
from tokensieve.strategies.scorers.ttv import TtvScorer
from tokensieve.strategies.scorers.uniform import UniformScorer
from tokensieve.strategies.selectors.composite import CompositeSelector
from tokensieve.strategies.selectors.threshold import ThresholdSelector
from tokensieve.strategies.selectors.top_k import TopKSelector


@hookimpl
def tokensieve_register(registry: Registry) -> None:
    """Add the built-in scorers, selectors, mergers and presets."""
    registry.add(AttentionScorer)
    registry.add(ClsAttentionScorer)
    registry.add(IgaScorer)
    registry.add(RandomScorer)
    registry.add(TtvScorer)
    registry.add(UniformScorer)
    registry.add(CompositeSelector)
    registry.add(ThresholdSelector)
    registry.add(TopKSelector)
    registry.add(ContextualMerger)
    registry.add_pipelines(Path(__file__).parent / "pipelines")
