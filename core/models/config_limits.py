"""Sizes in a model's config that no model has: refused before anything is built from them.

Some configs make a list entry for each layer while they are read, and a model allocates what its
config says. So the numbers are looked at in the file's own text, before any class reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from tokensieve.core.errors import ModelError
from tokensieve.core.foreign import shorten, shown

LIMITS: tuple[tuple[str, int, int], ...] = (
    ("vocab_size|.*_vocab_size", 1, 1_000_000),
    ("num_(hidden_|encoder_|decoder_|vision_)?layers|n_layers?|depth", 1, 1_000),
    (".*_layers|depths", 0, 1_000),
    (".*_feature_layer", -1_000, 1_000),
    ("num_(attention_|key_value_)?heads|n_heads?", 1, 4_096),
    (".*_heads|(.*_)?experts.*", 0, 4_096),
    ("(.*_)?(image|img|crop)_size", 0, 16_384),
    ("temporal_patch_size|.*_merge_size|.*_stride", 0, 16),
    ("(.*_)?patch_size", 0, 128),
    ("num_channels|in_chans|in_channels|.*_channels", 0, 1_024),
    ("num_labels|num_classes", 0, 1_000_000),
    ("(.*_)?hidden_size|embed_dim|d_model|width", 1, 262_144),
    (".*_(dim|size|width|tokens|length|frames)|d_ff", 0, 262_144),
    ("n_positions|.*_position_embeddings|.*_positions", 0, 100_000_000),
)
"""Keys, as patterns of their whole name, and the least and the largest number allowed."""
MOST_WEIGHTS = 10**13
"""Numbers in a decoder; the largest that were published have a tenth of it."""
MOST_PATCHES = 1024
"""Patches along a side of a picture."""
WIDEST_PATCH = 200_000
"""Numbers that make one patch of a picture."""
_DEEP = 32
_COMPILED = tuple((re.compile(pattern), low, high) for pattern, low, high in LIMITS)


def check_config(name: str, config: Mapping[str, object]) -> None:
    """Refuse a config whose sizes nobody could build, or that are no whole numbers above 0.

    Raises:
        ModelError: it names the key.
    """
    for key, value in _numbers(config, "", 0):
        last = key.rpartition(".")[2].partition("[")[0]
        known = ((low, high) for pattern, low, high in _COMPILED if pattern.fullmatch(last))
        limits = next(known, None)
        if limits is not None and not limits[0] <= value <= limits[1]:
            raise ModelError(
                f"model {shorten(name)!r}: config.json: {shorten(key)}: {shown(value)}: no model "
                f"has that, allowed: {limits[0]:,} to {limits[1]:,}"
            )
    for place, part in _parts(config, "", 0):
        _check_product(name, place, part)


def _numbers(value: object, place: str, depth: int) -> Iterator[tuple[str, int | float]]:
    """Every number with its place: ``text_config.num_hidden_layers``."""
    if depth > _DEEP:
        return
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _numbers(entry, f"{place}.{key}" if place else str(key), depth + 1)
    elif isinstance(value, list | tuple):
        for number, entry in enumerate(value):
            yield from _numbers(entry, f"{place}[{number}]", depth + 1)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield place, value


def _parts(value: object, place: str, depth: int) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Every mapping with its place, the config itself first."""
    if isinstance(value, Mapping) and depth <= _DEEP:
        yield place, value
        for key, entry in value.items():
            yield from _parts(entry, f"{place}.{key}" if place else str(key), depth + 1)


def _check_product(name: str, place: str, part: Mapping[str, object]) -> None:
    """Refuse sizes that are possible each, and not together."""
    where = f"model {shorten(name)!r}: config.json{f': {shorten(place)}' if place else ''}"
    layers, width = _first(part, "num_hidden_layers", "depth"), _first(part, "hidden_size")
    inner, words = _first(part, "intermediate_size"), _first(part, "vocab_size")
    weights = layers * width * (4 * width + 3 * inner) + 2 * words * width
    if weights > MOST_WEIGHTS:
        raise ModelError(f"{where}: these sizes make {weights:.1e} weights: no model has that many")
    picture, patch = _first(part, "image_size", "img_size"), _first(part, "patch_size")
    if patch and picture // patch > MOST_PATCHES:
        raise ModelError(
            f"{where}: pictures of {picture} pixels in patches of {patch}: more than "
            f"{MOST_PATCHES} patches along a side"
        )
    channels = _first(part, "in_channels", "in_chans", "num_channels") or 3
    numbers = patch**2 * channels * (_first(part, "temporal_patch_size") or 1)
    if numbers > WIDEST_PATCH:
        raise ModelError(f"{where}: patches of {numbers:,} numbers: no model has that many")


def _first(part: Mapping[str, object], *keys: str) -> int:
    """The first of the sizes that is there; of a list its largest; 0 if none is."""
    for key in keys:
        value = part.get(key)
        listed = value if isinstance(value, list | tuple) else [value]
        sizes = [size for size in listed if isinstance(size, int) and not isinstance(size, bool)]
        if sizes:
            return max(sizes)
    return 0
