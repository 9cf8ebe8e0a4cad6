"""Builds the :class:`~tokensieve.core.view.View` of a boundary from the state of the forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tokensieve.core.adapter import BoundModel, VisionRecord
from tokensieve.core.engine.attention import LayerAttention
from tokensieve.core.engine.masks import join_valid
from tokensieve.core.engine.reduction import Groups
from tokensieve.core.engine.state import ForwardState
from tokensieve.core.errors import SignalError
from tokensieve.core.view import (
    HISTORY_SIGNALS,
    Module,
    Transition,
    View,
    at_least_float32,
    on_device,
)

if TYPE_CHECKING:
    from torch import Tensor

Embeddings = tuple["Tensor", "Tensor"]


class SignalBoard:
    """Everything the view of one boundary can be asked for, computed when it is asked."""

    def __init__(
        self,
        bound: BoundModel,
        state: ForwardState,
        groups: Groups,
        boundary: int,
        hidden: Tensor,
        embeddings: Callable[[], Embeddings],
        vision: VisionRecord | None,
    ) -> None:
        self.bound = bound
        self.state = state
        self.groups = groups
        self.boundary = boundary
        self.hidden = hidden
        self.embeddings = embeddings
        self.record = vision

    def view(self) -> View:
        """The view; nothing is computed yet."""
        state, groups = self.state, self.groups
        assert state.origin is not None
        index = groups.take(state.origin).masked_fill(~groups.valid, -1)
        readers: dict[str, Callable[[], Any]] = {
            "hidden": lambda: at_least_float32(groups.take(self.hidden)),
            "transitions": lambda: self._transitions(("attention", "mlp")),
            "block_transitions": lambda: self._transitions(("block",)),
            "next_attention": self._next_attention,
            "previous_attention": self._previous_attention,
            "vision_attention": lambda: self._vision("attention", index),
            "vision_keys": lambda: self._vision("keys", index),
            "vision_features": lambda: self._vision("features", index),
            "grid": lambda: self._vision("grid", index),
            "cls_feature": self._cls_feature,
        }
        offered = {
            name: reader
            for name, reader in readers.items()
            if name in self.bound.provides and (self.boundary or name not in HISTORY_SIGNALS)
        }
        keys = [state.keys[group[0].sample] for group in groups.blocks]
        return View(groups.valid, index, offered, keys=keys, boundary=self.boundary)

    def _transitions(self, modules: tuple[Module, ...]) -> list[Transition]:
        sample = self.groups.sample
        device = sample.device  # layers may live on several devices
        return [
            Transition(
                seen.layer,
                seen.module,
                seen.magnitude.to(device)[sample],
                seen.cosine.to(device)[sample],
                seen.valid.to(device)[sample],
                self.groups.take(seen.rows.to(device)),
            )
            for seen in self.state.transitions
            if seen.module in modules
        ]

    def _next_attention(self) -> LayerAttention:
        cos, sin = self.embeddings()
        cached = self._cache_keys(self.boundary)
        return LayerAttention(
            bound=self.bound,
            layer=self.boundary,
            hidden=self.hidden,
            cos=cos,
            sin=sin,
            keys=None,
            past_keys=cached,
            key_valid=self._key_valid(self.boundary, 0 if cached is None else cached.shape[2]),
            layout=self._layout(),
            groups=self.groups,
        )

    def _previous_attention(self) -> LayerAttention:
        previous = self.state.previous
        if previous is None or previous.layer != self.boundary - 1:
            raise SignalError(f"no layer ran before boundary {self.boundary}")
        keys = self._cache_keys(previous.layer)
        rows = previous.hidden.shape[1]
        past = 0 if keys is None else keys.shape[2] - rows
        return LayerAttention(
            bound=self.bound,
            layer=previous.layer,
            hidden=previous.hidden,
            cos=previous.cos,
            sin=previous.sin,
            keys=keys,
            past_keys=None,
            key_valid=self._key_valid(previous.layer, past),
            layout=self._layout(),
            groups=self.groups,
        )

    def _cache_keys(self, layer: int) -> Tensor | None:
        cache = self.state.cache
        if cache is None or layer >= len(cache.layers) or not cache.layers[layer].is_initialized:
            return None
        keys: Tensor = cache.layers[layer].keys
        return keys.to(self.hidden.device) if keys.numel() else None

    def _key_valid(self, layer: int, past: int) -> Tensor | None:
        """Which of ``past`` cached and all new keys are real."""
        state = self.state
        stored = state.cache.layers[layer] if past else None
        old = getattr(stored, "valid", state.past_padding if past else None)
        old = None if old is None else old[:, :past]
        new = state.valid if state.columns is not None else state.new_padding
        rows = self.hidden.shape[1]
        return join_valid(old, new, state.batch, past, rows, self.hidden.device)

    def _layout(self) -> Any:
        assert self.state.layout is not None
        return self.state.layout

    def _vision(self, field: str, index: Tensor) -> Tensor:
        record, start = self._located()
        values = getattr(record, field)
        flat = start[self.groups.sample][:, None] + index.clamp(min=0)
        picked: Tensor = values[flat.to(values.device)]
        real = (index >= 0).to(values.device)
        return (picked * real.reshape(*real.shape, *[1] * (picked.ndim - 2))).to(index.device)

    def _located(self) -> tuple[VisionRecord, Tensor]:
        """The vision record, and where each sample's tokens begin in it."""
        record, state = self.record, self.state
        wanted = [0] * state.batch
        for (sample, _), count in state.original.items():
            wanted[sample] += count
        seen = 0 if record is None else sum(record.images)
        if record is None or seen == 0 or sum(wanted) % seen:
            raise SignalError(
                f"the prompt holds {sum(wanted)} visual tokens but the vision encoder made {seen}: "
                "vision signals need the images to pass through the model's own vision encoder"
            )
        copies = sum(wanted) // seen  # beams and returned sequences repeat every sample
        return record, on_device(_starts(wanted, copies), self.groups.sample.device)

    def _cls_feature(self) -> Tensor:
        record, _ = self._located()
        assert record.cls_features is not None
        images = [0] * self.state.batch
        for sample, _image in self.state.original:
            images[sample] += 1
        starts = _starts(images, sum(images) // len(record.images))
        chosen = [starts[group[0].sample] + group[0].image for group in self.groups.blocks]
        return record.cls_features[chosen][:, None]


def _starts(counts: list[int], copies: int) -> list[int]:
    """Where each sample begins in a record that holds ``copies`` samples in a row only once."""
    starts, total = [], 0
    for sample, count in enumerate(counts):
        starts.append(total)
        if sample % copies == copies - 1:
            total += count
    return starts
