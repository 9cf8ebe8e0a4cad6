"""What the supported text decoders have in common: the Llama layout of modules."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tokensieve.core.adapter import DECODER_SIGNALS, BoundModel
from tokensieve.core.errors import AttachError
from tokensieve.core.flops import DecoderDims

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
    """The placeholder token ids that a config states."""
    ids = [getattr(config, name, None) for name in names]
    return tuple(int(token) for token in ids if token is not None)


class LlamaLikeModel(BoundModel):
    """A bound model whose decoder layers have the modules of Llama.

    Queries and keys are linear projections of the layer-normalised hidden states, optionally
    normalised per head (Qwen3), rotated by ``cos``/``sin`` in halves.
    """

    def __init__(self, model: Any, family: str) -> None:
        self.name = family
        self.model = model
        self.inner = model.model
        self.decoder = model.model.language_model
        decoder: Any = self.decoder
        config = decoder.config
        if config.model_type not in TEXT_MODELS:
            raise AttachError(
                f"adapter {family}: the language model is of type {config.model_type!r}, "
                f"supported: {', '.join(sorted(TEXT_MODELS))}"
            )
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        if kinds != {"full_attention"}:
            raise AttachError(
                f"adapter {family}: decoder layers of type {', '.join(sorted(kinds))}: only full "
                "attention can be pruned"
            )
        if getattr(model, "_tp_size", None) not in (None, 1):
            raise AttachError(
                f"adapter {family}: tensor parallelism is not supported (each rank sees only its "
                "own heads): use device_map"
            )
        self.layers = list(decoder.layers)
        self.rotary = decoder.rotary_emb
        self.dims = decoder_dims(config)
        self.placeholder_ids = ()
        self.provides = DECODER_SIGNALS
        self.missing = {}

    def attention_module(self, layer: int) -> nn.Module:
        """``self_attn`` of a layer."""
        return self._layer(layer).self_attn  # type: ignore[no-any-return]

    def mlp_module(self, layer: int) -> nn.Module:
        """``mlp`` of a layer."""
        return self._layer(layer).mlp  # type: ignore[no-any-return]

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
        return float(self._layer(layer).self_attn.scaling)

    def final_norm(self, hidden: Tensor) -> Tensor:
        """``norm`` of the decoder."""
        decoder: Any = self.decoder
        normed: Tensor = decoder.norm.forward(hidden)
        return normed

    def _layer(self, layer: int) -> Any:
        return self.layers[layer]

    def _heads(self, layer: int, hidden: Tensor, which: str) -> Tensor:
        module = self._layer(layer)
        attention = module.self_attn
        states = getattr(attention, f"{which}_proj")(module.input_layernorm(hidden))
        states = states.view(*hidden.shape[:-1], -1, self.dims.head_dim)
        norm = getattr(attention, f"{which}_norm", None)
        if norm is not None:
            states = norm(states)
        rotated: Tensor = states.transpose(1, 2)
        return rotated
