"""The key of a cell: a hash of everything in its :class:`CellConfig`, and of nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from tokensieve.core.study.plan.records import (
    CellConfig,
    Record,
    as_json,
)

_ENCODER = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=as_json
)
KEY_LENGTH = 16


def key_of(config: CellConfig | Mapping[str, object]) -> str:
    """The name of a cell's directory: the start of the SHA-256 of its configuration."""
    return Keys().of(config)


class Keys:
    """Keys of configurations that share their parts: each part is written down once."""

    def __init__(self) -> None:
        self._written: dict[int, tuple[Record, str]] = {}

    def of(self, config: CellConfig | Mapping[str, object]) -> str:
        """The key of one configuration."""
        texts = []
        for name, part in sorted(config.items()):
            if not isinstance(part, Record):
                text = _ENCODER.encode(part)
            elif id(part) in self._written:
                text = self._written[id(part)][1]
            else:  # the part is kept with its text: its number is not given away again
                text = _ENCODER.encode(part)
                self._written[id(part)] = (part, text)
            texts.append(f'"{name}":{text}')
        whole = f"{{{','.join(texts)}}}"
        return hashlib.sha256(whole.encode()).hexdigest()[:KEY_LENGTH]
