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
        rows = table.select([key for key in counts if not key.startswith(INDEX)]).to_pylist()
    for number, row in enumerate(rows, start=1):
        yield f"{name}: row {number}", row
