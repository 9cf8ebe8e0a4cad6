"""Adapters: all that the engine needs to know about a model family.

An :class:`Adapter` is a plugin: it recognizes a model by its ``model_type`` and binds it. The
:class:`AdaptedVlm` says where things are; it computes no importance and knows no method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tokensieve.core.contract.adapted import AdaptedModel, Branch
from tokensieve.core.contract.dims import DecoderDims
from tokensieve.core.contract.hooks import Handle
from tokensieve.core.contract.panel import Panel
from tokensieve.core.contract.shrinking import ShrinkPlan
from tokensieve.core.contract.signals import SIGNALS, VISION_SIGNALS
from tokensieve.core.contract.vision_record import VisionRecord
from tokensieve.core.errors import UnsupportedError
from tokensieve.core.templates.chat import render_chat

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn

    from tokensieve.core.contract.dims import ModelSize

DECODER_SIGNALS = frozenset(SIGNALS) - VISION_SIGNALS
"""Signals that the engine makes itself, for every decoder."""


class AdaptedVlm(AdaptedModel):
    """A vision-language model, seen through its adapter.

    Attributes:
        model: the top-level model (``*ForConditionalGeneration``).
        inner: the module whose forward receives ``input_ids`` and runs vision and decoder.
        decoder: the text model; ``layers`` its decoder layers; ``rotary`` its rotary embedding.
        dims: sizes of the decoder.
        placeholder_ids: token ids that stand for visual tokens.
        separated: True if other tokens are between those of one image, so that a run of
            placeholders is a part of an image only.
        mrope: True if positions are three-dimensional.
    """

    inner: nn.Module
    decoder: nn.Module
    rotary: nn.Module
    placeholder_ids: tuple[int, ...]
    separated: bool = False
    mrope: bool = False
    provides: frozenset[str] = DECODER_SIGNALS

    @property
    def attention_backend(self) -> str:
        """The decoder's attention implementation, as transformers names it."""
        config: Any = self.decoder.config
        return str(config._attn_implementation)

    @abstractmethod
    def attention_module(self, layer: int) -> nn.Module:
        """The self-attention module of a decoder layer."""

    @abstractmethod
    def mlp_module(self, layer: int) -> nn.Module:
        """The feed-forward module of a decoder layer."""

    def branches(self, layer: int) -> list[Branch]:
        """Self-attention and feed-forward module."""
        attention, mlp = self.attention_module(layer), self.mlp_module(layer)
        return [("attention", attention, attention), ("mlp", mlp, mlp)]

    @abstractmethod
    def queries(self, layer: int, hidden: Tensor) -> Tensor:
        """Queries before RoPE of ``hidden`` ``[batch, rows, dim]``, normalized as the layer does:
        ``[batch, heads, rows, head dim]``."""

    @abstractmethod
    def keys(self, layer: int, hidden: Tensor) -> Tensor:
        """Keys before RoPE, ``[batch, kv heads, rows, head dim]``."""

    @abstractmethod
    def rotate(self, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Apply rotary embeddings ``[batch, rows, head dim]`` to queries or keys."""

    @abstractmethod
    def attention_scale(self, layer: int) -> float:
        """The factor on query-key products."""

    @abstractmethod
    def final_norm(self, hidden: Tensor) -> Tensor:
        """The norm before the output head, on ``[..., dim]``."""

    @abstractmethod
    def watch_vision(
        self,
        signals: frozenset[str],
        depths: frozenset[float],
        deliver: Callable[[VisionRecord], None],
    ) -> Sequence[Handle]:
        """Register the hooks that ``signals`` need; return their handles.

        ``depths`` are the encoder layers to capture besides the one that feeds the projector, as
        shares of the encoder's depth. ``deliver`` is called once per pass of the vision encoder.
        """

    def shrink_images(self, grids: ShrinkPlan) -> Sequence[Handle]:
        """Register hooks that make the vision encoder see smaller images; return their handles.

        ``grids`` maps the token grid ``(rows, columns)`` of each image or tile to the smaller one.
        The features must then be at the places that ``spread_places`` names, in raster order.
        """
        raise UnsupportedError(f"adapter {self.name} cannot make images smaller")

    @abstractmethod
    def project(self, features: Tensor) -> Tensor:
        """Projector inputs ``[n, vision dim]`` -> decoder inputs ``[n, dim]``."""

    def picture_tokens(self, given: Mapping[str, Any]) -> dict[int, list[int]] | None:
        """Tokens of each image or video, by placeholder id, in the order of the prompt.

        ``given`` are the arguments of ``inner``: its grids, sizes or pixels tell. None if they do
        not (features from elsewhere): then every run of placeholders holds whole images.
        """
        return None

    def split_run(self, length: int) -> list[int]:
        """Image sizes in a run of ``length`` placeholders, where the pictures do not tell."""
        return [length]

    def panels(self, size: tuple[int, int], processor: Any, inputs: Any) -> list[Panel]:
        """The places of the visual tokens of a picture of ``size`` (width, height)."""
        return []


class Adapter(ABC):
    """A plugin that recognizes the models of a family and binds them."""

    name: ClassVar[str] = ""
    model_types: ClassVar[frozenset[str]] = frozenset()
    """Values of ``config.model_type`` that the adapter supports."""
    answers_questions: ClassVar[bool] = True
    """Whether its models take a prompt and answer in words; others name a class."""
    check_size: ClassVar[ModelSize | None] = None
    """A model of milliseconds, to check the family with random weights; None: it cannot be."""
    layer_word: ClassVar[str] = AdaptedModel.layer_word
    """What the layers are called between which its models are pruned."""

    @classmethod
    def summary(cls) -> str:
        """First line of the docstring."""
        return (cls.__doc__ or "").strip().splitlines()[0] if cls.__doc__ else ""

    @classmethod
    def takes(cls, config: object) -> bool:
        """Whether models of a config are of this family."""
        return getattr(config, "model_type", None) in cls.model_types

    @classmethod
    def recognizes(cls, model: object) -> bool:
        """Whether a model is of this family; by default its config says so."""
        return cls.takes(getattr(model, "config", None))

    @classmethod
    @abstractmethod
    def bind(cls, model: Any) -> AdaptedModel:
        """Look at ``model`` and say where its parts are; raise AttachError if it cannot be."""

    @classmethod
    @abstractmethod
    def describe(cls, config: Any) -> tuple[DecoderDims, int]:
        """Decoder sizes and the usual number of visual tokens of an image, from a config."""

    @classmethod
    def prompt(cls, processor: Any, question: str, images: Sequence[Image]) -> str:
        """The text prompt that asks ``question`` about ``images``."""
        content = [{"type": "image"} for _ in images]
        content.append({"type": "text", "text": question})
        messages = [{"role": "user", "content": content}]
        return render_chat(processor, messages)

    @classmethod
    def sized_config(cls, size: ModelSize) -> Any:
        """The family's own config at ``size``, for a model with random weights."""
        raise UnsupportedError(f"adapter {cls.name} cannot build a model of a chosen size")

    @classmethod
    def check_classifier(cls) -> tuple[Any, Tensor]:
        """A small model with random weights in float64, and pictures for it.

        For families that answer no questions.
        """
        raise UnsupportedError(f"adapter {cls.name} builds no model to be checked")

    @classmethod
    def shrunk(cls, config: Any) -> tuple[Any, ModelSize]:
        """A user's config with few and narrow layers, its size told; what it is stays as it is."""
        raise UnsupportedError(f"adapter {cls.name} cannot shrink a config")

    @classmethod
    def synthetic_inputs(
        cls, config: Any, size: ModelSize, text: tuple[int, int], batch: int
    ) -> dict[str, Tensor]:
        """Inputs as the family's processor makes them of one image per sample, with random content.

        ``text`` are the tokens before the image and after it, the family's own image
        delimiters included. Pixels are float32.
        """
        raise UnsupportedError(f"adapter {cls.name} cannot make synthetic inputs")
