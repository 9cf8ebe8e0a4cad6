"""Find a model by its name, and read its config: a built-in one, a local folder, an id of the Hub.

No code of a model repository is ever run.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tokensieve.core.errors import ModelError, did_you_mean
from tokensieve.core.files.text import read_text
from tokensieve.core.foreign import foreign, shown
from tokensieve.core.models.checkpoints import CODE, CONFIG, read_config, write_config
from tokensieve.core.models.config_limits import check_config
from tokensieve.core.models.hub import only_local
from tokensieve.core.plugins.registry import Registry

TIMM_HUB = "hf-hub:"  # how timm writes that a name is a Hugging Face id
TIMM_KEY = "pretrained_cfg"  # by which transformers, too, recognizes the config of timm's folders
NEVER_RUN = (
    "it needs code from its own repository, which is never run: use the model in Transformers' own "
    "format (its name often ends in -hf)"
)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*\Z")


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
    with model_errors(name):
        here, local = only_local(where), os.path.isdir(where)
        file = Path(where, CONFIG) if local else cached_config(where, here)
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


def cached_config(name: str, here: bool) -> Path:
    """The config of a model of the Hub, on this machine; ``here``: without asking the Hub."""
    hub = importlib.import_module("transformers.utils.hub")
    return Path(hub.cached_file(name, CONFIG, local_files_only=here))


@contextmanager
def model_errors(name: str) -> Iterator[None]:
    """Turn whatever a broken or missing model raises into one line."""
    where = f"model {shown(name)} cannot be loaded"
    try:
        with foreign(ModelError, where):
            yield
    except ModelError as error:
        if "trust_remote_code" in str(error.__cause__):
            raise ModelError(f"{where}: {NEVER_RUN}") from error
        raise
