"""Classifiers in a study: the names that they can answer with, and what they cannot be asked."""

from __future__ import annotations

from collections.abc import Sequence

from tokensieve.core.contract.tasks import Example
from tokensieve.core.errors import StudyError
from tokensieve.core.gate.tasks import asked_score
from tokensieve.core.models.binding import find_adapter
from tokensieve.core.models.finding import load_config
from tokensieve.core.models.loading import class_names
from tokensieve.core.plugins.registry import Registry
from tokensieve.core.study.plan.identity import light_config
from tokensieve.core.study.spec.study import ModelSpec
from tokensieve.core.study.spec.tasks import TaskSpec

SHOWN = 3  # classes that an error names


def classes_of(spec: ModelSpec, registry: Registry) -> tuple[str, ...]:
    """The names of a classifier's classes; none of a model that answers in words."""
    config = light_config(spec, registry)
    if find_adapter(config, registry).answers_questions:
        return ()
    named = getattr(config, "label_names", None)
    return tuple(map(str, named)) if named else class_names(load_config(spec.model, registry))


def check_answerable(
    model: ModelSpec, classes: Sequence[str], task: TaskSpec, examples: Sequence[Example]
) -> None:
    """Refuse a task that a classifier cannot answer: it would look like a bad model.

    Raises:
        StudyError: some questions are right with none of its classes.
    """
    hopeless = [
        one
        for one in examples
        if not any(asked_score(task.task, one, name) > 0 for name in classes)
    ]
    if classes and hopeless:
        first = hopeless[0]
        shown = ", ".join([*classes[:SHOWN], *(["..."] if len(classes) > SHOWN else [])])
        raise StudyError(
            f"model {model.title!r} is a classifier: none of its {len(classes)} classes ({shown}) "
            f"answers {len(hopeless)} of {len(examples)} questions of task {task.title!r}, such as "
            f"{first.question!r} ({first.answer!r}): give the model `tasks`, those it can answer"
        )
