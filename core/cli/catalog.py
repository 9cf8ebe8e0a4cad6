"""``tokensieve list``: every registered name, and who brings it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tokensieve.core.cli.options import Plugins, open_registry
from tokensieve.core.errors import ModelError, PipelineError
from tokensieve.core.files.json_text import read_json
from tokensieve.core.files.yaml_source import read_yaml
from tokensieve.core.foreign import reason
from tokensieve.core.output.terminal import complain, console, table, warn
from tokensieve.core.plugins.registry import Entry


class Kind(StrEnum):
    """Kinds of things that can be listed."""

    SCORERS = "scorers"
    SELECTORS = "selectors"
    MERGERS = "mergers"
    PIPELINES = "pipelines"
    ADAPTERS = "adapters"
    MODELS = "models"
    TASKS = "tasks"
    STUDIES = "studies"

    @property
    def singular(self) -> str:
        """As the registry calls it."""
        return "study" if self is Kind.STUDIES else self.value.removesuffix("s")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("list")(list_entries)


def list_entries(
    kind: Annotated[Kind | None, typer.Argument(help="Only these.")] = None,
    plugin: Plugins = None,
) -> None:
    """List components, pipelines, adapters, models, tasks and studies, and who brings them."""
    registry = open_registry(plugin)
    rows = table("kind", "name", "summary", "source", left=["kind", "name", "summary", "source"])
    for wanted in [kind] if kind else Kind:
        for entry in registry.all(wanted.singular):
            rows.add_row(wanted.singular, entry.name, _summary(entry), entry.owner)
    console().print(rows)


def _summary(entry: Entry) -> str:
    """One line about an entry; a file that cannot be read is named on stderr."""
    unreadable = "(cannot be read)"
    if entry.kind in {"pipeline", "study"}:
        try:
            data = read_yaml(entry.value).data
        except PipelineError as error:
            complain(error)
            return unreadable
        return str(data.get("description", "")) if isinstance(data, dict) else ""
    if entry.kind == "model":
        folder: Path = entry.value
        try:
            config = read_json(folder / "config.json", ModelError)
            size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
            return f"model_type {config.get('model_type')}, {size / 1e6:.1f} MB, {folder}"
        except (OSError, AttributeError, ModelError) as error:
            warn(f"model folder {folder}: {reason(error)}")
            return unreadable
    summary: str = entry.value.summary()
    if entry.kind == "adapter":
        kinds = ", ".join(sorted(entry.value.model_types))
        return f"{summary} (model_type {kinds})"
    return summary
