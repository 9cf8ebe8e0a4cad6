"""The identity of a model, wherever it is: hash of its files or revision, family, dtype."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tokensieve.core.errors import ModelError
from tokensieve.core.foreign import foreign
from tokensieve.core.models.binding import find_adapter
from tokensieve.core.models.checkpoints import CONFIG, read_config
from tokensieve.core.models.config_limits import check_config
from tokensieve.core.models.finding import TIMM_KEY, load_config, locate
from tokensieve.core.plugins.registry import PROJECT, Registry
from tokensieve.core.study.plan.code import Files, code_of
from tokensieve.core.study.plan.records import ModelFacts
from tokensieve.core.study.spec.study import ModelSpec

CHUNK = 1 << 20
LARGE = 1 << 24  # bytes: hashing takes longer than a clock of a file system ticks
SETTLED = 2.0  # seconds after which a change of a file shows in its times, on any file system
READ = frozenset({".json", ".safetensors", ".jinja", ".model", ".txt", ".tiktoken"})
TEMPLATES = "additional_chat_templates"


@dataclass(frozen=True)
class KnownModel:
    """A model that is planned with.

    Attributes:
        facts: what a result depends on.
        size: bytes of its weights, 0 where not known here.
        files: hashes of its folder's files.
    """

    facts: ModelFacts
    size: int
    files: Files


def model_identity(spec: ModelSpec, registry: Registry) -> KnownModel:
    """Facts about a model that a result depends on, and what else is known of its files.

    A local folder is read without transformers, so that planning stays quick.

    Raises:
        ModelError: the folder cannot be read, or changed while it was.
    """
    where = Path(locate(spec.model, registry))
    before = model_files(where)
    config = light_config(spec, registry)
    if where.is_dir():
        if model_files(where) != before:
            raise ModelError(f"model {spec.model!r}: its folder changes at the moment: try later")
        own = {"sha256": files_hash(before)}
        size = sum(file.stat().st_size for file in where.glob("*.safetensors"))
    else:
        own, size = {"revision": revision_of(config)}, 0
    adapter = find_adapter(config, registry)
    stored = getattr(config, "dtype", None) or getattr(config, "torch_dtype", None)
    dtype = str(stored or "float32").removeprefix("torch.") if spec.dtype == "auto" else spec.dtype
    facts = ModelFacts(
        name=spec.title,
        family=adapter.name,
        dtype=dtype,
        device=spec.device.partition(":")[0],
        attention=spec.attention or "default",
    ).model_copy(update=own)
    if registry.entries["adapter"][adapter.name].owner != PROJECT:  # ours have its version
        facts = facts.model_copy(update={"code": code_of([adapter], registry)})
    return KnownModel(facts, size, before)


def revision_of(config: object) -> str:
    """The revision that a model of the Hub was read at, as far as it is known."""
    return str(getattr(config, "_commit_hash", None))


def light_config(spec: ModelSpec, registry: Registry) -> Any:
    """The config of a model; of a local folder without transformers, as it is written."""
    where = Path(locate(spec.model, registry))
    if not where.is_dir():
        return load_config(spec.model, registry)
    config = read_config(where / CONFIG)
    check_config(str(where), config)
    if TIMM_KEY in config:
        config.setdefault("model_type", "timm_wrapper")
    return SimpleNamespace(**config)


def model_files(folder: Path) -> Files:
    """Hashes by path of all files that a model and its processor are loaded from.

    Raises:
        ModelError: one of them cannot be read.
    """
    with foreign(ModelError, f"model {str(folder)!r}: its files cannot be read"):
        found = [*folder.iterdir()] if folder.is_dir() else []
        found += folder.joinpath(TEMPLATES).glob("*.jinja")
        return {
            str(file): file_hash(file)
            for file in sorted(found)
            if file.suffix in READ and file.is_file()
        }


def files_hash(files: Files) -> str:
    """One hash of contents and names, wherever the files are."""
    facts = [f"{Path(file).name}:{digest}" for file, digest in files.items()]
    return hashlib.sha256("\n".join(sorted(facts)).encode()).hexdigest()


def file_hash(file: Path) -> str:
    """Hash of a file's content; a large one that nothing has touched is read once."""
    facts = file.stat()
    if facts.st_size < LARGE or time.time() - max(facts.st_mtime, facts.st_ctime) < SETTLED:
        return _read_hash(file)
    times = (facts.st_mtime_ns, facts.st_ctime_ns)
    return _kept_hash(file, facts.st_dev, facts.st_ino, facts.st_size, times)


@lru_cache(maxsize=1024)
def _kept_hash(file: Path, device: int, number: int, size: int, times: tuple[int, int]) -> str:
    return _read_hash(file)


def _read_hash(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
