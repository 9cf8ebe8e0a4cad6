"""Load a model and its processor.

Only safetensors are read and no code of a model repository is ever run.
"""

from __future__ import annotations

import importlib
import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokensieve.core.contract.adapted import AdaptedEncoder
from tokensieve.core.contract.adapter import AdaptedVlm, Adapter
from tokensieve.core.errors import ModelError, did_you_mean
from tokensieve.core.foreign import shown
from tokensieve.core.lazy import torch
from tokensieve.core.models.backends import BACKENDS, check_backend
from tokensieve.core.models.binding import find_adapter
from tokensieve.core.models.checkpoints import check_fit, check_folder, looked_at
from tokensieve.core.models.devices import find_device
from tokensieve.core.models.finding import cached_config, load_config, locate, model_errors
from tokensieve.core.models.hub import only_local
from tokensieve.core.plugins.registry import Registry

DTYPES = ("auto", "float32", "bfloat16", "float16")
NO_SDPA = "scaled_dot_product_attention"  # named where transformers refuses a part without it


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode, its processor, its family's adapter, and how that sees the model."""

    name: str
    model: Any
    processor: Any
    adapter: type[Adapter]
    bound: AdaptedVlm

    @property
    def classes(self) -> tuple[str, ...]:
        """No classes: it answers in words."""
        return ()


@dataclass(frozen=True)
class LoadedClassifier:
    """A classifier of pictures, whose answers are names of classes, with the same parts."""

    name: str
    model: Any
    processor: Any
    adapter: type[Adapter]
    bound: AdaptedEncoder

    @property
    def classes(self) -> tuple[str, ...]:
        """Its classes by number; see :func:`class_names`."""
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
        name: a built-in model, a local folder, or a Hugging Face id, also with ``hf-hub:`` before
            it. A folder that timm saved and an id of timm's make a classifier.
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
    with model_errors(name), ExitStack() as stack:
        local, folder = os.path.isdir(where), where
        if local:  # transformers loads what was looked at, and nothing else
            folder = str(stack.enter_context(looked_at(Path(where))))
        transformers = importlib.import_module("transformers")
        kind, reader = transformers.AutoModelForImageTextToText, transformers.AutoProcessor
        if not adapter.answers_questions:
            kind = transformers.AutoModelForImageClassification
            reader = transformers.AutoImageProcessor
        here = only_local(where)
        model = _load_weights(name, kind, folder, config, dtype, attention, here)
        if not local:  # the files are in the cache now
            check_folder(cached_config(where, here).parent)
        processor = reader.from_pretrained(folder, trust_remote_code=False, local_files_only=here)
        if adapter.answers_questions and not hasattr(processor, "image_processor"):
            raise ModelError(
                f"model {shown(name)}: its processor takes no pictures: processor_config.json is "
                "missing, or names none that transformers has"
            )
        model.name_or_path = model.config.name_or_path = where
        model = model.to(place).eval()
        bound: Any = adapter.bind(model)  # of the class that such a family binds
        whole = LoadedModel if adapter.answers_questions else LoadedClassifier
        return whole(name, model, processor, adapter, bound)


def _load_weights(
    name: str, kind: Any, where: str, config: Any, dtype: str, attention: str | None, here: bool
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
        check_fit(name, report)
        return model
    raise AssertionError("the last backend either loads or raises")
