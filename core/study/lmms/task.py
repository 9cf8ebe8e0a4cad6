"""A benchmark of lmms-eval as a task of a study: ``lmms-eval:NAME``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from pydantic import Field

from tokensieve.core.contract.tasks import Example, Task
from tokensieve.core.errors import ModelError, TaskError
from tokensieve.core.study.lmms import library
from tokensieve.core.study.lmms.conversation import Conversation, ask, read_conversation
from tokensieve.core.study.lmms.scores import Metrics

PREFIX = "lmms-eval:"
KEYS = ("include", "metric")


class LmmsTask(Task):
    """A benchmark with its own prompts, scorer and aggregation, run by lmms-eval.

    Not a plugin: YAML and the command line write it ``lmms-eval:NAME``.
    """

    name = "lmms-eval"

    benchmark: str = Field(min_length=1, description="lmms-eval's name of the task")
    include: Path | None = Field(default=None, description="folder of tasks of your own")
    metric: str = Field(default="", description="metric that scores a question")

    @property
    def source(self) -> Any:
        """lmms-eval's own task object, with its data."""
        return library.load_benchmark(self.benchmark, self.include)

    def examples(self, count: int, seed: int) -> Sequence[Example]:
        """The first ``count`` documents, as ``lmms-eval --limit`` takes them; nothing is drawn.

        Some benchmarks score neighboring questions together, which a draw would tear apart.
        """
        source, where = self.source, f"task '{PREFIX}{self.benchmark}'"
        with library.one_line(where), library.quiet():
            documents = source.eval_docs
            return [
                self._example(source, number, documents[number], where)
                for number in range(min(count, len(documents)))
            ]

    def _example(self, source: Any, number: int, document: Any, where: str) -> Example:
        """The example of a document."""
        try:
            shown = first_turn(source, document)
        except TaskError as error:
            raise TaskError(f"{where}: question {number} {error}") from None
        except ModelError as error:  # of its pictures
            raise TaskError(f"{where}: question {number}: {error}") from None
        return Example(str(number), shown.images, shown.text, str(source.doc_to_target(document)))

    def score(self, example: Example, answer: str) -> float:
        """Only lmms-eval scores: with the whole document, after its own answer filters."""
        raise TaskError(f"task '{PREFIX}{self.benchmark}' is scored by lmms-eval itself")

    def identity(self) -> dict[str, str]:
        """Facts that results depend on besides the questions; not where the folder is."""
        facts = {"benchmark": self.benchmark, "lmms_eval": library.installed_version()}
        if self.metric:
            facts["metric"] = self.metric
        if self.include is not None:
            facts["definition"] = library.definition_hash(self.include)
        return facts

    def metrics(self) -> Metrics:
        """The metrics of lmms-eval, in the order of the task's definition."""
        source = self.source
        better = source.higher_is_better()
        return Metrics(
            list(source.aggregation()),
            frozenset(name for name, higher in better.items() if not higher),
            source.config.score_key or "score",
            self.metric,
        )


def first_turn(source: Any, document: Any) -> Conversation:
    """The first question to the model; of choices, the one that they answer."""
    if source.OUTPUT_TYPE in library.RATED:
        text = source.fewshot_context(document, source.config.num_fewshot or 0)
    elif source.OUTPUT_TYPE == "generate_until_agentic":
        text = source.doc_to_text(document)
    else:
        return read_conversation(source.doc_to_messages(document))
    return read_conversation(ask(source.doc_to_visual(document) or [], str(text)))


def is_benchmark(value: object) -> TypeGuard[str]:
    """Whether a task is written ``lmms-eval:NAME``."""
    return isinstance(value, str) and value.startswith(PREFIX)


def read_benchmark(given: Mapping[str, object], folder: Path) -> LmmsTask:
    """From ``{task: lmms-eval:NAME, include: DIR, metric: NAME}``; ``folder`` holds the study.

    Raises:
        TaskError: lmms-eval is not installed, or the folder is not there.
    """
    library.need_lmms()
    include = None
    if given.get("include") is not None:
        include = (folder / Path(str(given["include"])).expanduser()).resolve()
        if not include.is_dir():
            raise TaskError(f"include: there is no folder {include}")
    return LmmsTask(
        benchmark=str(given["task"]).removeprefix(PREFIX),
        include=include,
        metric=str(given.get("metric", "")),
    )


def with_include(
    tasks: Sequence[str] | None, folder: Path | None
) -> list[str | dict[str, str]] | None:
    """The command line's tasks, those of lmms-eval with the folder where to look for them."""
    if folder is None:
        return None if tasks is None else list(tasks)
    if not any(map(is_benchmark, tasks or ())):
        raise TaskError(f"--lmms-include {folder}: is for --task {PREFIX}NAME")
    return [
        {"task": task, "include": str(folder)} if is_benchmark(task) else task
        for task in tasks or ()
    ]


def check_included(tasks: Iterable[Task], allowed: Path | None) -> None:
    """Refuse a folder of code that only a file names: whoever runs a study names it too.

    Raises:
        TaskError: with the option that does so.
    """
    for task in tasks:
        if not isinstance(task, LmmsTask) or task.include is None:
            continue
        if allowed is None or task.include != allowed.resolve():
            raise TaskError(
                f"task '{PREFIX}{task.benchmark}': the code in {task.include} would be run: if you "
                f"trust it, name it yourself by --lmms-include {task.include}"
            )
