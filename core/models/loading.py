"""Find and load a model: a built-in one by name, a local folder, or a Hugging Face id.

Only safetensors are read and no code of a model repository is ever run.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tokensieve.core.contract.adapted import AdaptedEncoder
from tokensieve.core.contract.adapter import AdaptedVlm
from tokensieve.core.errors import ModelError, did_you_mean
from tokensieve.core.files.text import read_text
from tokensieve.core.foreign import foreign, shown
from tokensieve.core.lazy import torch
from tokensieve.core.models.backends import BACKENDS, check_backend
from tokensieve.core.models.binding import find_adapter
from tokensieve.core.models.checkpoints import (
    CODE,
    CONFIG,
    check_fit,
    check_folder,
    looked_at,
    read_config,
    write_config,
)
from tokensieve.core.models.config_limits import check_config
from tokensieve.core.models.hub import only_local
from tokensieve.core.plugins.registry import Registry

if TYPE_CHECKING:
    from torch import device as Device

DTYPES = ("auto", "float32", "bfloat16", "float16")
TIMM_HUB = "hf-hub:"  # how timm writes that a name is a Hugging Face id
TIMM_KEY = "pretrained_cfg"  # by which transformers, too, recognizes the config of timm's folders
NEVER_RUN = (
    "it needs code from its own repository, which is never run: use the model in Transformers' own "
    "format (its name often ends in -hf)"
)
NO_SDPA = "scaled_dot_product_attention"  # stands in what transformers says of parts without it
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*\Z")


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode, its processor, its family's adapter, and how that sees the model."""

    name: str
    model: Any
    processor: Any
    adapter: Any
    bound: AdaptedVlm

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
    bound: AdaptedEncoder

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
    """The config of a model, without what names code; nothing else is read."""
    where = locate(name, registry, also)
    with _one_line(name):
        here, local = only_local(where), os.path.isdir(where)
        file = Path(where, CONFIG) if local else _cached(where, here)
        try:
            written = read_config(file)
        except ModelError as error:
            raise error if local else ModelError(f"model {shown(name)}: {error}") from None
        check_config(name, written)  # before transformers is imported, let alone asked
        from transformers import AutoConfig

        with TemporaryDirectory() as folder:  # what was looked at is what is loaded
            write_config(written, Path(folder))
            try:
                config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            except ValueError:
                if CODE in read_text(file, ModelError):
                    raise ModelError(f"model {shown(name)} cannot be loaded: {NEVER_RUN}") from None
                raise
        config.name_or_path = where
        if not local:  # <cache>/snapshots/<commit>/config.json
            config._commit_hash = file.parent.name
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
    if attention is not None:
        check_backend(attention)
    config = load_config(name, registry)
    adapter = find_adapter(config, registry)
    if not adapter.answers_questions and attention is not None:
        raise ModelError(f"model {name!r}: a classifier has no attention backends to choose from")
    where = locate(name, registry)
    with _one_line(name), _files(where) as folder:
        transformers: Any = importlib.import_module("transformers")
        kind, reader = transformers.AutoModelForImageTextToText, transformers.AutoProcessor
        if not adapter.answers_questions:
            kind, reader = (
                transformers.AutoModelForImageClassification,
                transformers.AutoImageProcessor,
            )
        here = only_local(where)
        model, report = _weights(kind, folder, config, dtype, attention, here)
        check_fit(name, report)
        if folder == where:  # of the Hub: the files are in the cache now
            check_folder(_cached(where, here).parent)
        processor = reader.from_pretrained(folder, trust_remote_code=False, local_files_only=here)
        if adapter.answers_questions and not hasattr(processor, "image_processor"):
            raise ModelError(
                f"model {shown(name)}: its processor takes no pictures: processor_config.json is "
                "missing, or names none that transformers has"
            )
        model.name_or_path = model.config.name_or_path = where
        model = model.to(place).eval()
        whole = LoadedModel if adapter.answers_questions else LoadedClassifier
        return whole(name, model, processor, adapter, adapter.bind(model))


@contextmanager
def _files(where: str) -> Iterator[str]:
    """What transformers loads from: of a local folder only what was looked at."""
    if os.path.isdir(where):
        with looked_at(Path(where)) as folder:
            yield str(folder)
    else:
        yield where


def _cached(name: str, here: bool) -> Path:
    """The config of a model of the Hub, on this machine; ``here``: without asking the Hub."""
    hub: Any = importlib.import_module("transformers.utils.hub")
    return Path(hub.cached_file(name, CONFIG, local_files_only=here))


def _weights(
    kind: Any, where: str, config: Any, dtype: str, attention: str | None, here: bool
) -> Any:
    """The model with its weights, all of them and no others.

    The backend is always named here, or the checkpoint could name one. Without the caller's choice
    it is the first of ours that every part of the model knows.
    """
    for backend in [attention] if attention else BACKENDS:
        try:
            model, report = kind.from_pretrained(
                where,
                local_files_only=here,
                config=config,
                dtype=dtype if dtype == "auto" else getattr(torch, dtype),
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are in the report, which is read
                attn_implementation=backend,
            )
        except ValueError as error:
            if attention or backend == BACKENDS[-1] or NO_SDPA not in str(error):
                raise
            continue
        return model, report
    raise AssertionError("the last backend either loads or raises")


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
    where = f"model {shown(name)} cannot be loaded"
    try:
        with foreign(ModelError, where):
            yield
    except ModelError as error:
        if "trust_remote_code" in str(error.__cause__):
            raise ModelError(f"{where}: {NEVER_RUN}") from error
        raise
