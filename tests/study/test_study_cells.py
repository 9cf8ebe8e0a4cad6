"""Running a cell: batches change nothing, refusals are no failures, failures keep a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import Field
from study_helpers import RAISING, study_of

from tokensieve.core.contract.tasks import Example, Task
from tokensieve.core.study.plan.records import PlannedCell
from tokensieve.core.study.work.worker import Worker


@pytest.fixture(scope="module")
def worker() -> Worker:
    return Worker()


def cell_of(name: str, plugins: Any = (), **changes: Any) -> PlannedCell:
    cells = study_of(plugins, **changes).cells
    return next(cell for cell in cells if cell.config["pipeline"]["name"] == name)


@pytest.mark.parametrize("name", ["none", "fastv", "random", "downsample"])
def test_the_batch_changes_no_answer_and_no_choice(name: str, worker: Worker) -> None:
    lines = [worker.run(cell_of(name, batch=batch)).lines["samples.jsonl"] for batch in (1, 4, 6)]
    same = [[line.model_copy(update={"seconds": 0.0}) for line in group] for group in lines]
    assert same[0] == same[1] == same[2]


def test_seeds_draw_other_tokens_and_the_same_seed_the_same(worker: Worker) -> None:
    cells = [c for c in study_of().cells if c.config["pipeline"]["name"] == "random"]
    hashes = [
        tuple(line["kept_hash"] for line in worker.run(cell).lines["samples.jsonl"])
        for cell in (*cells, cells[0])
    ]
    assert len(set(hashes)) == 3
    assert hashes[0] == hashes[-1]
    assert len(set(hashes[0])) == len(hashes[0])


@pytest.mark.parametrize(
    ("stage", "reason"),
    [
        ({"at": 30, "score": "uniform", "keep": 3}, "the model has 10 decoder layers, allowed"),
        ({"at": 0, "score": "ttv", "keep": 3}, "no decoder layer has run yet"),
        ({"at": 9, "score": "uniform", "keep": 3}, "layers before boundary 9 alone cost"),
    ],
)
def test_what_cannot_run_on_the_model_is_unmet_with_the_reason(
    stage: dict[str, Any], reason: str, worker: Worker
) -> None:
    cell = cell_of("odd", pipelines=[{"pipeline": stage, "name": "odd"}])
    result = worker.run(cell)
    assert result.status == "unmet"
    assert reason in result.cell["error"]
    assert result.cell["traceback"] is None
    assert result.lines == {}


def test_what_breaks_is_failed_with_its_traceback(worker: Worker, tmp_path: Path) -> None:
    file = tmp_path / "raising.py"
    file.write_text(RAISING)
    stage = {"at": 1, "score": "raising", "keep": 9}
    cell = cell_of("odd", [file], pipelines=[{"pipeline": stage, "name": "odd"}])
    result = worker.run(cell)
    assert result.status == "failed"
    assert "the scorer has no idea" in result.cell["traceback"]
    assert "at questions 'digits-" in result.cell["traceback"]


class Odd(Task):
    """Five questions; the fourth is what a test makes of it."""

    name = "odd"
    question: str = Field("what?", exclude=True)
    mode: str = Field("RGB", exclude=True)
    value: Any = Field(0, exclude=True)
    verdict: Any = Field(1.0, exclude=True)

    def examples(self, count: int, seed: int) -> list[Example]:
        plain, odd = Image.new("RGB", (96, 96)), Image.new(self.mode, (96, 96), self.value)
        return [
            Example(f"row {n}", (odd if n == 3 else plain,), self.question if n == 3 else "?", "a")
            for n in range(5)
        ]

    def score(self, example: Example, answer: str) -> float:
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return self.verdict if example.id == "row 3" else 0.0


def odd_cell(worker: Worker, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> PlannedCell:
    worker._questions.clear()  # it knows them by their content
    fields: dict[str, Any] = {**Odd.model_validate({}).__dict__, **changes}
    task: Any = Odd.model_construct(None, **fields)
    monkeypatch.setattr("tokensieve.core.study.work.worker._task", lambda cell, registry: task)
    monkeypatch.setattr("tokensieve.core.study.spec.tasks._registered_task", lambda *a: task)
    return cell_of("none", tasks=["odd"], samples=5)


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "half a character": ({"question": "a \ud83d"}, r"ModelError: the question has half"),
    "placeholder": ({"question": "a <image>"}, "the processor refuses this: "),
    "no text": ({"question": None}, "ModelError: the question is no text, but None"),
    "NaN in the picture": ({"mode": "F", "value": float("nan")}, "ModelError: a picture cannot"),
    "score is NaN": ({"verdict": float("nan")}, "task 'odd' scores an answer nan"),
    "score is text": ({"verdict": "yes"}, "task 'odd' scores an answer 'yes'"),
    "score is missing": ({"verdict": None}, "task 'odd' scores an answer None"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_the_question_that_failed_is_named(
    case: str, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, message = MISTAKES[case]
    result = worker.run(odd_cell(worker, monkeypatch, **changes))
    assert result.status == "failed"
    assert message in result.cell["error"]
    assert result.cell["error"].endswith("(at question 'row 3')")
    assert len(result.cell["error"]) < 300


@pytest.mark.parametrize(
    "error",
    [IndexError("list index out of range"), KeyError("pixel_values"), TypeError("a\nb"),
     AttributeError(), StopIteration(), AssertionError("x" * 9999), MemoryError()],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_whatever_a_processor_raises_names_the_question(
    error: Exception, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert worker.run(cell_of("none")).status == "done"  # loads the model
    cell = odd_cell(worker, monkeypatch, question="this one")
    assert worker._loaded is not None
    kind = type(worker._loaded.processor)
    process = kind.__call__

    def fail(self: Any, *arguments: Any, **named: Any) -> Any:
        if any("this one" in text for text in named["text"]):
            raise error
        return process(self, *arguments, **named)

    monkeypatch.setattr(kind, "__call__", fail)
    result = worker.run(cell)
    assert result.status == "failed"
    assert result.cell["error"].startswith("ModelError: model 'tiny-llava': the processor refuses")
    assert result.cell["error"].endswith("(at question 'row 3')")
    assert len(result.cell["error"]) < 400


def test_a_scorer_of_answers_that_raises_names_the_question(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = worker.run(odd_cell(worker, monkeypatch, verdict=KeyError("target")))
    said = result.cell["error"]
    assert "task 'odd' at example 'row 0': KeyError: 'target'" in said
    assert said.endswith("(at question 'row 0')")


def test_pictures_of_a_plugin_are_seen_as_those_of_files(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clear black and 16-bit white look like white."""
    answers = []
    for mode, value in [("RGBA", 0), ("I;16", 65535), ("L", 255)]:
        cell = odd_cell(worker, monkeypatch, mode=mode, value=value)
        answers.append([line["answer"] for line in worker.run(cell).lines["samples.jsonl"]])
    assert answers[0] == answers[1] == answers[2]


class Mixed(Task):
    """Wide and high pictures in turn."""

    name = "mixed"

    def examples(self, count: int, seed: int) -> list[Example]:
        shapes = [(90, 30), (30, 30)]
        images = [Image.linear_gradient("L").resize(shapes[n % 2]) for n in range(count)]
        return [
            Example(str(n), (image.convert("RGB"),), "w7", "w9") for n, image in enumerate(images)
        ]


def test_pictures_that_fit_into_no_common_batch_are_asked_one_by_one(
    worker: Worker, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiles of an InternVL batch have to shrink alike; a number of tokens does not let them."""
    monkeypatch.setattr("tokensieve.core.study.work.worker._task", lambda cell, registry: Mixed())
    monkeypatch.setattr("tokensieve.core.study.spec.tasks._registered_task", lambda *a: Mixed())
    changes = {"models": [str(folders["internvl"])], "tasks": ["mixed"], "samples": 3}
    lines = [
        worker.run(cell_of("downsample", **changes, budgets=[16], batch=batch)).lines
        for batch in (1, 3)
    ]
    assert [line["average_tokens"] for line in lines[0]["samples.jsonl"]] == [
        line["average_tokens"] for line in lines[1]["samples.jsonl"]
    ]
    assert len({line["visual_tokens"] for line in lines[1]["samples.jsonl"]}) == 2
