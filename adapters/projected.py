"""Decoders after an encoder of layers and a projector: LLaVA, Pixtral and InternVL."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar

from tokensieve.adapters.decoder import LlamaLikeModel, placeholder_ids
from tokensieve.adapters.shrinking import spread_features
from tokensieve.adapters.vision import (
    ATTENTION_SIGNALS,
    CapturedLayer,
    Pass,
    feeding_layer,
    layer_at,
    raster,
    seen_heads,
    watch_layers,
    watch_projector,
)
from tokensieve.plugin import (
    VISION_SIGNALS,
    AttachError,
    Grid,
    Handle,
    ShrinkPlan,
    Signature,
    VisionRecord,
    torch,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

Layers = dict[float | None, "nn.Module"]
"""Encoder layers by the share of the encoder that has run after them; None: the feeding one."""


class ProjectedVlm(LlamaLikeModel):
    """A model whose projector is fed by one layer of its vision encoder.

    A subclass says how its pictures are laid out: ``grids`` of what the projector gets, and for
    smaller pictures ``full_grids`` and ``smaller``.

    Attributes:
        projections: of a layer, the modules that make its queries and keys.
        scaling: of a layer, the factor on query-key products.
        square: whether smaller pictures have to be squares.
        shrink_arguments: what the encoder's forward has to take besides pixels to be shrunk.
        has_cls: whether the encoder's first token is a [CLS].
        encoder_layers: all layers, ``vision_layer`` the one that feeds the projector.
        shrinking: the grids of the pass that runs, ``full`` and ``small``, in each thread.
    """

    projections: ClassVar[tuple[str, str]]
    scaling: ClassVar[str]
    square: ClassVar[bool] = False
    shrink_arguments: ClassVar[tuple[str, ...]] = ()
    has_cls: bool
    encoder_layers: list[nn.Module]
    vision_layer: nn.Module

    def __init__(self, model: Any, family: str) -> None:
        super().__init__(model, family)
        self.placeholder_ids = placeholder_ids(model.config, ["image_token_id"])
        self.shrinking = Pass()

    def find_layers(self, layers: Iterable[nn.Module], without: dict[str, str]) -> None:
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
    ) -> list[Handle]:
        """Hooks on the projections of the chosen layers, and on the projector."""
        passing, layers = Pass(), Layers()
        if "encoder_layers" in self.provides:
            count = len(self.encoder_layers)
            layers = {None: self.vision_layer} if signals & ATTENTION_SIGNALS else {}
            layers |= {depth: self.encoder_layers[layer_at(depth, count)] for depth in depths}

        def pair(layer: nn.Module) -> Callable[[], tuple[nn.Module, nn.Module]]:
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

    def more_hooks(self, passing: Pass, signals: frozenset[str], layers: Layers) -> list[Handle]:
        """Hooks on what else has to be seen of a pass of the encoder."""
        return []

    @abstractmethod
    def grids(self, features: Tensor, seen: Mapping[object, Any]) -> list[Grid]:
        """Rows and columns of tokens of each picture or tile of a pass.

        ``features`` ``[images, tokens, n]`` are the projector's input, ``seen`` what hooks left.
        """

    def record(self, features: Tensor, seen: dict[object, Any], layers: Layers) -> VisionRecord:
        """The tokens of one picture or tile after the other, in raster order."""
        grids = self.grids(features, seen)
        sizes = [rows * columns for rows, columns in grids]
        record = VisionRecord(sizes)
        record.features = features.flatten(0, 1)
        record.grid = torch.cat([raster(*grid) for grid in grids]).to(features.device)
        numbers = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        record.tile = numbers.to(features.device)
        heads = self.model.config.vision_config.num_attention_heads
        for depth, layer in layers.items():
            parts = self.parts(*seen_heads(seen, depth, heads), seen, sizes)
            scale = float(attrgetter(self.scaling)(layer))
            pool = partial(self.pooled, images=len(sizes))
            record.layers[depth] = CapturedLayer(parts, scale, self.has_cls, pool)
        return record

    def parts(
        self, queries: Tensor, keys: Tensor, seen: Mapping[object, Any], sizes: list[int]
    ) -> list[tuple[Tensor, Tensor]]:
        """Queries and keys ``[images, heads, tokens, head dim]`` of pictures of one size each."""
        return [(queries, keys)]

    def pooled(self, patches: Tensor, images: int) -> Tensor:
        """``[patches, n]`` of all pictures -> ``[visual tokens, n]``: a token is a patch."""
        return patches

    def shrink_images(self, plan: ShrinkPlan) -> list[Handle]:
        """Smaller pixels for the encoder; what leaves the projector goes to its places."""
        tower = self.inner.vision_tower
        projector = self.inner.multi_modal_projector
        call = Signature.of(tower, self.shrink_arguments)

        def before(
            module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
        ) -> tuple[object, object]:
            given = call.named(args, kwargs)
            pixels = given.pop(call.names[0])
            full = self.full_grids(pixels, given)
            small = plan(full, square=self.square)
            self.shrinking.seen = {"full": full, "small": small}
            pictures, changed = self.smaller(pixels, full, small)
            return (pictures,), {**given, **changed}

        def after(module: nn.Module, args: tuple[object, ...], output: Tensor) -> Tensor:
            full, small = self.shrinking.seen["full"], self.shrinking.seen["small"]
            spread = spread_features(output.flatten(0, 1), full, small)
            return spread.view(output.shape[0], -1, spread.shape[-1])

        return [
            tower.register_forward_pre_hook(before, with_kwargs=True),
            projector.register_forward_hook(after),
        ]

    @abstractmethod
    def full_grids(self, pixels: Tensor, given: Mapping[str, Any]) -> list[Grid]:
        """Rows and columns of tokens of each picture as it comes; ``given``: other arguments."""

    @abstractmethod
    def smaller(
        self, pixels: Tensor, full: list[Grid], small: list[Grid]
    ) -> tuple[Tensor, dict[str, Any]]:
        """The pictures at the ``small`` grids, and the arguments that change with them."""

    def project(self, features: Tensor) -> Tensor:
        """The projector works on each (joined) token alone."""
        projector = self.inner.multi_modal_projector
        vectors: Tensor = projector.forward(features)
        return vectors


def check_whole_model(family: str, model: Any, kind: str) -> None:
    """Refuse a part of a model: the layers are found from its top."""
    if not hasattr(model, "model") or not hasattr(model.model, "language_model"):
        raise AttachError(
            f"adapter {family}: attach to the whole model ({kind}), not to a part of it"
        )
