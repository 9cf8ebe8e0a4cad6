"""Text decoders with the modules of Llama, which all supported families have."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tokensieve.plugin import (
    DECODER_SIGNALS,
    AdaptedVlm,
    AttachError,
    DecoderDims,
    unknown_release,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

TEXT_MODELS = frozenset({"llama", "mistral", "qwen2", "qwen2_5_vl_text", "qwen3"})


def decoder_dims(config: Any) -> DecoderDims:
    """Sizes of a text config."""
    head_dim = getattr(config, "head_dim", None)
    return DecoderDims(
        layers=config.num_hidden_layers,
        dim=config.hidden_size,
        mlp_dim=config.intermediate_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=head_dim or config.hidden_size // config.num_attention_heads,
    )


def placeholder_ids(config: Any, names: Iterable[str]) -> tuple[int, ...]:
    """The placeholder token ids that a config states.

    Raises:
        AttachError: the config lacks one, so that visual tokens would pass for text.
    """
    ids: list[int] = []
    for name in names:
        token = getattr(config, name, None)
        if not isinstance(token, int):
            raise AttachError(
                f"{type(config).__name__} has no {name} (it is {token!r}), so visual tokens cannot "
                f"be told from text: {unknown_release()}"
            )
        ids.append(token)
    return tuple(ids)


def check_full_attention(family: str, config: Any) -> None:
    """Refuse decoders some of whose layers see a window only.

    The config's ``layer_types`` have to say so, and so has transformers' own cache for the config:
    where a config has no layer types (Llama, Mistral), only that knows of a window.
    """
    from transformers.cache_utils import DynamicCache, DynamicLayer

    kinds = set()
    if hasattr(config, "layer_types") or hasattr(type(config), "layer_types"):
        kinds = set(getattr(config, "layer_types", None) or ["unknown"])
    layers = DynamicCache(config=config).layers
    kinds |= {type(layer).__name__ for layer in layers if type(layer) is not DynamicLayer}
    if len(layers) != config.num_hidden_layers:
        kinds.add("unknown")
    if kinds - {"full_attention"}:
        raise AttachError(
            f"adapter {family}: decoder layers of type {', '.join(sorted(kinds))}: only full "
            "attention can be pruned"
        )


LAYER_PARTS = frozenset({"input_layernorm", "self_attn", "post_attention_layernorm", "mlp"})
PROJECTIONS = frozenset({"q_proj", "k_proj", "v_proj", "o_proj"})
HEAD_NORMS = frozenset({"q_norm", "k_norm"})


def check_layout(layer: Any, head_dim: int) -> None:
    """Refuse a decoder layer that computes its queries and keys otherwise than Llama or Qwen3.

    Raises:
        AttachError: a part is missing or not known, or a head norm is not one over single heads.
    """
    attention = getattr(layer, "self_attn", None)
    parts = {name for name, _ in layer.named_children()}
    inside = set() if attention is None else {name for name, _ in attention.named_children()}
    norms = inside & HEAD_NORMS
    known = (
        parts == LAYER_PARTS
        and inside - HEAD_NORMS == PROJECTIONS
        and norms in (set(), HEAD_NORMS)
        and all(_width(getattr(attention, name)) == head_dim for name in norms)
        and getattr(attention, "head_dim", None) == head_dim
        and isinstance(getattr(attention, "scaling", None), float)
    )
    if not known:
        raise AttachError(
            f"{type(layer).__name__} with the parts {', '.join(sorted(parts | inside))} is not "
            f"laid out as a layer of Llama, Qwen2 or Qwen3: {unknown_release()}"
        )


def _width(norm: Any) -> int:
    return int(norm.weight.shape[-1])


class LlamaLikeModel(AdaptedVlm):
    """A model whose decoder layers have the modules of Llama.

    Queries and keys are linear projections of the layer-normalized hidden states, optionally
    normalized per head (Qwen3), rotated by ``cos``/``sin`` in halves.
    """

    inner: Any  # transformers' modules, whose parts no type names
    decoder: Any
    layers: list[Any]

    def __init__(self, model: Any, family: str) -> None:
        self.name = family
        self.model = model
        self.inner = model.model
        self.decoder = model.model.language_model
        config = self.decoder.config
        if config.model_type not in TEXT_MODELS:
            raise AttachError(
                f"adapter {family}: the language model is of type {config.model_type!r}, "
                f"supported: {', '.join(sorted(TEXT_MODELS))}"
            )
        check_full_attention(family, config)
        if model.tp_size not in (None, 1):
            raise AttachError(
                f"adapter {family}: tensor parallelism is not supported (each rank sees only its "
                "own heads): use device_map"
            )
        self.layers = list(self.decoder.layers)
        self.rotary = self.decoder.rotary_emb
        self.dims = decoder_dims(config)
        for layer in self.layers:
            check_layout(layer, self.dims.head_dim)
        self.placeholder_ids = ()
        self.provides = DECODER_SIGNALS
        self.missing = {}

    def attention_module(self, layer: int) -> nn.Module:
        """``self_attn`` of a layer."""
        return self.layers[layer].self_attn  # type: ignore[no-any-return]

    def mlp_module(self, layer: int) -> nn.Module:
        """``mlp`` of a layer."""
        return self.layers[layer].mlp  # type: ignore[no-any-return]

    def queries(self, layer: int, hidden: Tensor) -> Tensor:
        """``[batch, heads, rows, head dim]`` before RoPE."""
        return self._heads(layer, hidden, "q")

    def keys(self, layer: int, hidden: Tensor) -> Tensor:
        """``[batch, kv heads, rows, head dim]`` before RoPE."""
        return self._heads(layer, hidden, "k")

    def rotate(self, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotate the two halves of each head against each other."""
        half = states.shape[-1] // 2
        first, second = states[..., :half], states[..., half:]
        rotated = states * cos[:, None]
        # in place: this runs over all keys at a boundary, and copies cost as much as the products
        rotated[..., :half] -= second * sin[:, None, :, :half]
        rotated[..., half:] += first * sin[:, None, :, half:]
        return rotated

    def attention_scale(self, layer: int) -> float:
        """Factor on query-key products."""
        return float(self.layers[layer].self_attn.scaling)

    def final_norm(self, hidden: Tensor) -> Tensor:
        """``norm`` of the decoder."""
        normed: Tensor = self.decoder.norm.forward(hidden)
        return normed

    def _heads(self, layer: int, hidden: Tensor, which: str) -> Tensor:
        module = self.layers[layer]
        attention = module.self_attn
        states = getattr(attention, f"{which}_proj")(module.input_layernorm(hidden))
        states = states.view(*hidden.shape[:-1], -1, self.dims.head_dim)
        if f"{which}_norm" in attention._modules:
            states = getattr(attention, f"{which}_norm")(states)
        rotated: Tensor = states.transpose(1, 2)
        return rotated
