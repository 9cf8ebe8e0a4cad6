"""``load_pipeline``: from a preset name, a file, a dict or a pipeline to a valid pipeline."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import yaml
from pydantic import ValidationError

from tokensieve.core.errors import PipelineError, PluginError, did_you_mean
from tokensieve.core.files.yaml_source import Source, parse_yaml, read_yaml
from tokensieve.core.foreign import plain, shorten, shown
from tokensieve.core.pipeline.fields import describe_problem
from tokensieve.core.pipeline.pipeline import Pipeline
from tokensieve.core.pipeline.reserved import misnamed
from tokensieve.core.pipeline.stage import Stage
from tokensieve.core.plugins.discovery import build_registry
from tokensieve.core.plugins.registry import Registry
from tokensieve.core.strict import Place

PipelineLike = str | os.PathLike[str] | Mapping[str, object] | Pipeline
BUDGETS = "64 (tokens), 0.33 (share), average=192, flops=0.4"
MESSAGE = 1000  # characters: what is allowed may be a long list


def load_pipeline(
    source: PipelineLike,
    *,
    keep: object = None,
    plugins: Sequence[str | Path] = (),
    registry: Registry | None = None,
) -> Pipeline:
    """Load and validate a pipeline.

    Args:
        source: a preset's name, a YAML file, a dict with the same keys, or a pipeline.
        keep: replaces the pipeline's own budget (see :meth:`Pipeline.with_keep`).
        plugins: plugin files whose components the pipeline may use.
        registry: use this registry instead of building one.

    Raises:
        PipelineError: with ``FILE:LINE:COL: where: what, what is allowed``.

    >>> load_pipeline({"at": 2, "score": "attention", "keep": 0.5}).stages[0].keep[0].kind
    'share'
    """
    registry = registry or build_registry(plugins)
    if isinstance(source, Pipeline):
        pipeline = source
        _check_name(pipeline, Source("<pipeline>", {}), registry)
    elif isinstance(source, Mapping):
        pipeline = _validate(Source("<dict>", dict(source)), registry)
    else:
        path = _find(source, registry)
        pipeline = _validate(read_yaml(path), registry, path)
    if keep is None:
        return pipeline
    try:
        return pipeline.with_keep(keep)
    except ValidationError as error:
        message = shorten(describe_problem(error.errors()[0]), MESSAGE)
        raise PipelineError(f"keep: {message}") from None


def _find(source: str | os.PathLike[str], registry: Registry) -> Path:
    """The file of a preset, or the path itself."""
    text = os.fspath(source)
    presets = registry.entries["pipeline"]
    if isinstance(source, str):
        registry.refuse_claimed("pipeline", text)
    if isinstance(source, str) and text in presets:
        preset: Path = presets[text].value
        return preset
    path = Path(os.path.expanduser(text))
    if path.suffix in (".yaml", ".yml") or os.sep in text or os.path.isfile(path):
        return path
    raise PipelineError(
        f"unknown pipeline {shown(text)}{did_you_mean(text, presets)}, or a YAML file"
    )


def _validate(source: Source, registry: Registry, path: Path | None = None) -> Pipeline:
    if not isinstance(source.data, dict):
        raise PipelineError(f"{source.where(())}: a pipeline is a mapping with the key 'stages'")
    data = dict(source.data)
    if path is not None:
        data.setdefault("name", path.stem)
    try:
        pipeline = Pipeline.model_validate(data, context={"registry": registry})
    except ValidationError as error:
        raise PipelineError(*problem_lines(error, source, _known_keys)) from None
    except PluginError as error:
        raise PipelineError(f"{source.name}: {error}") from None
    _check_name(pipeline, source, registry)
    return pipeline


def _check_name(pipeline: Pipeline, source: Source, registry: Registry) -> None:
    problem = misnamed(pipeline.name, pipeline, registry)
    if problem:
        raise PipelineError(f"{source.where(('name',))}: name: {problem}")


def problem_lines(
    error: ValidationError,
    source: Source,
    known_keys: Callable[[Place], Iterable[str]],
    document: str = "pipeline",
) -> list[str]:
    """``FILE:LINE:COL: where: what is wrong``, a line per problem of a document."""
    lines = []
    for problem in error.errors():
        context = problem.get("ctx", {})
        path = (*problem["loc"], *context.get("path", ()))
        unknown = problem["type"] == "extra_forbidden"
        message = describe_problem(problem)
        if unknown:
            message += did_you_mean(str(path[-1]), known_keys(path))
        place = source.where(path, key=unknown or context.get("at_key", False))
        dotted = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
        where = shorten(dotted.removeprefix(".")) or document
        lines.append(f"{place}: {where}: {shorten(message, MESSAGE)}")
    return list(dict.fromkeys(lines))


def _known_keys(path: Place) -> list[str]:
    model = Stage if len(path) > 1 and path[0] == "stages" else Pipeline
    return list(model.model_fields)


def dump_yaml(pipeline: Pipeline) -> str:
    """The pipeline as YAML that loads back to an equal pipeline; lists of plain values in line."""
    whole = json.dumps(pipeline.to_plain(), ensure_ascii=False)
    readable = plain(whole) == whole  # else signs that a terminal would obey are escaped
    parts = []
    for key, value in pipeline.to_plain().items():
        flow = None if isinstance(value, list) else False
        parts.append(
            yaml.safe_dump(
                {key: value},
                sort_keys=False,
                allow_unicode=readable,
                default_flow_style=flow,
                width=96,
            )
        )
    return "".join(parts)


def parse_keep(text: str | None, option: str = "--keep") -> object:
    """``64``, ``0.33``, ``average=192`` or ``{average: 192}``, as YAML would read it.

    Raises:
        PipelineError: it is no YAML, or says nothing: who writes a budget wants one.
    """
    if text is None or not text.strip():
        return text
    kind, equals, value = text.partition("=")
    spelling = f"{{{kind}: {value}}}" if equals else text
    comment = text.lstrip().startswith("#")
    budget: object = None if comment else parse_yaml(spelling, option).data
    if budget is None:
        raise PipelineError(f"{option}: {shown(text)} is no budget, allowed: {BUDGETS}")
    return budget
