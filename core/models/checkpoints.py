"""The files of a checkpoint, looked at before a library reads them: none of them names code.

They hold data: a model's sizes, its words, its weights. Whatever in them would fetch or run
something else is left out where it changes nothing, and refused where it does.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tokensieve.core.errors import ModelError
from tokensieve.core.files.json_text import read_json
from tokensieve.core.files.plain import MEGABYTE, open_plain
from tokensieve.core.files.text import read_text
from tokensieve.core.foreign import foreign, shorten, shown

CONFIG, INDEX, WEIGHTS = "config.json", "model.safetensors.index.json", "model.safetensors"
READ = (
    "generation_config.json", "processor_config.json", "preprocessor_config.json",
    "video_preprocessor_config.json", "tokenizer_config.json", "tokenizer.json", "vocab.json",
    "special_tokens_map.json", "added_tokens.json", "chat_template.json", INDEX,
)  # fmt: skip
LINKED = frozenset({".safetensors", ".model", ".txt"})
"""Weights, and the words of some tokenizers."""
MOST = 64 * MEGABYTE  # tokenizers with very many words have half of it
MOST_WEIGHTS = 1 << 50
CODE = "auto_map"
LEFT_OUT = frozenset({CODE, "custom_pipelines"}) | {
    f"{prefix}{kind}_implementation{suffix}"
    for prefix in ("", "_")
    for kind in ("attn", "experts")
    for suffix in ("", "_internal", "_autoset")
}
"""Names of code to run and of kernels to fetch: no result of ours may depend on them."""
QUANTIZED = ("quantization_config", "compression_config")
DTYPES = ("auto", "float64", "float32", "bfloat16", "float16")
STRANGE_ARGUMENTS = re.compile(r"pretrained|checkpoint|cache|path|file|url|hub|repo")
_NAME = re.compile(r"[\w.\-]*\Z")
_BUFFER = re.compile(r"(inv_freq|position_ids|num_batches_tracked|masked_bias|attn\.bias)\Z")
"""Tensors that old files hold beside the weights, and that follow from the config."""


def read_config(file: Path) -> dict[str, object]:
    """A config without what names code.

    Raises:
        ModelError: it cannot be read, or wants a library to fetch or run something else.
    """
    config = read_json(file, ModelError)
    name = shorten(str(file))
    if not isinstance(config, dict):
        raise ModelError(f"{name}: a config is a mapping, not {shown(config)}")
    plain = _without_code(config)
    for key, value in _entries(plain):
        problem = _problem(key, value)
        if problem:
            raise ModelError(f"{name}: {key}: {problem}")
    return plain


def _without_code(mapping: dict[str, object]) -> dict[str, object]:
    """The same data without what names code and kernels, at any depth."""

    def plain(value: object) -> object:
        if isinstance(value, dict):
            return _without_code(value)
        return [plain(part) for part in value] if isinstance(value, list) else value

    return {key: plain(value) for key, value in mapping.items() if key not in LEFT_OUT}


def _entries(value: dict[str, object] | list[object]) -> Iterator[tuple[str, object]]:
    """All keys and their values, at any depth."""
    parts = value.items() if isinstance(value, dict) else [("", part) for part in value]
    for key, part in parts:
        if key:
            yield key, part
        if isinstance(part, dict | list):
            yield from _entries(part)


def _problem(key: str, value: object) -> str | None:
    """The reason to refuse an entry; None if it is only data."""
    if key in QUANTIZED and value is not None:
        return (
            "quantized weights need a library that runs kernels of its own: load the model in "
            "Python, and prune it by tokensieve.attach(model, ...)"
        )
    if key in ("dtype", "torch_dtype"):
        known = value is None or str(value).removeprefix("torch.") in DTYPES
        return None if known else f"unknown dtype {shown(value)}, allowed: {', '.join(DTYPES)}"
    if key == "architecture" and not (isinstance(value, str) and _NAME.match(value)):
        return f"an architecture is the name of one of timm's, not {shown(value)}"
    if key == "model_args" and value is not None:
        return _strange_arguments(value)
    if key in ("use_pretrained_backbone", "load_pretrained") and value:
        return "weights come from the checkpoint itself, and from nowhere else"
    return None


def _strange_arguments(given: object) -> str | None:
    """An argument that is no size: timm's ``create_model`` takes paths of further weights, too."""
    if not isinstance(given, dict):
        return f"arguments of a model are a mapping, not {shown(given)}"
    for key, value in _entries(given):
        text = isinstance(value, str) and not _NAME.match(value)
        if text or STRANGE_ARGUMENTS.search(key):
            return f"{shown(key)} is no size of a model: leave it out"
    return None


@contextmanager
def looked_at(folder: Path) -> Iterator[Path]:
    """A folder of what was looked at, and of nothing else, for as long as it is loaded.

    Texts are without byte order marks, which transformers takes for text; the rest are links.

    Raises:
        ModelError: see :func:`check_folder`.
    """
    check_folder(folder)
    with TemporaryDirectory() as place:
        write_config(read_config(folder / CONFIG), Path(place))
        for file in folder.iterdir():
            copy = Path(place, file.name)
            if file.name in READ or file.suffix == ".jinja":
                copy.write_text(read_text(file, ModelError, MOST), encoding="utf-8", newline="")
            elif file.suffix in LINKED:
                original = file.resolve()
                _check_regular(original)
                try:
                    copy.symlink_to(original)
                except OSError:  # Windows has links for some people only
                    shutil.copyfile(original, copy)
        yield Path(place)


def _check_regular(file: Path) -> None:
    """Refuse a folder, a pipe or a device, as it is opened."""
    with open_plain(file, MOST_WEIGHTS):
        pass


def check_folder(folder: Path) -> None:
    """Look at every file that a model and its processor will be loaded from.

    Raises:
        ModelError: one of them is no regular file, is broken, or holds something else.
    """
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"{shorten(str(folder))}: an adapter (adapter_config.json) on another model: merge it "
            "into that model and save the result"
        )
    for name in READ:
        file = folder / name
        if file.exists():
            content = read_json(file, ModelError, MOST)
            if not isinstance(content, dict):
                raise ModelError(f"{shorten(str(file))}: holds a mapping, not {shown(content)}")
    for file in sorted(folder.glob("*.jinja")):
        read_text(file, ModelError)
    generation = folder / "generation_config.json"
    if generation.exists():
        _check_generation(generation)
    for file in _weight_files(folder):
        _check_weights(file)


def _check_generation(file: Path) -> None:
    """Refuse one that transformers would pass over: answers would end elsewhere."""
    from transformers import GenerationConfig

    name, given = shorten(str(file)), read_json(file, ModelError)
    for key, value in given.items():
        numbers = value if isinstance(value, list) else [value]
        whole = all(isinstance(one, int) and not isinstance(one, bool) for one in numbers)
        if key.endswith("_token_id") and value is not None and not (whole and numbers):
            raise ModelError(f"{name}: {key}: numbers of tokens, not {shown(value)}")
    with foreign(ModelError, f"{name}: is no generation config"):
        GenerationConfig.from_dict(dict(given)).validate()


def _weight_files(folder: Path) -> Iterator[Path]:
    """The files of weights that are read, if they are safetensors."""
    if (folder / WEIGHTS).exists():
        yield folder / WEIGHTS
    elif (folder / INDEX).exists():
        name = shorten(str(folder / INDEX))
        places = read_json(folder / INDEX, ModelError, MOST).get("weight_map")
        if not isinstance(places, dict) or not places:
            raise ModelError(f"{name}: has no 'weight_map', which says where each weight is")
        for shard in dict.fromkeys(map(str, places.values())):
            if not _NAME.match(shard) or not shard.endswith(".safetensors"):
                raise ModelError(f"{name}: {shown(shard)} is no .safetensors file beside it")
            if not (folder / shard).exists():
                raise ModelError(f"{name}: {shown(shard)} does not exist")
            yield folder / shard


def _check_weights(file: Path) -> None:
    """Refuse numbers that are no weights: they would be rounded into some."""
    from safetensors import safe_open

    name = shorten(str(file))
    with foreign(ModelError, f"{name}: cannot be read"):
        _check_regular(file)
        with safe_open(file, framework="pt") as stored:
            for key in stored.keys():
                kind = stored.get_slice(key).get_dtype()
                if kind not in ("F64", "F32", "F16", "BF16") and not _BUFFER.search(key):
                    raise ModelError(
                        f"{name}: the weight {shown(key)} is of type {kind}, allowed: F64, F32, "
                        "BF16, F16"
                    )


def check_fit(name: str, report: Mapping[str, Any]) -> None:
    """Refuse a model of which not every weight came from its files, or that left some of them.

    Raises:
        ModelError: saying what does not fit.
    """
    unexpected = [key for key in report["unexpected_keys"] if not _BUFFER.search(key)]
    mismatched = {f"{key} ({_shape(a)} instead of {_shape(b)})"
                  for key, a, b in report.get("mismatched_keys") or ()}  # fmt: skip
    problems = [
        _some(report["missing_keys"], "weights are missing"),
        _some(unexpected, "weights are none of the model's"),
        _some(mismatched, "weights have another shape"),
        _some(report.get("error_msgs") or (), "weights cannot be read"),
    ]
    said = ", ".join(problem for problem in problems if problem)
    if said:
        raise ModelError(f"model {name!r}: its files do not fit its config.json: {said}")


def _some(found: Iterable[object], what: str) -> str:
    """How many of them there are, and the first; nothing if there is none."""
    names = sorted(map(str, found))
    return f"{len(names)} {what}, the first is {shorten(names[0])}" if names else ""


def _shape(sizes: Iterable[int]) -> str:
    return " x ".join(map(str, sizes)) or "one number"


def write_config(config: Mapping[str, object], folder: Path) -> None:
    """Write the config as transformers reads it."""
    (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")
