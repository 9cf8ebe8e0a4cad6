"""Decoders behind an encoder of layers and a projector: what LLaVA and InternVL have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar

from tokensieve.adapters.decoder import LlamaLikeModel
from tokensieve.adapters.vision import (
    ATTENTION_SIGNALS,
    Pass,
    feeding_layer,
    layer_at,
    watch_layers,
    watch_projector,
)
from tokensieve.core.contract.signals import VISION_SIGNALS
from tokensieve.core.contract.vision_record import VisionRecord
from tokensieve.core.errors import AttachError

if TYPE_CHECKING:
    from torch import Tensor

Layers = dict[float | None, Any]
"""Encoder layers by the share of the encoder that has run behind them; None: the feeding one."""


class EncodedModel(LlamaLikeModel):
    """A bound model whose projector is fed by one layer of its vision encoder.

    Attributes:
        projections: of a layer, the modules that make its queries and keys.
        encoder_layers: all layers, ``vision_layer`` the one that feeds the projector.
    """

    projections: ClassVar[tuple[str, str]]
    encoder_layers: list[Any]
    vision_layer: Any

    def find_layers(self, layers: Any, without: dict[str, str]) -> None:
        """Say which vision signals the encoder gives, and why not those in ``without``."""
        self.missing = dict(without)
        names, index = VISION_SIGNALS - set(without), self.model.config.vision_feature_layer
        self.encoder_layers = list(layers)
        if not isinstance(index, int):
            self.lack(names, f"the projector reads several vision layers ({index})")
            return
        self.vision_layer = feeding_layer(self.encoder_layers, index)
        if self.vision_layer is None:
            self.lack(names, "no vision layer runs before the projector")
            return
        self.provides = self.provides | names

    def lack(self, names: frozenset[str], reason: str) -> None:
        """Signals that this model does not give."""
        self.missing |= dict.fromkeys(names, reason)

    def watch_vision(
        self,
        signals: frozenset[str],
        depths: frozenset[float],
        deliver: Callable[[VisionRecord], None],
    ) -> list[Any]:
        """Hooks on the projections of the chosen layers, and on the projector."""
        passing, layers = Pass(), self._chosen(signals, depths)

        def pair(layer: Any) -> Callable[[], tuple[Any, Any]]:
            return lambda: attrgetter(*self.projections)(layer)

        handles = watch_projector(
            passing,
            self.inner.multi_modal_projector,
            lambda features: self.record(features, passing.seen, layers),
            deliver,
        )
        looked_up = {depth: pair(layer) for depth, layer in layers.items()}
        handles += watch_layers(passing, self.inner.vision_tower, looked_up)
        return handles + self.more_hooks(passing, signals, layers)

    def _chosen(self, signals: frozenset[str], depths: frozenset[float]) -> Layers:
        if "encoder_layers" not in self.provides:
            return {}
        chosen: Layers = {None: self.vision_layer} if signals & ATTENTION_SIGNALS else {}
        count = len(self.encoder_layers)
        return chosen | {depth: self.encoder_layers[layer_at(depth, count)] for depth in depths}

    def more_hooks(self, passing: Pass, signals: frozenset[str], layers: Layers) -> list[Any]:
        """What else has to be seen of a pass of the encoder."""
        return []

    @abstractmethod
    def record(self, features: Tensor, seen: dict[Any, Any], layers: Layers) -> VisionRecord:
        """What a pass showed: the projector's input, and what its hooks left in ``seen``."""

    def project(self, features: Tensor) -> Tensor:
        """The projector works on each (joined) token alone."""
        projector: Any = self.inner.multi_modal_projector
        vectors: Tensor = projector.forward(features)
        return vectors


def check_whole_model(family: str, model: Any, kind: str) -> None:
    """Refuse a part of a model: the layers are found from its top."""
    if not hasattr(model, "model") or not hasattr(model.model, "language_model"):
        raise AttachError(
            f"adapter {family}: attach to the whole model ({kind}), not to a part of it"
        )
