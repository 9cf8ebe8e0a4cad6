"""Hooks on a vision encoder and its projector, and the layer that they capture."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokensieve.plugin import (
    EncoderAttention,
    Handle,
    SignalError,
    Signature,
    at_least_float32,
    joined_heads,
    own,
    paid_attention,
    received_attention,
    torch,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tokensieve.plugin import VisionRecord

ATTENTION_SIGNALS = frozenset({"vision_attention", "vision_keys", "encoder_layers"})
"""Signals for which queries and keys have to be captured."""
RAN_PAST = "a layer of the vision encoder ran past its hooks: its signals are lost"
NO_TEXT_TOWER = "the model has no CLIP text tower"


def feeding_layer(layers: Sequence[Any], index: int) -> Any:
    """The layer whose output is ``hidden_states[index]``; None for 0, the patch embeddings.

    ``hidden_states`` has one entry more than there are layers: -1 is the last layer's output and
    1 the first's.
    """
    number = index if index >= 0 else len(layers) + 1 + index
    return layers[number - 1] if 0 < number <= len(layers) else None


def layer_at(depth: float, count: int, candidates: Sequence[int] | None = None) -> int:
    """Index of the layer after which the share ``depth`` of ``count`` layers has run.

    With ``candidates`` (layers that see the whole image) the nearest of them, the deeper of two.
    """
    wanted = depth * count - 1
    options = range(count) if candidates is None else candidates
    return min(options, key=lambda index: (abs(index - wanted), -index))


@dataclass(frozen=True)
class CapturedLayer:
    """Queries and keys of one encoder layer; see :class:`~tokensieve.plugin.EncoderLayer`.

    Attributes:
        parts: queries and keys ``[images, heads, tokens, head dim]`` of images of one size each.
        has_cls: whether the first token is a [CLS].
        pool: ``[patches of all images, n]`` -> ``[visual tokens of all images, n]``.
    """

    parts: list[tuple[Tensor, Tensor]]
    scale: float
    has_cls: bool
    pool: Callable[[Tensor], Tensor]

    def attention(self, kind: EncoderAttention = "auto", *, joined: bool = False) -> Tensor:
        """``[T, heads]`` float32."""
        rows = []
        for part in self.parts:
            queries, keys = map(at_least_float32, map(joined_heads, part) if joined else part)
            scale = keys.shape[-1] ** -0.5 if joined else self.scale
            if kind != "received" and self.has_cls:
                values = paid_attention(queries[:, :, :1], keys, scale)[:, :, 0]
            else:
                values = received_attention(queries, keys, scale)
            patches = keys.shape[2] - int(self.has_cls)
            rows.append(values[..., -patches:].transpose(1, 2).flatten(0, 1))
        return self.pool(torch.cat(rows))

    def keys(self, *, joined: bool = False) -> Tensor:
        """``[T, head dim]`` mean over heads, or full width."""
        rows = []
        for _, keys in self.parts:
            metric = joined_heads(keys)[:, 0] if joined else keys.mean(dim=1)
            rows.append(metric[:, int(self.has_cls) :].flatten(0, 1))
        return self.pool(torch.cat(rows))


class Pass(threading.local):
    """What the hooks of one pass of an encoder leave for each other; threads run passes at once."""

    def __init__(self) -> None:
        self.seen: dict[object, Any] = {}


class LateHooks:
    """Hooks on modules that are looked up anew at every pass of the encoder.

    LoRA and quantization exchange modules while a pipeline is attached: a hook that stays on the
    old one would see what the model no longer computes.
    """

    def __init__(self, passing: Pass, modules: Mapping[object, Callable[[], nn.Module]]) -> None:
        self._passing = passing
        self._modules = modules
        self._on: dict[object, tuple[nn.Module, Handle]] = {}
        self._lock = threading.Lock()
        self.refresh()

    def refresh(self, *_: object) -> None:
        """Move the hooks to the modules that are there now; a pre-hook of the encoder."""
        with self._lock:
            for name, find in self._modules.items():
                module, (on, handle) = find(), self._on.get(name, (None, None))
                if module is on:
                    continue
                if handle is not None:
                    handle.remove()
                handle = own(module.register_forward_hook(self._keep(name)))
                self._on[name] = (module, handle)

    def remove(self) -> None:
        """Take them all away."""
        with self._lock:
            for _, handle in self._on.values():
                handle.remove()
            self._on.clear()
            self._modules = {}

    def _keep(self, name: object) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[object, ...], output: Tensor) -> None:
            self._passing.seen[name] = output

        return hook


def watch_layers(
    passing: Pass,
    encoder: nn.Module,
    projections: Mapping[float | None, Callable[[], tuple[nn.Module, nn.Module]]],
) -> list[Handle]:
    """Keep the outputs of query and key modules as ``passing.seen["q" or "k", depth]``.

    ``projections`` look the two modules of a layer up; ``encoder`` is what runs them.
    """

    def found(
        pair: Callable[[], tuple[nn.Module, nn.Module]], number: int
    ) -> Callable[[], nn.Module]:
        return lambda: pair()[number]

    late = LateHooks(
        passing,
        {
            (kind, depth): found(pair, number)
            for depth, pair in projections.items()
            for number, kind in enumerate("qk")
        },
    )
    return [late, encoder.register_forward_pre_hook(late.refresh)]


def watch_projector(
    passing: Pass,
    projector: nn.Module,
    record: Callable[[Tensor], VisionRecord],
    deliver: Callable[[VisionRecord], None],
) -> list[Handle]:
    """Deliver a record of the features that enter the projector, and of those that leave it."""
    signature = Signature.of(projector)

    def finish(
        module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: Tensor
    ) -> None:
        made = record(signature.first(args, kwargs))
        made.outputs = output.detach().flatten(0, 1)
        passing.seen = {}
        deliver(made)

    return [projector.register_forward_hook(finish, with_kwargs=True)]


def raster(rows: int, columns: int, images: int = 1) -> Tensor:
    """``[images * rows * columns, 2]`` row and column of every token, image after image."""
    one: Tensor = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
    repeated: Tensor = one.repeat(images, 1)
    return repeated


def encoded_tokens(given: Mapping[str, Any], modality: str) -> list[int] | None:
    """Tokens of each picture whose features the caller encoded ahead, as ``generate`` does.

    None if there are none: ``mm_encoder_outputs`` holds the features of each picture by modality.
    """
    outputs = given.get("mm_encoder_outputs") or {}
    features = getattr(outputs.get(modality), "pooler_output", None)
    return None if features is None else [len(picture) for picture in features]


def rotated_parts(
    queries: Tensor, keys: Tensor, angles: tuple[Tensor, Tensor], sizes: Sequence[int]
) -> list[tuple[Tensor, Tensor]]:
    """Queries and keys ``[1, heads, patches, width]`` of a packed pass, per image, with 2-D RoPE.

    Args:
        angles: cosines and sines ``[patches, width]``.
        sizes: patches of each image (or frame), in the order of the pass.
    """
    cos, sin = angles
    turned = [part * cos + _turned(part) * sin for part in (queries, keys)]
    return list(zip(*(part.split(list(sizes), 2) for part in turned), strict=True))


def _turned(states: Tensor) -> Tensor:
    first, second = states.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


def seen_heads(
    seen: Mapping[object, Any], depth: float | None, heads: int
) -> tuple[Tensor, Tensor]:
    """Queries and keys of a watched layer, ``[images, heads, tokens, head dim]`` each."""
    if not {("q", depth), ("k", depth)} <= seen.keys():
        raise SignalError(RAN_PAST)
    return split_heads(seen["q", depth], heads), split_heads(seen["k", depth], heads)


def split_heads(states: Tensor, heads: int) -> Tensor:
    """``[images, tokens, dim]`` -> ``[images, heads, tokens, head dim]``."""
    split: Tensor = states.unflatten(-1, (heads, -1)).transpose(1, 2)
    return split
