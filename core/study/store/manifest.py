"""The manifest of a study: enough to run it again, or to say why numbers differ."""

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

from pydantic import ValidationError

from tokensieve.core.errors import StudyError
from tokensieve.core.files.json_text import read_json
from tokensieve.core.models.host import processor_name
from tokensieve.core.study.plan.records import PlannedCell
from tokensieve.core.study.spec.study import StudySpec
from tokensieve.core.study.store.flaws import MOST
from tokensieve.core.study.store.records import Environment, Manifest, Start
from tokensieve.core.study.store.store import Cell, Store

NAME = "manifest.json"
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
    start = Start(
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        command=[Path(sys.argv[0]).name, *sys.argv[1:]],
        executor=executor,
        git=git_revision(),
        versions=installed_versions(),
        python=platform.python_version(),
        platform=platform.platform(),
        processor=processor_name(),
        cores=os.cpu_count(),
    )
    names = dict.fromkeys(cell.config.pipeline_name for cell in cells)
    manifest = Manifest(
        format=1,
        name=spec.name,
        description=spec.description,
        seeds=list(spec.seeds),
        budgets=[{budget.kind: budget.value} for budget in spec.budgets],
        models=[model.title for model in spec.models],
        pipelines=[name for name in names if name],
        tasks=[task.title for task in spec.tasks],
        cells=[cell.key for cell in cells],
        starts=[*previous.starts, start],
        environments=previous.environments,
    )
    _write(store, manifest)


def note_environments(store: Store, cells: Sequence[Cell]) -> None:
    """Add what the cells ran on: devices, dtypes, attention backends."""
    seen: list[Environment] = []
    for cell in cells:
        facts = cell.data.environment.model_copy(update={"model": cell.config.model.name})
        if facts not in seen:
            seen.append(facts)
    _write(store, read_manifest(store).model_copy(update={"environments": seen}))


def _write(store: Store, manifest: Manifest) -> None:
    store.write_file(NAME, json.dumps(manifest.plain(), indent=1) + "\n")


def read_manifest(store: Store) -> Manifest:
    """The manifest, without what nobody could have written; empty if none can be read."""
    try:
        found = read_json(store.path / NAME, StudyError, MOST)
    except StudyError:
        return Manifest()
    if not isinstance(found, dict):
        return Manifest()
    try:
        return Manifest.model_validate(found)
    except ValidationError as error:
        spoilt = {problem["loc"][0] for problem in error.errors()}
        return Manifest.model_validate({key: found[key] for key in found if key not in spoilt})


def installed_versions() -> dict[str, str]:
    """The packages that results may depend on, as far as they are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_revision() -> str | None:
    """The revision of the source that runs, ``-dirty`` if changed; None outside a checkout."""
    return source_revision(Path(__file__).resolve())


def source_revision(file: Path) -> str | None:
    """The revision of the repository that ``file`` of this package is tracked in.

    A package that was installed into an environment inside somebody's repository is none of it.
    Only the package counts as changed: results may be in the same checkout.
    """
    root = file.parents[3]  # of a checkout: it holds core/study/store/
    if _git(root, "ls-files", "--error-unmatch", str(file)) is None:
        return None
    revision = _git(root, "rev-parse", "HEAD")
    changed = _git(root, "status", "--porcelain", "--", *FOLDERS)
    return f"{revision}-dirty" if revision and changed else revision


def _git(folder: Path, *command: str) -> str | None:
    """The output of git; None if it fails or is not there."""
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
