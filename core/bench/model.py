"""The model that is measured: a size, random weights, a synthetic prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForImageTextToText

from tokensieve.core.contract.adapter import AdaptedVlm, Adapter
from tokensieve.core.contract.dims import ModelSize
from tokensieve.core.engine.decoder.cache import cache_argument, find_cache
from tokensieve.core.errors import ModelError
from tokensieve.core.models.backends import check_backend
from tokensieve.core.models.binding import bind
from tokensieve.core.plugins.registry import build_registry

if TYPE_CHECKING:
    from torch import Tensor, nn

SEED = 20630


@dataclass(frozen=True)
class Setup:
    """The way a model is built, and the prompts that it gets.

    ``attention`` is the backend of the untouched and of the pruned model; every one of the
    ``batch`` prompts holds one image and ``text_tokens`` text tokens, half of them before it.
    """

    device: torch.device
    dtype: torch.dtype
    attention: str = "sdpa"
    batch: int = 1
    text_tokens: int = 64


@dataclass
class BenchModel:
    """A model that is measured, and one batch of prompts for it.

    Attributes:
        inputs: the arguments of ``model.forward``.
    """

    size: ModelSize
    setup: Setup
    model: Any
    bound: AdaptedVlm
    inputs: dict[str, Tensor]

    def prefill(self) -> Any:
        """Vision encoder and decoder on the whole prompt; logits of the last token only."""
        return self.model(**self.inputs, use_cache=True, logits_to_keep=1)

    def step(self, output: Any) -> Any:
        """Decode one token greedily from the output of the step before."""
        token = output.logits[:, -1:].argmax(dim=-1)
        cache = find_cache(output)
        assert cache is not None  # of the step before, which used one
        return self.model(input_ids=token, use_cache=True, **cache_argument(self.model, cache))

    @property
    def weight_bytes(self) -> int:
        """Bytes of all parameters."""
        return sum(p.numel() * p.element_size() for p in self.model.parameters())


def build_model(size: ModelSize, setup: Setup) -> BenchModel:
    """Build a model with random weights, on its device and in its dtype; nothing is downloaded.

    Raises:
        UnsupportedError: the attention backend cannot run pruned, or the adapter of the size
            builds no models.
        ModelError: the model does not fit into memory.
    """
    check_backend(setup.attention)
    _check_room(size, setup.device, setup.dtype)
    adapter: type[Adapter] = build_registry().get("adapter", size.adapter)
    config = adapter.sized_config(size)
    build: Callable[..., nn.Module] = AutoModelForImageTextToText.from_config
    with memory_errors(setup.device):
        cuda = [setup.device] if setup.device.type == "cuda" else []
        with torch.random.fork_rng(cuda), setup.device:
            torch.manual_seed(SEED)
            model = build(config, dtype=setup.dtype, attn_implementation=setup.attention).eval()
        before = setup.text_tokens // 2
        text = (before, setup.text_tokens - before)
        made = adapter.synthetic_inputs(config, size, text, setup.batch)
        inputs = {
            name: values.to(setup.device, setup.dtype if values.is_floating_point() else None)
            for name, values in made.items()
        }
    bound: Any = bind(model)  # sizes are those of vision-language models
    return BenchModel(size, setup, model, bound, inputs)


@contextmanager
def memory_errors(device: torch.device) -> Iterator[None]:
    """Say in one line that the device's memory is full."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        first = str(error).splitlines()[0]
        raise ModelError(
            f"out of memory on {device}: take a smaller size, batch or dtype ({first})"
        ) from error


def _check_room(size: ModelSize, device: torch.device, dtype: torch.dtype) -> None:
    """Refuse what does not fit: Linux kills a process that fills the memory without a word."""
    table = Path("/proc/meminfo")
    lines = table.read_text(encoding="ascii").splitlines() if table.is_file() else []
    sizes = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    free = int(sizes[0]) * 1024 if sizes and device.type == "cpu" else None
    needed = size.decoder_parameters * dtype.itemsize
    if free is not None and needed > free:
        raise ModelError(
            f"size {size.name} has {needed / 1e9:.1f} GB of weights in {dtype}, but "
            f"{free / 1e9:.1f} GB of memory are free: take a smaller size or another device"
        )
