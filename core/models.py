"""Find and load a model: a built-in one by name, a local folder, or a Hugging Face id.

Only safetensors are read and no code of a model repository is ever run.
"""

from __future__ import annotations

import importlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokensieve.core.adapter import BoundModel
from tokensieve.core.binding import find_adapter
from tokensieve.core.bound import BoundEncoder
from tokensieve.core.config_limits import check_config
from tokensieve.core.errors import ModelError, TokensieveError, did_you_mean
from tokensieve.core.foreign import foreign, shown
from tokensieve.core.lazy import torch
from tokensieve.core.plugins import Registry

if TYPE_CHECKING:
    from torch import device as Device

DTYPES = ("auto", "float32", "bfloat16", "float16")
TIMM_HUB = "hf-hub:"  # how timm writes that a name is a Hugging Face id
TIMM_KEY = "pretrained_cfg"  # by which transformers, too, recognises the config of timm's folders
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*\Z")


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode, its processor, its family's adapter, and how that sees the model."""

    name: str
    model: Any
    processor: Any
    adapter: Any
    bound: BoundModel

    @property
    def classes(self) -> tuple[str, ...]:
        """None: it answers in words."""
        return ()


@dataclass(frozen=True)
class LoadedClassifier:
    """The same of a classifier of pictures, whose answers are names of classes."""

    name: str
    model: Any
    processor: Any
    adapter: Any
    bound: BoundEncoder

    @property
    def classes(self) -> tuple[str, ...]:
        """By number; see :func:`class_names`."""
        return class_names(self.model.config)


Loaded = LoadedModel | LoadedClassifier


def class_names(config: Any) -> tuple[str, ...]:
    """The names of a classifier's classes; numbers where its config has no names."""
    names = {int(number): str(name) for number, name in config.id2label.items()}
    return tuple(
        str(number) if names[number] == f"LABEL_{number}" else names[number]
        for number in sorted(names)
    )


def answering(loaded: Loaded) -> LoadedModel:
    """The model, if it takes a question and gives text.

    Raises:
        ModelError: it is a classifier.
    """
    if isinstance(loaded, LoadedClassifier):
        raise ModelError(
            f"model {loaded.name!r} is a classifier of pictures (adapter {loaded.bound.name}): it "
            "takes no question and gives no text; prune it from Python, by "
            "tokensieve.attach(model, ...), or compare methods on it with `tokensieve study`"
        )
    return loaded


def locate(name: str, registry: Registry, also: Iterable[str] = ()) -> str:
    """Folder or Hugging Face id of the model called ``name``.

    ``also`` are further names that the caller understands, for the error's list.
    """
    known = registry.entries["model"]
    registry.refuse_claimed("model", name)
    if name in known:
        return str(known[name].value)
    folder = Path(os.path.expanduser(name))
    if os.path.exists(folder):
        if not (folder / "config.json").is_file():
            raise ModelError(f"model {name!r}: no Hugging Face model folder: it has no config.json")
        return str(folder)
    if _HUB_ID.match(name.removeprefix(TIMM_HUB)):
        return name.removeprefix(TIMM_HUB)
    hint = did_you_mean(name, [*known, *also])
    raise ModelError(
        f"unknown model {shown(name)}{hint}, a local folder, or a Hugging Face id (owner/name)"
    )


def load_config(name: str, registry: Registry, also: Iterable[str] = ()) -> Any:
    """The config of a model; nothing else is read."""
    where = locate(name, registry, also)
    if os.path.isdir(where):  # before transformers is imported, let alone asked
        written_config(name, Path(where))
    with _one_line(name):
        from transformers import AutoConfig, PretrainedConfig

        if not os.path.isdir(where):
            check_config(name, PretrainedConfig.get_config_dict(where)[0])
        return AutoConfig.from_pretrained(where, trust_remote_code=False)


def written_config(name: str, folder: Path) -> dict[str, Any]:
    """What stands in the config of a local folder.

    Raises:
        ModelError: it is no JSON mapping, or its sizes are impossible.
    """
    with foreign(ModelError, f"model {name!r}: config.json is not a valid JSON file"):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ModelError(f"model {name!r}: config.json is no mapping")
    check_config(name, config)
    return config


def load_model(
    name: str,
    registry: Registry,
    *,
    device: str = "cpu",
    dtype: str = "auto",
    attention: str | None = None,
) -> Loaded:
    """Load a model and its processor.

    Args:
        name: a built-in model, a local folder, or a Hugging Face id (``hf-hub:`` may stand in
            front of it). A folder that timm saved and an id of timm's make a classifier.
        registry: knows the built-in models and the adapters.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        dtype: ``auto`` takes the checkpoint's own.
        attention: the backend, as transformers names it; None takes its choice.

    Raises:
        ModelError: there is no such model, device or dtype, or the files are unusable.
        AttachError: no adapter supports the family.
    """
    if dtype not in DTYPES:
        raise ModelError(f"unknown dtype {dtype!r}{did_you_mean(dtype, DTYPES)}")
    place = find_device(device)
    config = load_config(name, registry)
    adapter = find_adapter(config, registry)
    if not adapter.answers_questions and attention is not None:
        raise ModelError(f"model {name!r}: a classifier has no attention backends to choose from")
    where = locate(name, registry)
    with _one_line(name):
        transformers: Any = importlib.import_module("transformers")
        kind, reader = transformers.AutoModelForImageTextToText, transformers.AutoProcessor
        if not adapter.answers_questions:
            kind, reader = (
                transformers.AutoModelForImageClassification,
                transformers.AutoImageProcessor,
            )
        model, report = kind.from_pretrained(
            where,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **({} if attention is None else {"attn_implementation": attention}),
        )
        if report["missing_keys"]:
            missing = sorted(report["missing_keys"])
            raise ModelError(
                f"model {name!r}: {len(missing)} weights are missing, the first is {missing[0]}"
            )
        processor = reader.from_pretrained(where, trust_remote_code=False)
        model = model.to(place).eval()
        whole = LoadedModel if adapter.answers_questions else LoadedClassifier
        return whole(name, model, processor, adapter, adapter.bind(model))


def find_device(name: str) -> Device:
    """The torch device; an error if this machine does not have it."""
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise ModelError(f"unknown device {name!r}, allowed: cpu, cuda, cuda:0, cuda:1, ..., mps")
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }[device.type]
    if not available:
        raise ModelError(f"device {name!r} is not available on this machine, try: --device cpu")
    return device


@contextmanager
def _one_line(name: str) -> Iterator[None]:
    """Turn whatever a broken or missing model raises into one line."""
    try:
        yield
    except TokensieveError:
        raise
    except Exception as error:
        text = str(error).strip()
        if "trust_remote_code" in text:
            text = (
                "it needs code from its own repository, which is never run: use the model in "
                "Transformers' own format (its name often ends in -hf)"
            )
        first = text.splitlines()[0] if text else type(error).__name__
        raise ModelError(f"model {name!r} cannot be loaded: {first}") from error
