"""Parquet files of questions, as table libraries write them."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tokensieve.core.errors import TaskError
from tokensieve.core.files.json_lines import MOST_ROWS, Row
from tokensieve.core.files.plain import MEGABYTE, open_plain
from tokensieve.core.foreign import foreign, shorten, shown

NARROW = {"halffloat": "float16", "float": "float32"}  # Arrow's names and NumPy's
MOST_BYTES = 8 * 1024 * MEGABYTE  # as a file, and as it is unpacked; pictures are inside
ROWS = 64  # at once
INDEX = "__index_level_"  # how pandas calls the column of an index without a name


def parquet_rows(path: Path) -> Iterator[Row]:
    """The rows of a file, without the index that pandas adds.

    Raises:
        TaskError: pyarrow is missing, or cannot read the file; a column is there twice; it is
            larger than memory may be.
    """
    name = shorten(str(path))
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        message = "reading Parquet needs pyarrow: pip install 'tokensieve[parquet]'"
        raise TaskError(f"{name}: {message}") from None
    number = 0
    with foreign(TaskError, f"{name}: cannot be read"), open_plain(path, MOST_BYTES) as stream:
        with parquet.ParquetFile(stream) as file:
            counts = Counter[str](file.schema_arrow.names)
            twice = [column for column, count in counts.items() if count > 1]
            if twice:
                raise TaskError(f"{name}: the column {shown(twice[0])} is given twice")
            keys = [key for key in counts if not key.startswith(INDEX)]
            for batch in _batches(file, name):
                columns = [
                    _values(batch.column(key), f"{name}: column {shown(key)}") for key in keys
                ]
                for values in zip(*columns, strict=True):
                    number += 1
                    yield f"{name}: row {number}", dict(zip(keys, values, strict=True))


def _batches(file: Any, name: str) -> Iterator[Any]:
    """Some rows at a time, so that a file that unpacks to very much is noticed on the way."""
    facts = file.metadata
    if facts.num_rows > MOST_ROWS:
        raise TaskError(f"{name}: has {facts.num_rows:,} rows, allowed: {MOST_ROWS:,}")
    groups = (facts.row_group(number) for number in range(facts.num_row_groups))
    if sum(group.total_byte_size for group in groups) <= MOST_BYTES:
        unpacked = 0
        for batch in file.iter_batches(batch_size=ROWS):
            unpacked += batch.nbytes
            if unpacked > MOST_BYTES:
                break
            yield batch
        else:
            return
    raise TaskError(f"{name}: unpacks to more than {MOST_BYTES:,} bytes")


def _values(column: Any, name: str) -> list[object]:
    """Plain values; fractions of 32 bits are those that people read, 0.1 and not 0.10000000149."""
    with foreign(TaskError, f"{name} cannot be read"):
        values: list[object] = column.to_pylist()
    inner = column.type
    while hasattr(inner, "value_type"):
        inner = inner.value_type
    narrow = NARROW.get(str(inner))
    if narrow is None:
        return values
    kind = getattr(importlib.import_module("numpy"), narrow)
    return [_read_out(value, kind) for value in values]


def _read_out(value: object, kind: Callable[[float], object]) -> object:
    """The number that ``kind`` writes down, also within lists."""
    if isinstance(value, list):
        return [_read_out(one, kind) for one in value]
    return float(str(kind(value))) if isinstance(value, float) else value
