"""What a study was run with: enough to run it again, or to say why numbers differ."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tokensieve.core.errors import StudyError
from tokensieve.core.files.json_text import read_json
from tokensieve.core.models.host import processor_name
from tokensieve.core.study.plan.cells import PlannedCell
from tokensieve.core.study.spec.study import StudySpec
from tokensieve.core.study.store.flaws import MOST
from tokensieve.core.study.store.store import Cell, Store

PACKAGES = (
    "tokensieve", "torch", "torchvision", "transformers", "tokenizers", "safetensors", "numpy",
    "pillow", "pyarrow", "scikit-learn", "timm", "accelerate", "lmms_eval", "ray", "submitit",
)  # fmt: skip
FOLDERS = ("core", "strategies", "adapters")
GIT_SECONDS = 5


def write_manifest(
    store: Store, spec: StudySpec, cells: Sequence[PlannedCell], executor: str
) -> None:
    """Note a start of the study; earlier starts stay noted."""
    previous = read_manifest(store)
    start = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "executor": executor,
        "git": git_revision(),
        "versions": installed_versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
    }
    manifest = {
        "format": 1,
        "name": spec.name,
        "description": spec.description,
        "seeds": list(spec.seeds),
        "budgets": [{budget.kind: budget.value} for budget in spec.budgets],
        "models": [model.title for model in spec.models],
        "pipelines": list(dict.fromkeys(_pipeline(cell) for cell in cells if _pipeline(cell))),
        "tasks": [task.title for task in spec.tasks],
        "cells": [cell.key for cell in cells],
        "starts": [*_list(previous, "starts"), start],
        "environments": _list(previous, "environments"),
    }
    store.write_file("manifest.json", json.dumps(manifest, indent=1) + "\n")


def note_environments(store: Store, cells: Sequence[Cell]) -> None:
    """Add what the cells ran on: devices, dtypes, attention backends."""
    manifest = read_manifest(store)
    seen: list[dict[str, Any]] = []
    for cell in cells:
        facts = {"model": cell.config["model"]["name"], **cell.data.get("environment", {})}
        if facts not in seen:
            seen.append(facts)
    manifest["environments"] = seen
    store.write_file("manifest.json", json.dumps(manifest, indent=1) + "\n")


def read_manifest(store: Store) -> dict[str, Any]:
    """The manifest; empty if there is none that can be read."""
    try:
        found = read_json(store.path / "manifest.json", StudyError, MOST)
    except StudyError:
        return {}
    return found if isinstance(found, dict) else {}


def _list(manifest: dict[str, Any], key: str) -> list[Any]:
    found = manifest.get(key)
    return found if isinstance(found, list) else []


def installed_versions() -> dict[str, str]:
    """Of the packages that results may depend on, those that are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_revision() -> str | None:
    """Of the source that runs, with ``-dirty`` if it was changed; None outside its repository."""
    return source_revision(Path(__file__).resolve())


def source_revision(file: Path) -> str | None:
    """Of the repository that ``file`` of this package is tracked in.

    A package that was installed into an environment inside somebody's repository is none of it.
    Only the package counts as changed: results lie in the same checkout.
    """
    root = file.parents[2]  # of a checkout: it holds core/study/
    if _git(root, "ls-files", "--error-unmatch", str(file)) is None:
        return None
    revision = _git(root, "rev-parse", "HEAD")
    changed = _git(root, "status", "--porcelain", "--", *FOLDERS)
    return f"{revision}-dirty" if revision and changed else revision


def _git(folder: Path, *command: str) -> str | None:
    """What git prints; None if it fails or is not there."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "--no-optional-locks", *command],
            capture_output=True,
            text=True,
            timeout=GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _pipeline(cell: PlannedCell) -> str:
    pipeline = cell.config["pipeline"]
    return str(pipeline["name"]) if pipeline else ""
