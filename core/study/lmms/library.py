"""lmms-eval itself: import it without its noise, find a task of it, turn its errors into a line."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import warnings
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokensieve.core.errors import TaskError, TokensieveError, did_you_mean
from tokensieve.core.plugins.files import BREAKAGE
from tokensieve.core.study.lmms.manifest import MODEL

PACKAGE = "lmms_eval"
REACHED_INTO = "filelock._api"
"""A private module without which lmms-eval 0.7.3 evaluates nothing; filelock 4.3 has none."""
GENERATED = ("generate_until", "generate_until_multi_round", "generate_until_agentic")
RATED = ("multiple_choice", "loglikelihood")
UNREACHABLE = frozenset({
    "OfflineModeIsEnabled", "LocalEntryNotFoundError", "ConnectError", "ProxyError",
    "ConnectionError", "HfHubHTTPError", "DatasetNotFoundError", "TransportError",
})  # fmt: skip
"""Classes of errors of data that is not here: the commonest reason, and the least clear."""
DEFINITIONS = (".yaml", ".yml", ".py", ".json", ".txt", "")
"""Files that define a task and its scorer; templates of lmms-eval have no suffix."""


def need_lmms() -> None:
    """Raise a line of advice if lmms-eval is not installed or cannot run; it is not imported."""
    if find_spec(PACKAGE) is None:
        raise TaskError("lmms-eval tasks need lmms_eval: pip install 'tokensieve[lmms]'")
    if find_spec(REACHED_INTO) is None:
        found = version("filelock")
        raise TaskError(
            f"lmms-eval does not run with filelock {found}: pip install 'tokensieve[lmms]' "
            "(it brings an older one)"
        )


def installed_version() -> str:
    """The version of lmms-eval that is installed."""
    return version(PACKAGE)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what lmms-eval prints, logs and warns of off the screen; exceptions say the rest."""
    with warnings.catch_warnings(), contextlib.ExitStack() as stack:
        warnings.simplefilter("ignore")
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        yield


def module(name: str) -> Any:
    """A module of lmms-eval, whose logger then writes nowhere (by default: to stdout)."""
    need_lmms()
    try:
        with quiet():
            found = importlib.import_module(f"{PACKAGE}.{name}")
            importlib.import_module("loguru").logger.remove()
    except ImportError as error:
        reason = str(error).splitlines()[0]
        raise TaskError(f"lmms-eval cannot be imported: {reason}") from error
    return found


@lru_cache(maxsize=8)
def load_benchmark(name: str, include: Path | None) -> Any:
    """lmms-eval's task object, with its data. Tasks of ``include`` come before packaged ones.

    Raises:
        TaskError: there is no such task, it is a group, or its data cannot be had.
    """
    where = f"task 'lmms-eval:{name}'"
    manager = manager_of(include)
    if include is None or name not in manager.task_index:
        manager = manager_of(None)
    entry = manager.task_index.get(name)
    if entry is None:
        known = {*manager.all_tasks, *(manager_of(include).all_tasks if include else ())}
        hint = did_you_mean(name, known).partition(", allowed:")[0]  # the list is far too long
        more = f"`lmms-eval tasks list` shows all {len(known)}"
        raise TaskError(f"{where}: lmms-eval has no such task{hint} ({more})")
    if entry["type"] in ("group", "tag"):
        listed = entry["task"] if entry["type"] == "tag" else manager._get_config(name)["task"]
        names = [one["task"] if isinstance(one, dict) else str(one) for one in listed]
        parts = ", ".join(f"lmms-eval:{one}" for one in names)
        raise TaskError(f"{where} is a {entry['type']}: name its tasks instead: {parts}")
    with one_line(where):
        config = manager._get_config(name)
        output = config.get("output_type", getattr(config.get("class"), "OUTPUT_TYPE", ""))
        kind = "simple" if output in RATED else "chat"
        with quiet():
            task = manager.load_task_or_group([name], kind)[name]
    if task.OUTPUT_TYPE not in (*GENERATED, *RATED):
        allowed = ", ".join((*GENERATED, *RATED))
        raise TaskError(
            f"{where}: output type {task.OUTPUT_TYPE!r} is not supported, allowed: {allowed}"
        )
    return task


@lru_cache(maxsize=8)
def manager_of(include: Path | None) -> Any:
    """The index of packaged tasks, or of those of a folder; no code of either is run for it."""
    tasks = module("tasks")
    with one_line(f"lmms-eval tasks in {include or PACKAGE}"), quiet():
        paths = None if include is None else [str(include)]
        return tasks.TaskManager("ERROR", paths, include_defaults=not paths, model_name=MODEL)


@contextlib.contextmanager
def one_line(where: str) -> Iterator[None]:
    """Turn what a task's definition or data raises into one line."""
    try:
        yield
    except TokensieveError:
        raise
    except BREAKAGE as error:
        inner = cause(error)
        text = str(inner).strip()
        advice = f"{type(inner).__name__}: {text.splitlines()[0] if text else 'no message'}"
        kinds = {kind.__name__ for kind in type(inner).__mro__}
        if isinstance(inner, ModuleNotFoundError):
            advice = f"it needs {inner.name}, which is not installed"
        elif isinstance(inner, ConnectionError | TimeoutError) or kinds & UNREACHABLE:
            advice = f"its data is not here and cannot be downloaded ({advice})"
        raise TaskError(f"{where} cannot be loaded: {advice}") from inner


def cause(error: BaseException) -> BaseException:
    """The error inside tenacity's ``RetryError``: lmms-eval tries downloads and scorers again."""
    attempt = getattr(error, "last_attempt", None)
    if attempt is None:
        return error
    inner: BaseException | None = attempt.exception()
    return inner or error


def definition_hash(folder: Path) -> str:
    """SHA-256 of the files in ``folder`` that define tasks and score answers."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.suffix in DEFINITIONS and "__pycache__" not in file.parts:
            digest.update(file.relative_to(folder).as_posix().encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()
