"""What a model is, apart from where it lies: hash of its files or revision, family, dtype."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tokensieve.core.binding import find_adapter
from tokensieve.core.checkpoints import CONFIG, read_config
from tokensieve.core.models import TIMM_KEY, load_config, locate
from tokensieve.core.plugins import Registry
from tokensieve.core.study.spec import ModelSpec

CHUNK = 1 << 20
READ = frozenset({".json", ".safetensors", ".jinja", ".model", ".txt"})


def model_identity(spec: ModelSpec, registry: Registry) -> dict[str, Any]:
    """Facts that a result depends on; ``bytes`` is the weights' size, 0 where not known here.

    A local folder is read without transformers, so that planning stays quick.
    """
    where, config = Path(locate(spec.model, registry)), light_config(spec, registry)
    if where.is_dir():
        facts = {"sha256": _folder_hash(where)}
        size = sum(file.stat().st_size for file in where.glob("*.safetensors"))
    else:
        facts, size = {"revision": str(getattr(config, "_commit_hash", None))}, 0
    adapter = find_adapter(config, registry)
    stored = getattr(config, "dtype", None) or getattr(config, "torch_dtype", None)
    dtype = str(stored or "float32").removeprefix("torch.") if spec.dtype == "auto" else spec.dtype
    return {
        "name": spec.title,
        **facts,
        "family": adapter.name,
        "dtype": dtype,
        "device": spec.device.partition(":")[0],
        "attention": spec.attention or "default",
        "bytes": size,
    }


def light_config(spec: ModelSpec, registry: Registry) -> Any:
    """The config of a model; of a local folder without transformers, as it is written."""
    where = Path(locate(spec.model, registry))
    return _plain_config(where) if where.is_dir() else load_config(spec.model, registry)


def _plain_config(folder: Path) -> Any:
    config = read_config(folder / CONFIG)
    if TIMM_KEY in config:
        config.setdefault("model_type", "timm_wrapper")
    return SimpleNamespace(**config)


@lru_cache(maxsize=64)
def _folder_hash(folder: Path) -> str:
    """Of all files that a model and its processor are loaded from, and their names."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if not file.is_file() or file.suffix not in READ:
            continue
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
    return digest.hexdigest()
