"""All that a scorer, selector, merger, task or adapter needs: the door for plugins.

>>> from tokensieve.plugin import Scorer, View, unit

The built-in strategies and adapters import nothing deeper. Nothing here loads torch: ``torch`` of
this module is torch itself, imported when an attribute of it is first read, so that a plugin costs
a command nothing that only lists it.
"""

from tokensieve.core.contract.adapted import (
    ATTENTION_SIGNALS,
    BRANCH_SIGNALS,
    ENCODER_SIGNALS,
    IMAGE,
    AdaptedEncoder,
    AdaptedModel,
    Branch,
    Demands,
)
from tokensieve.core.contract.adapter import DECODER_SIGNALS, AdaptedVlm, Adapter, VisionRecord
from tokensieve.core.contract.components import (
    Component,
    LayerRange,
    Merged,
    Merger,
    Scorer,
    Selector,
    Split,
)
from tokensieve.core.contract.dims import DecoderDims, ModelSize
from tokensieve.core.contract.encoder_attention import (
    joined_heads,
    paid_attention,
    received_attention,
)
from tokensieve.core.contract.hooks import Handle, own
from tokensieve.core.contract.panel import Panel
from tokensieve.core.contract.ranking import selection_order, top_counts
from tokensieve.core.contract.shrinking import Grid, ShrinkPlan, spread_places
from tokensieve.core.contract.signals import (
    SIGNALS,
    VISION_SIGNALS,
    EncoderAttention,
    EncoderLayer,
    TextAttention,
    TokenStates,
    Transition,
)
from tokensieve.core.contract.signature import Signature, unknown_release
from tokensieve.core.contract.tasks import Box, Example, Task, same_text
from tokensieve.core.contract.tensors import at_least_float32, on_device, take_rows, unit
from tokensieve.core.contract.ties import above, falling, first_max, rounding
from tokensieve.core.contract.view import View
from tokensieve.core.errors import (
    AttachError,
    PluginError,
    SignalError,
    TaskError,
    TokensieveError,
    UnsupportedError,
)
from tokensieve.core.gate.selection import asked_turns
from tokensieve.core.lazy import torch
from tokensieve.core.pipeline.budgets import whole as floor_count
from tokensieve.core.pipeline.fields import ASelector as SelectorField
from tokensieve.core.pipeline.scoring import combined_scores
from tokensieve.core.pipeline.stage import ScoreTerms
from tokensieve.core.plugins.registry import Registry, hookimpl
from tokensieve.core.strict import Factor, Layer, Seed, Share, StrictModel, TokenCount

__all__ = [
    "ATTENTION_SIGNALS",
    "BRANCH_SIGNALS",
    "DECODER_SIGNALS",
    "ENCODER_SIGNALS",
    "IMAGE",
    "SIGNALS",
    "VISION_SIGNALS",
    "AdaptedEncoder",
    "AdaptedModel",
    "AdaptedVlm",
    "Adapter",
    "AttachError",
    "Box",
    "Branch",
    "Component",
    "DecoderDims",
    "Demands",
    "EncoderAttention",
    "EncoderLayer",
    "Example",
    "Factor",
    "Grid",
    "Handle",
    "Layer",
    "LayerRange",
    "Merged",
    "Merger",
    "ModelSize",
    "Panel",
    "PluginError",
    "Registry",
    "ScoreTerms",
    "Scorer",
    "Seed",
    "Selector",
    "SelectorField",
    "Share",
    "ShrinkPlan",
    "SignalError",
    "Signature",
    "Split",
    "StrictModel",
    "Task",
    "TaskError",
    "TextAttention",
    "TokenCount",
    "TokenStates",
    "TokensieveError",
    "Transition",
    "UnsupportedError",
    "View",
    "VisionRecord",
    "above",
    "asked_turns",
    "at_least_float32",
    "combined_scores",
    "falling",
    "first_max",
    "floor_count",
    "hookimpl",
    "joined_heads",
    "on_device",
    "own",
    "paid_attention",
    "received_attention",
    "rounding",
    "same_text",
    "selection_order",
    "spread_places",
    "take_rows",
    "top_counts",
    "torch",
    "unit",
    "unknown_release",
]
