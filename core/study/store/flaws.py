"""What is wrong with a stored cell: it is what was written and what its key says, or none."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from tokensieve.core.files.plain import MEGABYTE, read_plain
from tokensieve.core.names import BASELINES
from tokensieve.core.study.lmms.task import LmmsTask
from tokensieve.core.study.plan.cells import key_of, title_of

FORMAT = 1
MOST = 1024 * MEGABYTE  # of any file
STATUSES = ("done", "unmet", "failed")
RECORDS = {"accuracy": "samples.jsonl", "anatomy": "anatomy.jsonl"}
"""Where the results of each kind of cell lie."""
BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What data of another shape than ours raises."""


def read_cell(path: Path) -> tuple[dict[str, Any], str | None]:
    """``cell.json`` of a cell's folder without its checksum, and what is wrong with the cell."""
    try:
        data = json.loads(text_of(path / "cell.json"))
        return data, _flaw(path, data)
    except BROKEN as error:
        return {}, f"{type(error).__name__}: {error}".splitlines()[0]


def text_of(file: Path) -> str:
    """The text of a regular file: a pipe or a device in its place would be waited for."""
    return read_plain(file, MOST).decode()


def checksum(path: Path) -> str:
    """Of a file."""
    return hashlib.sha256(read_plain(path, MOST)).hexdigest()


def sum_of(data: dict[str, Any]) -> str:
    """Of ``cell.json`` itself, as far as it is data."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _flaw(path: Path, data: dict[str, Any]) -> str | None:
    """What is wrong; the checksum is taken out of ``data``."""
    if data["format"] != FORMAT:
        return f"format {data['format']!r}, not {FORMAT}"
    config = data["config"]
    if key_of(config) != path.name:
        return "its configuration is not its own"
    stated, files = data.pop("checksum"), data["files"]
    if stated != sum_of(data):
        return "a checksum does not match"
    return (
        _wrong_files(path, files)
        or _wrong_config(config)
        or _wrong_status(data["status"])
        or _wrong_records(path, data, RECORDS[config["kind"]])
    )


def _wrong_files(path: Path, files: dict[str, str]) -> str | None:
    """Whether those that are listed are those that are there, as they were written."""
    for name in (*RECORDS.values(), *files):
        there = (path / name).is_file()
        if name not in RECORDS.values():
            return f"it lists {name!r}, which is no file of a cell"
        if there != (name in files):
            return f"{name} is {'there and not its own' if there else 'missing'}"
        if there and checksum(path / name) != files[name]:
            return "a checksum does not match"
    return None


def _wrong_config(config: dict[str, Any]) -> str | None:
    """Whether it says what every configuration says; a pruned pipeline is never ``none``."""
    title_of(config)
    if config["kind"] not in RECORDS:
        return f"unknown kind {config['kind']!r}"
    pipeline = config["pipeline"] or {}
    if pipeline.get("name") == BASELINES[0] and pipeline.get("resolved", {}).get("stages"):
        return f"a pipeline with stages is called {BASELINES[0]!r}"
    return None


def _wrong_status(status: Any) -> str | None:
    return None if status in STATUSES else f"unknown status {status!r}"


def _wrong_records(path: Path, data: dict[str, Any], name: str) -> str | None:
    """Whether there is one for each question; what was refused or failed has none."""
    if name not in data["files"]:
        return f"it is done without {name}" if data["status"] == "done" else None
    lines = text_of(path / name).splitlines()
    records = [json.loads(line) for line in lines]
    wanted = data["config"]["task"]["samples"]
    ids = {record["id"] for record in records}
    if not len(records) == len(ids) == wanted:
        return f"{len(ids)} results of {wanted} questions"
    if name == RECORDS["accuracy"]:
        free = data["config"]["task"].get("task") == LmmsTask.name  # benchmarks have their own
        wrong = [one["score"] for one in records if not _is_score(one["score"], free=free)]
        return f"{wrong[0]!r} is no score" if wrong else None
    return None


def _is_score(score: Any, *, free: bool) -> bool:
    number = isinstance(score, int | float) and math.isfinite(score)
    return number and (free or 0 <= score <= 1)
