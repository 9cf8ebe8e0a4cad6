"""Parquet files of questions, as table libraries write them."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokensieve.core.errors import TaskError
from tokensieve.core.foreign import foreign, shorten, shown
from tokensieve.core.json_lines import Row

NARROW = {"halffloat": "float16", "float": "float32"}  # Arrow's names and NumPy's
INDEX = "__index_level_"  # how pandas calls the column of an index without a name


def parquet_rows(path: Path) -> Iterator[Row]:
    """The rows of a file, without the index that pandas adds.

    Raises:
        TaskError: pyarrow is missing, or cannot read the file; a column is there twice.
    """
    name = shorten(str(path))
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError:
        message = "reading Parquet needs pyarrow: pip install 'tokensieve[parquet]'"
        raise TaskError(f"{name}: {message}") from None
    with foreign(TaskError, f"{name}: cannot be read"):
        with parquet.ParquetFile(path) as file:  # read_table would read folder names as columns
            table = file.read()
        counts = Counter(table.column_names)
        twice = [column for column, count in counts.items() if count > 1]
        if twice:
            raise TaskError(f"{name}: the column {shown(twice[0])} is given twice")
    keys = [key for key in counts if not key.startswith(INDEX)]
    columns = [_values(table.column(key), f"{name}: column {shown(key)}") for key in keys]
    for number in range(table.num_rows):
        row = {key: column[number] for key, column in zip(keys, columns, strict=True)}
        yield f"{name}: row {number + 1}", row


def _values(column: Any, name: str) -> list[Any]:
    """Plain values; fractions of 32 bits are those that people read, 0.1 and not 0.10000000149."""
    with foreign(TaskError, f"{name} cannot be read"):
        values: list[Any] = column.to_pylist()
    inner = column.type
    while hasattr(inner, "value_type"):
        inner = inner.value_type
    narrow = NARROW.get(str(inner))
    if narrow is None:
        return values
    kind = getattr(importlib.import_module("numpy"), narrow)
    return [_read_out(value, kind) for value in values]


def _read_out(value: Any, kind: Any) -> Any:
    if isinstance(value, list):
        return [_read_out(one, kind) for one in value]
    return float(str(kind(value))) if isinstance(value, float) else value
