"""``tokensieve study``: many models, pipelines, budgets and tasks, in a folder that can resume."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokensieve.core.cli.options import Plugins, number, open_registry
from tokensieve.core.errors import StudyError
from tokensieve.core.files.yaml_source import Source, read_yaml
from tokensieve.core.foreign import shorten
from tokensieve.core.models.finding import locate
from tokensieve.core.models.hub import only_local
from tokensieve.core.output.stopping import advise
from tokensieve.core.output.terminal import waiting
from tokensieve.core.pipeline.loading import parse_keep
from tokensieve.core.plugins.registry import Registry
from tokensieve.core.strict import MOST_BATCH, MOST_NEW_TOKENS, MOST_SAMPLES
from tokensieve.core.study.executors import ExecutorName
from tokensieve.core.study.lmms.task import check_included, with_include
from tokensieve.core.study.spec.parts import COPY
from tokensieve.core.study.spec.slurm_options import read_parameters

if TYPE_CHECKING:
    from tokensieve.core.study.running import Study

DEFAULT_PIPELINES = ("fastv", "visionzip", "transprune")
DEFAULT_BUDGETS = ("0.25",)
MOST_CELLS = 100_000
SHORT = "without FILE; repeatable."


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("study")(study)


def study(  # noqa: PLR0913 - one parameter per option
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE.yaml|NAME", help="The study, or a built-in one.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where results go. (default: runs/NAME)")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the cells and what they will cost.")
    ] = False,
    executor: Annotated[ExecutorName, typer.Option(help="Who runs the cells.")] = (
        ExecutorName.LOCAL
    ),
    workers: Annotated[
        int | None,
        number("--workers", 1, 4096, "Processes, actors or jobs. (default: one a device)"),
    ] = None,
    slurm: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Of the Slurm jobs: an option of the file's, or any parameter of submitit; "
            "repeatable.",
        ),
    ] = None,
    model_id: Annotated[
        list[str] | None, typer.Option(metavar="MODEL", help=f"A model, {SHORT}")
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option(help=f"A task, file or lmms-eval:NAME, {SHORT}")
    ] = None,
    lmms_include: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Own lmms-eval tasks, whose code is run: of --task, or of FILE"
        ),
    ] = None,
    pipeline: Annotated[list[str] | None, typer.Option(help=f"A pipeline, {SHORT}")] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(help=f"average=32, 0.25 (share of tokens), flops=0.4, {SHORT}"),
    ] = None,
    samples: Annotated[
        int | None,
        number(
            "--samples", 1, MOST_SAMPLES, "Questions of each task. (default: the file's, or 200)"
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        number("--max-new-tokens", 1, MOST_NEW_TOKENS, "Length of an answer at most."),
    ] = None,
    batch: Annotated[
        int | None,
        number("--batch", 1, MOST_BATCH, "Questions at once."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="Of all models: cpu, cuda, mps.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Of all models.")] = None,
    plugin: Plugins = None,
    yes: Annotated[
        bool, typer.Option("--yes", help=f"Also if there are more than {MOST_CELLS:,} cells.")
    ] = False,
    no_report: Annotated[
        bool, typer.Option("--no-report", help="End with the table, without the HTML report.")
    ] = False,
) -> None:
    """Run models x pipelines x budgets x tasks x seeds; what is there already is not run again.

    Ends with a table and writes the report. Exit code 1 if a cell failed. What stands in FILE.yaml
    can be given by options instead: --model-id, --task, --pipeline and --budget.
    """
    registry = open_registry(plugin)
    file = _built_in(file, registry)
    tasks = task if file else with_include(task, lmms_include)
    lists = {"models": model_id, "tasks": tasks, "pipelines": pipeline, "budgets": budget}
    source = _document(file, {key: values for key, values in lists.items() if values})
    changes = {"samples": samples, "max_new_tokens": max_new_tokens, "batch": batch}
    _change(source, changes, {"device": device, "dtype": dtype})
    most = None if yes else MOST_CELLS
    chosen = _read(source, file, registry, plugin or (), lmms_include, most)
    options = read_parameters(slurm or ())
    if options and executor is not ExecutorName.SLURM:
        raise StudyError("--slurm is for --executor slurm: give both")
    folder = out or Path("runs") / chosen.spec.name
    from tokensieve.core.cli import study_report

    if dry_run:
        study_report.print_plan(chosen, folder, registry)
        return
    _check_folder(folder, file)
    advise(f"the same command goes on where it was ({shorten(str(folder))})")
    failed = study_report.run_with_progress(chosen, folder, executor, workers, options)
    written = no_report or study_report.report(folder)
    if failed or not written:
        raise typer.Exit(1)


def _check_folder(folder: Path, file: Path | None) -> None:
    """Refuse a folder where the study's own file would be replaced."""
    copy = folder / COPY
    if file is not None and os.path.exists(copy) and os.path.samefile(copy, file):
        raise StudyError(f"--out {folder}: {file} would be replaced there: choose another folder")


def _built_in(file: Path | None, registry: Registry) -> Path | None:
    """The file of a registered study, where there is no file of that name."""
    if file is None or os.path.exists(file) or file.suffix:
        return file
    found: Path = registry.get("study", str(file))
    return found


def _document(file: Path | None, lists: dict[str, Any]) -> Source:
    """The study as plain data, from its file or from the options."""
    if file is not None:
        if lists:
            raise StudyError("give a FILE.yaml, or --model-id, --task, --pipeline and --budget")
        source = read_yaml(file)
        if isinstance(source.data, dict):
            source.data.setdefault("name", file.stem)
        return source
    for key, option in (("models", "--model-id"), ("tasks", "--task")):
        if key not in lists:
            raise StudyError(f"{option} is missing: give a FILE.yaml, or --model-id and --task")
    budgets = [parse_keep(text, "--budget") for text in lists.get("budgets", DEFAULT_BUDGETS)]
    data = {"name": "study", "pipelines": list(DEFAULT_PIPELINES), **lists, "budgets": budgets}
    return Source("<options>", data)


def _change(source: Source, changes: dict[str, Any], of_models: dict[str, Any]) -> None:
    """Let the options have the last word."""
    data = source.data
    if not isinstance(data, dict):
        return
    data.update({key: value for key, value in changes.items() if value is not None})
    given = {key: value for key, value in of_models.items() if value is not None}
    models = data.get("models")
    if given and models is not None:
        listed = models if isinstance(models, list) else [models]
        data["models"] = [
            {**(entry if isinstance(entry, dict) else {"model": entry}), **given}
            for entry in listed
        ]


def _read(
    source: Source,
    file: Path | None,
    registry: Registry,
    plugins: Sequence[Path],
    include: Path | None,
    most: int | None,
) -> Study:
    """The study, validated, and its cells: no more than ``most``."""
    from tokensieve.core.study.plan.cells import plan
    from tokensieve.core.study.running import Study
    from tokensieve.core.study.spec.study import read_study

    document = source.data
    spec = read_study(source, registry, file.parent if file else Path())
    check_included((entry.task for entry in spec.tasks), include)
    for model in spec.models:
        only_local(locate(model.model, registry))  # before tasks bring their libraries
    with waiting("planning"):
        return Study(spec, plan(spec, registry, plugins, most=most), document)
