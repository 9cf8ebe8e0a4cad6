"""Stored cells that are not what they say, and names and budgets that are taken for others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from identity_changes import rows
from plugin_sources import write

from tokensieve.core.study.plan.keys import key_of
from tokensieve.core.study.plan.records import CellConfig, PlannedCell
from tokensieve.core.study.store.flaws import sum_of
from tokensieve.core.study.store.records import CellDocument
from tokensieve.core.study.store.store import (
    CellResult,
    Store,
)


def stored(cell: PlannedCell, folder: Path) -> Path:
    """A whole cell on disk."""
    records: list[Any] = [{"id": str(n), "score": 0.5} for n in range(3)]
    facts = {"config": cell.config, "status": "done", "error": None, "summary": {"samples": 3}}
    document = CellDocument.model_validate(facts)
    return Store(folder).write(CellResult(cell.key, document, {"samples.jsonl": records}))


def forge(place: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change ``cell.json`` so that its own checksum is right again."""
    data = json.loads((place / "cell.json").read_text())
    change(data)
    data.pop("checksum", None)
    (place / "cell.json").write_text(json.dumps({**data, "checksum": sum_of(data)}))


def refill(place: Path, *records: Any) -> None:
    """Other results, with their checksum."""
    import hashlib

    text = "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in records)
    (place / "samples.jsonl").write_text(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    forge(place, lambda data: data.update(files={"samples.jsonl": digest}))


def change(**values: Any) -> Callable[[Path], None]:
    return lambda place: forge(place, lambda data: data.update(values))


def without(key: str) -> Callable[[Path], None]:
    return lambda place: forge(place, lambda data: data.pop(key))


def configured(**values: Any) -> Callable[[Path], None]:
    """Another configuration, under the key that it has."""

    def spoil(place: Path) -> None:
        forge(place, lambda data: data["config"].update(values))
        config = json.loads((place / "cell.json").read_text())["config"]
        place.rename(place.parent / key_of(config))

    return spoil


def fifo(place: Path) -> None:
    import os

    place.unlink()
    os.mkfifo(place)


def scored(score: Any) -> Callable[[Path], None]:
    return lambda place: refill(place, *({"id": str(n), "score": score} for n in range(3)))


def two(place: Path) -> None:
    refill(place, {"id": "0", "score": 1}, {"id": "1", "score": 1})


HELD = {"id": "0", "score": 1}
STATUSES: tuple[object, ...] = (
    "Done", "done ", "", "finished", "running", None, True, 1, [], {}, ["done"],
)  # fmt: skip
SCORES: tuple[object, ...] = (float("nan"), float("inf"), -0.1, 1.1, 85, None, "1", [], {})


CORRUPT: dict[str, Callable[[Path], object]] = {
    **{f"status {s!r}": change(status=s)
       for s in STATUSES},
    "no status": without("status"),
    "no files listed": change(files={}),
    "files are none": change(files=None),
    "files are a list": change(files=["samples.jsonl"]),
    "files not named": without("files"),
    "another file listed": lambda p: forge(p, lambda d: d["files"].update({"more.jsonl": "x"})),
    "a file outside": lambda p: forge(p, lambda d: d["files"].update({"../../x": "x"})),
    "an absolute file": lambda p: forge(p, lambda d: d["files"].update({"/etc/passwd": "x"})),
    "a device": lambda p: forge(p, lambda d: d["files"].update({"/dev/zero": "x"})),
    "samples gone": lambda p: (p / "samples.jsonl").unlink(),
    "samples gone and not listed": lambda p: ((p / "samples.jsonl").unlink(),
                                              forge(p, lambda d: d.update(files={}))),
    "samples are a folder": lambda p: ((p / "samples.jsonl").unlink(),
                                       (p / "samples.jsonl").mkdir()),
    "samples are a pipe": lambda p: fifo(p / "samples.jsonl"),
    "samples empty": refill,
    "a result less": two,
    "a result more": lambda p: refill(p, *({"id": str(n), "score": 1} for n in range(4))),
    "one result thrice": lambda p: refill(p, HELD, HELD, HELD),
    "result without id": lambda p: refill(p, HELD, {"score": 1}, {"score": 1}),
    "result without score": lambda p: refill(p, *({"id": str(n)} for n in range(3))),
    "results are lists": lambda p: refill(p, [1], [2], [3]),
    "results are no JSON": lambda p: refill(p, "{", "{", "{"),
    "results are no text": lambda p: (p / "samples.jsonl").write_bytes(b"\xff\xfe"),
    "results of another cell": lambda p: write(p / "samples.jsonl", rows(HELD)),
    **{f"score {s!r}": scored(s)
       for s in SCORES},
    "a file that is not listed": lambda p: write(p / "anatomy.jsonl", rows(HELD)),
    "other seed": lambda p: forge(p, lambda d: d["config"].update(seed=7)),
    "other pipeline": lambda p: forge(p, lambda d: d["config"]["pipeline"].update(name="x")),
    "other questions": lambda p: forge(p, lambda d: d["config"]["task"].update(examples="x")),
    "other weights": lambda p: forge(p, lambda d: d["config"]["model"].update(sha256="x")),
    "no configuration": without("config"),
    "configuration is text": change(config="x"),
    "another format": change(format=2),
    "format as text": change(format="1"),
    "no format": without("format"),
    "cell empty": lambda p: write(p / "cell.json", ""),
    "cell is null": lambda p: write(p / "cell.json", "null"),
    "cell is a list": lambda p: write(p / "cell.json", "[]"),
    "cell is a number": lambda p: write(p / "cell.json", "1"),
    "cell nested deep": lambda p: write(p / "cell.json", "[" * 100_000),
    "cell cut": lambda p: write(p / "cell.json", (p / "cell.json").read_text()[:-9]),
    "cell is no text": lambda p: (p / "cell.json").write_bytes(b"\xff"),
    "cell gone": lambda p: (p / "cell.json").unlink(),
    "cell is a folder": lambda p: ((p / "cell.json").unlink(), (p / "cell.json").mkdir()),
    "cell is a pipe": lambda p: fifo(p / "cell.json"),
    "checksum gone": lambda p: write(p / "cell.json", json.dumps(
        {k: v for k, v in json.loads((p / "cell.json").read_text()).items() if k != "checksum"})),
    "folder empty": lambda p: (shutil.rmtree(p), p.mkdir()),
    "file instead of folder": lambda p: (shutil.rmtree(p), write(p, "x")),
}  # fmt: skip


STAGES = {"stages": [{"at": 2, "score": "attention", "keep": 9}]}


SHAPES: dict[str, Callable[[Path], None]] = {
    "kind": configured(kind="guess"),
    "no task": configured(task=None),
    "task is text": configured(task="digits"),
    "model is a list": configured(model=[]),
    "no budget": configured(budget=5),
    "pipeline is text": configured(pipeline="fastv"),
    "pruned and called none": configured(pipeline={"name": "none", "resolved": STAGES}),
    "other number of questions": configured(task={"name": "digits", "samples": 2}),
    "number of questions as text": configured(task={"name": "digits", "samples": "3"}),
    "anatomy without its file": configured(kind="anatomy"),
}


LISTS: dict[str, Any] = {
    "text": "abc", "number": 5, "mapping": {"a": 1}, "numbers": [1, 2], "paths": ["../../etc"],
    "empty text": [""], "dots": [".."], "absolute": ["/etc"], "null": None, "long": ["a" * 5000],
    "NUL": ["\0" * 16], "upper case": ["A" * 16],
}  # fmt: skip


COST = {"average_tokens": 4, "visual_tokens": 9, "flops_share": 0.5}


def other(config: CellConfig, part: str, **facts: Any) -> CellResult:
    changed = {**config.plain(), part: {**config[part], **facts}}
    changed["pipeline"] = {**config["pipeline"], "name": "older"}
    records: list[Any] = [{**COST, "id": str(n), "score": 1.0, "answer": "a"} for n in range(3)]
    data = {"config": changed, "status": "done", "started": "2020-01-01T00:00:00+00:00"}
    document = CellDocument.model_validate(data)
    return CellResult(key_of(changed), document, {"samples.jsonl": records})


PAIRS = {
    "case": ("fast", "Fast"),
    "upper case": ("fast", "FAST"),
    "form": ("caf\u00e9", "cafe\u0301"),
    "sharp s": ("stra\u00dfe", "strasse"),
    "full width": ("fast", "\uff46\uff41\uff53\uff54"),
    "ligature": ("first", "\ufb01rst"),
    "invisible": ("fast", "fa\u200bst"),
    "joiner": ("fast", "fast\u200d"),
    "direction": ("fast", "\u202efast"),
    "soft hyphen": ("fast", "fa\u00adst"),
    "white space": ("a b", "a  b"),
    "hard space": ("a b", "a\u00a0b"),
    "Kelvin": ("k", "\u212a"),
    "sigma": ("\u03c3", "\u03c2"),
    "same": ("fast", "fast"),
}


BUDGETS: dict[str, list[Any]] = {
    "same": [0.25, 0.25],
    "number and average": [32, {"average": 32}],
    "whole and fraction": [{"average": 32}, {"average": 32.0}],
    "too close to tell": [0.25, 0.2500000001],
    "too close to tell in FLOPs": [{"flops": 0.4}, {"flops": 0.40000001}],
    "too close to tell in tokens": [{"average": 32}, {"average": 32.00001}],
}


SPELLINGS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "upper case": str.upper,
    "full width": lambda name: "".join(chr(ord(c) + 0xFEE0) if c.isalpha() else c for c in name),
    "invisible": lambda name: f"{name[:2]}\u200b{name[2:]}",
    "spaces": lambda name: f" {name} ",
}


LIE: dict[str, Any] = {"at": 2, "score": "hidden-change", "keep": 9}
