"""Pipelines under a reserved name have to be what the name says: a report counts on it."""

from __future__ import annotations

from tokensieve.core.files.yaml_source import read_yaml
from tokensieve.core.names import BASELINES, reserved
from tokensieve.core.pipeline.pipeline import Pipeline
from tokensieve.core.plugins.registry import PROJECT, Registry

WORDS = ("name", "description", "source", "about")  # for people
BUDGET = "keep"


def misnamed(name: str, pipeline: Pipeline, registry: Registry) -> str | None:
    """The reason why ``pipeline`` cannot have that name; None if it can.

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
    """The pipeline of that name; None where the project's own presets are not registered.

    It is a preset, or it is written in a built-in study.
    """
    preset = name in BASELINES
    for entry in registry.all("pipeline" if preset else "study"):
        if entry.owner != PROJECT or (preset and entry.name != name):
            continue
        plain = read_yaml(entry.value).data
        if not preset:
            named = [one for one in plain["pipelines"] if isinstance(one, dict)]
            plain = next((one["pipeline"] for one in named if one.get("name") == name), None)
        if plain is not None:
            return Pipeline.model_validate(plain, context={"registry": registry})
    return None


def _content(pipeline: Pipeline) -> dict[str, object]:
    """The content of a pipeline that decides what it does, but for its budget."""
    plain = pipeline.to_plain()
    stages = [
        {key: value for key, value in stage.items() if key != BUDGET}
        for stage in plain.pop("stages", ())
    ]
    plain = {key: value for key, value in plain.items() if key not in (*WORDS, BUDGET)}
    return {**plain, "stages": stages}
