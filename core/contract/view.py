"""The view of a component: one row per image, one column per visual token."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from tokensieve.core.contract.boundary_log import BoundaryLog, looks_at_once
from tokensieve.core.contract.memory import Memory, NoMemory, Per
from tokensieve.core.contract.signals import (
    SIGNALS,
    EncoderLayer,
    TextAttention,
    TokenStates,
    Transition,
)
from tokensieve.core.errors import PluginError, SignalError, did_you_mean
from tokensieve.core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


class Reader(Protocol):
    """A component, as far as a view knows it."""

    name: ClassVar[str]
    kind: ClassVar[str]

    def readable(self) -> frozenset[str]:
        """Every signal that it declares, in ``needs`` or in ``uses``."""


def own(value: object) -> object:
    """A copy of a tensor, or of the tensors in a tuple or a dataclass of signals.

    Signals that answer questions, as attention does, make a new tensor for each answer.
    """
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, tuple):
        return tuple(own(part) for part in value)
    if isinstance(value, TokenStates | Transition):
        copies: dict[str, Any] = {
            part.name: own(getattr(value, part.name)) for part in fields(value)
        }
        return replace(value, **copies)
    return value


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
        selected: ``[batch, tokens]`` bool, what earlier parts of a ``composite`` have taken; None
            in the first part.
        scores: ``[batch, tokens]`` the stage's combined scores, for mergers; None for scorers.
        place: which stage and boundary this is, in the words of an error.
    """

    def __init__(
        self,
        valid: Tensor,
        index: Tensor,
        signals: Mapping[str, Callable[[], object]],
        *,
        keys: list[int] | None = None,
        boundary: int = 0,
        memory: Memory | None = None,
    ) -> None:
        self.valid = valid
        self.index = index
        self.keys = keys if keys is not None else [0] * valid.shape[0]
        self.boundary = boundary
        self.selected: Tensor | None = None
        self.scores: Tensor | None = None
        self.place = f"boundary {boundary}"
        self._signals = signals
        self._allowed = frozenset(signals)
        self._reader = "this component"
        self._owner = ""
        self._memory = memory or NoMemory()
        self._shared = BoundaryLog()
        self._own: dict[str, object] | None = None

    def for_component(self, component: Reader) -> View:
        """The same view, restricted to the signals that ``component`` declared.

        It is the component's own: what it writes there is seen by nobody else.
        """
        view = self.restricted(f"{component.kind} {component.name!r}", component.readable())
        view._owner = repr(component)
        view.valid, view.index, view.keys = self.valid.clone(), self.index.clone(), [*self.keys]
        view.selected = None if self.selected is None else self.selected.clone()
        view.scores = None if self.scores is None else self.scores.clone()
        view._own = {}
        return view

    def restricted(self, reader: str, allowed: frozenset[str]) -> View:
        """The same view, restricted to the ``allowed`` signals; ``reader`` is named in errors."""
        view = copy.copy(self)
        view._reader, view._allowed = reader, allowed
        return view

    def after(self, selected: Tensor, scores: Tensor | None = None) -> View:
        """The same view, once ``selected`` tokens are taken and the stage's scores are known."""
        view = copy.copy(self)
        view.selected, view.scores = selected, scores if scores is not None else self.scores
        return view

    # ------------------------------------------------------------- telling the engine

    def check_later(self, message: str, wrong: Tensor) -> None:
        """Note a condition that must not hold; the engine looks once, after the forward.

        On the CPU, where looking costs nothing, the error is raised here.

        Args:
            message: the error, if one entry of ``wrong`` is True.
            wrong: bool tensor of any shape.

        Raises:
            PluginError: on the CPU.
        """
        if not looks_at_once(wrong.device):
            self._shared.later_checks.append((message, wrong.any()))
        elif bool(wrong.any()):
            raise PluginError(message)

    def note(self, text: str) -> None:
        """Tell the user something about this prefill: it appears in ``trace.notes``, once."""
        line = f"{self._reader} at boundary {self.boundary}: {text}"
        if line not in self._shared.notes:
            self._shared.notes.append(line)

    @property
    def later_checks(self) -> list[tuple[str, Tensor]]:
        """Conditions of :meth:`check_later`, on this view or one derived from it."""
        return self._shared.later_checks

    @property
    def notes(self) -> list[str]:
        """Texts of :meth:`note`, on this view or one derived from it."""
        return self._shared.notes

    # ------------------------------------------------------------- from boundary to boundary

    def remember(self, name: str, values: Tensor, *, per: Per = "token") -> None:
        """Keep ``values`` for the later boundaries of this prefill.

        ``[batch, tokens, ...]`` with ``per="token"``: when tokens are pruned, the rows go along,
        and a token that was never seen has zeros. ``[batch, text, ...]`` with ``per="text"``, in
        the order of :class:`~tokensieve.plugin.TokenStates`. A component recalls what the
        same component with the same parameters has remembered.

        Raises:
            PluginError: ``values`` have another shape.
        """
        if values.shape[0] != self.valid.shape[0] or (
            per == "token" and values.shape[:2] != self.valid.shape
        ):
            raise PluginError(
                f"{self._reader} remembers {name!r} of shape {tuple(values.shape)}, "
                f"expected [batch, tokens, ...] = {tuple(self.valid.shape)}"
            )
        self._memory.remember(f"{self._owner} {name}", values, per)

    def recall(self, name: str, *, per: Per = "token") -> Tensor | None:
        """Values of :meth:`remember` from an earlier boundary, for the current tokens; or None."""
        return self._memory.recall(f"{self._owner} {name}", per)

    # ------------------------------------------------------------- signals

    def has(self, signal: str) -> bool:
        """Whether a declared signal is there; of those in ``uses`` some models give none."""
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
        if self._own is None:
            return self._shared.values[signal]
        if signal not in self._own:
            self._own[signal] = own(self._shared.values[signal])
        return self._own[signal]

    def _known(self, signal: str) -> None:
        if signal not in SIGNALS:
            raise SignalError(
                f"{self._reader}: no signal {signal!r}{did_you_mean(signal, SIGNALS)}"
            )

    def encoder_layer(self, depth: float | None = None) -> EncoderLayer:
        """A layer of the vision encoder, by the share of its layers that have run (0.25: a
        quarter); None for the one whose output feeds the projector.

        The component declares every share in ``vision_depths()``.
        """
        layer: EncoderLayer = self.read("encoder_layers")(depth)
        return layer

    if TYPE_CHECKING:  # the other signals are attributes; see `read` and SIGNALS
        hidden: Tensor
        previous_hidden: Tensor
        normed_states: TokenStates
        embeddings: TokenStates
        previous_keys: TokenStates
        transitions: tuple[Transition, ...]
        block_transitions: tuple[Transition, ...]
        next_attention: TextAttention
        previous_attention: TextAttention
        sizes: Tensor
        vision_attention: Tensor
        vision_keys: Tensor
        vision_features: Tensor
        cls_feature: Tensor
        clip_relevance: Tensor
        grid: Tensor
        tile: Tensor
    else:

        def __getattr__(self, name: str) -> Any:
            """Only for names that are not there: signals, or a mistake."""
            if name in SIGNALS:
                return self.read(name)
            if name.startswith("_"):
                raise AttributeError(name)
            hint = did_you_mean(name, [*SIGNALS, "valid", "index", "keys", "boundary"])
            raise AttributeError(f"{self._reader}: a view has no {name!r}{hint}")
