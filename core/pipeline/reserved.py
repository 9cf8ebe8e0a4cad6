"""Reserved names name what they are: a report counts on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokensieve.core.files.yaml_source import read_yaml
from tokensieve.core.names import BASELINES, reserved
from tokensieve.core.pipeline.pipeline import Pipeline
from tokensieve.core.plugins.registry import PROJECT, Registry

WORDS = ("name", "description", "source", "about")  # for people
BUDGET = "keep"


def misnamed(name: str, pipeline: Pipeline, registry: Registry) -> str | None:
    """Why ``pipeline`` cannot have that name; None if it can.

    At another budget it is the same pipeline.
    """
    own = reserved(name)
    if own is None:
        return None
    standard = _standard(own, registry)
    if standard is None or (name == own and _content(pipeline) == _content(standard)):
        return None
    what = f"the preset {own!r}" if own in BASELINES else f"the control {own!r} of a built-in study"
    return f"the name {name!r} is reserved for {what}, which this is not: give it another one"


def _standard(name: str, registry: Registry) -> Pipeline | None:
    """What the name stands for; None where the project's own presets are not registered."""
    kind = "pipeline" if name in BASELINES else "study"
    for entry in registry.all(kind):
        if entry.owner == PROJECT and (kind == "study" or entry.name == name):
            plain = _written(entry.value, name)
            if plain is not None:
                return Pipeline.model_validate(plain, context={"registry": registry})
    return None


def _written(file: Path, name: str) -> Any:
    """A preset, or the pipeline of that name in a study."""
    data = read_yaml(file).data
    if name in BASELINES:
        return data
    entries = [entry for entry in data["pipelines"] if isinstance(entry, dict)]
    return next((entry["pipeline"] for entry in entries if entry.get("name") == name), None)


def _content(pipeline: Pipeline) -> dict[str, Any]:
    """What a pipeline does, but for its budget."""
    plain = pipeline.to_plain()
    stages = [
        {key: value for key, value in stage.items() if key != BUDGET}
        for stage in plain.pop("stages", ())
    ]
    plain = {key: value for key, value in plain.items() if key not in (*WORDS, BUDGET)}
    return {**plain, "stages": stages}
