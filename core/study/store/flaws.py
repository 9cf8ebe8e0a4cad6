"""Stored cells are read whole: each is what was written and what its key says, or corrupt."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from tokensieve.core.errors import StudyError
from tokensieve.core.files.plain import MEGABYTE, read_plain
from tokensieve.core.names import BASELINES
from tokensieve.core.pipeline.fields import describe_problem
from tokensieve.core.study.lmms.task import LmmsTask
from tokensieve.core.study.plan.keys import key_of
from tokensieve.core.study.plan.records import Record
from tokensieve.core.study.store.records import (
    ATTRIBUTIONS,
    SAMPLES,
    AttributionRecord,
    CellDocument,
    SampleRecord,
)

FORMAT = 1
MOST = 1024 * MEGABYTE  # of any file
BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What data of another shape than ours raises."""
Line = TypeVar("Line", bound=Record)


class CorruptCell(StudyError):
    """A cell directory is not what was written."""


class _Flaw(Exception):
    """Something is wrong with a cell."""


def read_cell(path: Path) -> CellDocument:
    """``cell.json`` of a cell's folder.

    Raises:
        CorruptCell: the cell is not what was written.
    """
    try:
        data = json.loads(text_of(path / "cell.json"))
        _check_written(path, data)
        document = CellDocument.model_validate(data)
        _check_results(path, document)
        return document
    except _Flaw as flaw:
        reason = str(flaw)
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {describe_problem(first)}"
    except BROKEN as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
    raise CorruptCell(f"{path}: corrupt cell ({reason})")


def read_lines(path: Path, kind: type[Line]) -> list[Line]:
    """The records of a file; none if there is no such file."""
    if not path.is_file():
        return []
    return [kind.model_validate(json.loads(line)) for line in text_of(path).splitlines()]


def text_of(file: Path) -> str:
    """The text of a regular file: a pipe or a device in its place would be waited for."""
    return read_plain(file, MOST).decode()


def checksum(path: Path) -> str:
    """The checksum of a file."""
    return hashlib.sha256(read_plain(path, MOST)).hexdigest()


def sum_of(data: Mapping[str, object]) -> str:
    """The checksum of ``cell.json`` itself, as far as it is data."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _check_written(path: Path, data: dict[str, object]) -> None:
    """Refuse what is not as it was written; the checksum is taken out of ``data``."""
    if data["format"] != FORMAT:
        raise _Flaw(f"format {data['format']!r}, not {FORMAT}")
    config, files = data["config"], data.get("files")
    if not isinstance(config, dict) or key_of(config) != path.name:
        raise _Flaw("its configuration is not its own")
    if data.pop("checksum") != sum_of(data):
        raise _Flaw("a checksum does not match")
    if not isinstance(files, dict):
        raise _Flaw("it lists no files")
    for name in (SAMPLES, ATTRIBUTIONS, *files):
        there = (path / name).is_file()
        if name not in (SAMPLES, ATTRIBUTIONS):
            raise _Flaw(f"it lists {name!r}, which is no file of a cell")
        if there != (name in files):
            raise _Flaw(f"{name} is {'there and not its own' if there else 'missing'}")
        if there and checksum(path / name) != files[name]:
            raise _Flaw("a checksum does not match")


def _check_results(path: Path, document: CellDocument) -> None:
    """Refuse a cell without a result for each question; what was refused or failed has none."""
    config = document.config
    pipeline = config.pipeline
    if config.kind == "accuracy" and pipeline is None:
        raise _Flaw("it has no pipeline")
    if pipeline and pipeline.name == BASELINES[0] and pipeline.resolved.get("stages"):
        raise _Flaw(f"a pipeline with stages is called {BASELINES[0]!r}")
    name = SAMPLES if config.kind == "accuracy" else ATTRIBUTIONS
    if not (path / name).is_file():
        if document.status == "done":
            raise _Flaw(f"it is done without {name}")
        return
    scores = []
    if config.kind == "accuracy":
        samples = read_lines(path / name, SampleRecord)
        ids, scores = [sample.id for sample in samples], [sample.score for sample in samples]
    else:
        ids = [record.id for record in read_lines(path / name, AttributionRecord)]
    if not len(ids) == len(set(ids)) == config.task.samples:
        raise _Flaw(f"{len(set(ids))} results of {config.task.samples} questions")
    free = config.task.task == LmmsTask.name  # benchmarks have scores of their own
    for score in scores:
        if not math.isfinite(score) or not (free or 0 <= score <= 1):
            raise _Flaw(f"{score!r} is no score")
