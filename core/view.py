"""What a scorer, selector or merger may look at: one row per image, one column per visual token."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from tokensieve.core.errors import PluginError, SignalError, did_you_mean
from tokensieve.core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

QueryRows = Literal["last", "after-image-text", "all-text"]
Module = Literal["attention", "mlp", "block"]

SIGNALS: dict[str, str] = {
    "hidden": "hidden states that enter the boundary's decoder layer [batch, tokens, dim]",
    "transitions": "input and output of decoder attention and MLP modules, per layer",
    "block_transitions": "input and output of whole decoder blocks, per layer",
    "next_attention": "attention of text rows to visual tokens in the layer about to run",
    "previous_attention": "attention of text rows to visual tokens in the layer that just ran",
    "vision_attention": "[CLS] row or received attention in the vision encoder "
    "[batch, tokens, heads]",
    "vision_keys": "vision-encoder keys, mean over heads [batch, tokens, head dim]",
    "vision_features": "features that enter the projector [batch, tokens, vision dim]",
    "cls_feature": "the vision encoder's [CLS] feature, projectable [batch, 1, vision dim]",
    "grid": "row and column of each visual token in its image [batch, tokens, 2]",
}

HISTORY_SIGNALS = frozenset({"transitions", "block_transitions", "previous_attention"})
"""Signals of layers that have run: there is none at boundary 0."""


@dataclass(frozen=True)
class Transition:
    """How one module changed every token of the sequence (not only the visual ones).

    ``magnitude`` is ``|output| / |input|`` and ``cosine`` the cosine between input and output,
    both ``[batch, rows]`` over the sequence as it was when the module ran; ``valid`` marks real
    rows; ``columns`` ``[batch, tokens]`` says at which of those rows today's visual tokens stood.
    """

    layer: int
    module: Module
    magnitude: Tensor
    cosine: Tensor
    valid: Tensor
    columns: Tensor

    def at_tokens(self, values: Tensor) -> Tensor:
        """Pick today's visual tokens: ``[batch, rows]`` -> ``[batch, tokens]``."""
        return values.gather(1, self.columns)


class TextAttention(Protocol):
    """Attention probabilities from text rows to visual tokens, softmax over *all* keys."""

    def received(self, rows: QueryRows) -> Tensor:
        """Mean over the query rows: ``[batch, heads, tokens]``, at least float32."""


@dataclass
class ViewMemory:
    """What the views of one boundary share: values read once, and doubts to be looked at."""

    values: dict[str, Any] = field(default_factory=dict)
    doubts: list[tuple[str, Tensor]] = field(default_factory=list)


class View:
    """The visual tokens of a batch of images, and the signals a component declared.

    ``batch`` runs over images (over samples for a stage with ``scope: sample``), so nothing that
    is computed along it can mix two images. Rows are padded at the end; ``valid`` says which
    tokens are real.

    Attributes:
        valid: ``[batch, tokens]`` bool.
        index: ``[batch, tokens]`` position of each token among its sample's original visual
            tokens, raster order; -1 for an extra token such as a kept [CLS].
        keys: one integer per row that depends on the sample's prompt only; seeds randomness
            independently of the batch.
        boundary: number of decoder layers that have run.
    """

    def __init__(
        self,
        valid: Tensor,
        index: Tensor,
        signals: Mapping[str, Callable[[], Any]],
        *,
        keys: list[int] | None = None,
        boundary: int = 0,
    ) -> None:
        self.valid = valid
        self.index = index
        self.keys = keys if keys is not None else [0] * valid.shape[0]
        self.boundary = boundary
        self._signals = signals
        self._allowed = frozenset(signals)
        self._reader = "this component"
        self._shared = ViewMemory()

    def for_component(self, name: str, allowed: frozenset[str]) -> View:
        """The same view, restricted to the signals that component ``name`` declared."""
        view = copy.copy(self)
        view._reader, view._allowed = name, allowed
        return view

    def doubt(self, message: str, wrong: Tensor) -> None:
        """Note a condition that must not hold; the engine looks once, after the forward.

        On the CPU, where looking costs nothing, the error is raised here.
        """
        if wrong.device.type == "cpu" and bool(wrong):
            raise PluginError(message)
        self._shared.doubts.append((message, wrong))

    @property
    def doubts(self) -> list[tuple[str, Tensor]]:
        """What was noted by :meth:`doubt`, on this view or one derived from it."""
        return self._shared.doubts

    def has(self, signal: str) -> bool:
        """Whether an optional signal is there."""
        self._known(signal)
        return signal in self._allowed and signal in self._signals

    def read(self, signal: str) -> Any:
        """The value of ``signal``.

        Raises:
            SignalError: it was not declared in ``needs`` or ``uses``, or it is not there.
        """
        self._known(signal)
        if signal not in self._allowed:
            raise SignalError(
                f"{self._reader} reads {signal!r} but does not declare it: add it to `needs`, or "
                "to `uses` if it can do without "
                f"(declared: {', '.join(sorted(self._allowed)) or 'nothing'})"
            )
        if signal not in self._signals:
            raise SignalError(
                f"{self._reader} reads {signal!r}, which this model does not give at boundary "
                f"{self.boundary}: ask `view.has({signal!r})` first, or declare it in `needs`"
            )
        if signal not in self._shared.values:
            self._shared.values[signal] = self._signals[signal]()
        return self._shared.values[signal]

    def _known(self, signal: str) -> None:
        if signal not in SIGNALS:
            raise SignalError(
                f"{self._reader}: no signal {signal!r}{did_you_mean(signal, SIGNALS)}"
            )

    if not TYPE_CHECKING:  # type checkers know the attributes themselves

        def __getattr__(self, name: str) -> Any:
            """Only for names that are not there: say which are."""
            if name in SIGNALS:  # a property failed with an AttributeError of its own: show that
                return self.read(name)
            if name.startswith("_"):
                raise AttributeError(name)
            hint = did_you_mean(name, [*SIGNALS, "valid", "index", "keys", "boundary"])
            raise AttributeError(f"{self._reader}: a view has no {name!r}{hint}")

    @property
    def hidden(self) -> Tensor:
        """``[batch, tokens, dim]`` hidden states that enter the boundary's layer.

        At least float32, like everything that decides.
        """
        return self._tensor("hidden")

    @property
    def transitions(self) -> tuple[Transition, ...]:
        """Attention and MLP transitions of the requested layers, oldest first."""
        return tuple(self.read("transitions"))

    @property
    def block_transitions(self) -> tuple[Transition, ...]:
        """Whole-block transitions of the requested layers, oldest first."""
        return tuple(self.read("block_transitions"))

    @property
    def next_attention(self) -> TextAttention:
        """Text attention in the layer that is about to run."""
        attention: TextAttention = self.read("next_attention")
        return attention

    @property
    def previous_attention(self) -> TextAttention:
        """Text attention in the layer that ran just before this boundary."""
        attention: TextAttention = self.read("previous_attention")
        return attention

    @property
    def vision_attention(self) -> Tensor:
        """``[batch, tokens, heads]`` [CLS] (or received) attention of the vision encoder."""
        return self._tensor("vision_attention")

    @property
    def vision_keys(self) -> Tensor:
        """``[batch, tokens, head dim]`` vision keys, mean over heads."""
        return self._tensor("vision_keys")

    @property
    def vision_features(self) -> Tensor:
        """``[batch, tokens, vision dim]`` what the projector is fed with."""
        return self._tensor("vision_features")

    @property
    def cls_feature(self) -> Tensor:
        """``[batch, 1, vision dim]`` the [CLS] feature of the projector's input layer."""
        return self._tensor("cls_feature")

    @property
    def grid(self) -> Tensor:
        """``[batch, tokens, 2]`` row and column of each token in its image (or tile)."""
        return self._tensor("grid")

    def _tensor(self, signal: str) -> Tensor:
        value: Tensor = self.read(signal)
        return value


def on_device(numbers: list[Any], device: torch.device) -> Tensor:
    """Numbers of the host as a tensor on ``device``, without waiting for the device's other work.

    CUDA stages a copy from pageable memory before the call returns; other devices promise nothing.
    """
    return torch.tensor(numbers).to(device, non_blocking=device.type == "cuda")


def at_least_float32(values: Tensor) -> Tensor:
    """``values`` in float32, or in float64 if they are: the precision in which we decide."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
