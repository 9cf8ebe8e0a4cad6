"""Benchmarks run by lmms-eval itself, offline: local pictures, its own and packaged scorers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import Call, one_line
from study_helpers import RAISING, study_of

pytest.importorskip("lmms_eval", reason="pip install 'tokensieve[lmms]'")

import lmms_tasks

from tokensieve.adapters.zoo.study_tasks import DigitsTask
from tokensieve.core.study.lmms import library
from tokensieve.core.study.lmms.task import LmmsTask
from tokensieve.core.study.store.store import Cell, Store
from tokensieve.core.study.work.worker import Worker

COUNT = 24
SAME = ("answer", "expected", "score", "visual_tokens", "per_layer", "kept_hash", "flops_share")


@pytest.fixture(scope="session", autouse=True)
def _offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No download, no waiting between lmms-eval's attempts, no traces in the user's caches."""
    cache = tmp_path_factory.mktemp("datasets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMMS_EVAL_DATASETS_CACHE", str(cache))
        patch.setenv("HF_HUB_OFFLINE", "1")
        library.module("evaluator")
        import datasets
        import huggingface_hub.constants
        import tenacity.nap

        datasets.disable_progress_bars()
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True, raising=False)
        patch.setattr(tenacity.nap.time, "sleep", lambda seconds: None)
        yield


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory, _offline: None) -> Path:
    return lmms_tasks.digits_folder(tmp_path_factory.mktemp("digits"), COUNT)


@pytest.fixture(scope="session")
def yes_no(tmp_path_factory: pytest.TempPathFactory, _offline: None) -> Path:
    folder = tmp_path_factory.mktemp("pope")
    return lmms_tasks.pope_folder(folder, lmms_tasks.yes_no_examples(COUNT))


Run = Callable[..., dict[str, dict[str, Cell]]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a study in this process; cells by task and pipeline (of random pruning: seed 0)."""

    def run(folder: Path, *names: str, also: Any = (), **changes: Any) -> Any:
        tasks = [{"task": f"lmms-eval:{name}", "include": str(folder)} for name in names]
        study = study_of(tasks=[*tasks, *also], **{"samples": COUNT, **changes})
        store, worker = Store(tmp_path / "run"), Worker()
        for planned in study.cells:
            store.write(worker.run(planned))
        found: dict[str, dict[str, Cell]] = {}
        for cell in store.cells():
            if cell.config["seed"] == 0:
                place = found.setdefault(cell.config["task"]["name"], {})
                place[cell.config["pipeline"]["name"]] = cell
        return found

    return run


def test_a_benchmark_gives_what_the_same_questions_give_as_a_task(digits: Path, run: Run) -> None:
    found = run(digits, "local_digits", also=["digits"])
    assert set(found["digits"]) == {"none", "random", "uniform", "downsample", "fastv"}
    for pipeline, own in found["digits"].items():
        cell = found["local_digits"][pipeline]
        assert cell.status == own.status
        for theirs, ours in zip(cell.samples, own.samples, strict=True):
            assert [theirs[key] for key in SAME] == [ours[key] for key in SAME]
        assert [s["id"] for s in cell.samples] == [str(number) for number in range(COUNT)]
        assert cell.summary["accuracy"] == own.summary["accuracy"]
        assert cell.summary["metrics"] == {"right,none": pytest.approx(own.summary["accuracy"])}
        assert (cell.summary["metric"], "note" in cell.summary) == ("right", False)
    accuracies = [found["digits"][name].summary["accuracy"] for name in ("none", "random")]
    assert accuracies[0] > accuracies[1]


def test_packaged_pope_scores_local_pictures(yes_no: Path, run: Run) -> None:
    """Its F1 is of the corpus: it stands beside the score per question, which is its accuracy."""
    found = run(yes_no, "local_pope")["local_pope"]
    for cell in found.values():
        answers = [(s["answer"].lower(), s["expected"]) for s in cell.samples]
        accuracy = sum(one == other for one, other in answers) / COUNT
        hits = sum(pair == ("yes", "yes") for pair in answers)
        said, meant = (sum(pair[side] == "yes" for pair in answers) for side in (0, 1))
        metrics = cell.summary["metrics"]
        assert cell.summary["accuracy"] == metrics["pope_accuracy,none"] == pytest.approx(accuracy)
        assert metrics["pope_f1_score,none"] == pytest.approx(2 * hits / (said + meant))
        assert cell.summary["metric"] == "pope_accuracy"
    assert found["none"].summary["accuracy"] > 0.8
    assert {s["expected"] for s in found["none"].samples} == {"yes", "no"}


def test_choices_are_rated_on_pruned_models(yes_no: Path, run: Run) -> None:
    """Of two words the likelier one is the greedy answer, which is what POPE scores."""
    found = run(yes_no, "local_pope", "local_choices")
    for pipeline, cell in found["local_choices"].items():
        assert cell.status == "done", cell.data["traceback"]
        pope = found["local_pope"][pipeline]
        said = [s["answer"].lower() for s in pope.samples]
        assert set(said) <= {"yes", "no"}
        assert [s["score"] for s in cell.samples] == [s["score"] for s in pope.samples]
        assert [s["answer"] for s in cell.samples] == [f"choice {int(a == 'no')}" for a in said]
        for one, other in zip(cell.samples, pope.samples, strict=True):
            assert one["kept_hash"] == other["kept_hash"]
            assert one["per_layer"] == other["per_layer"]


def test_rounds_and_several_pictures(tmp_path: Path, run: Run) -> None:
    """Three pictures in the first round, one in the second: a budget is per picture."""
    from dataclasses import replace

    examples = DigitsTask().examples(6, 0)
    more = tuple(example.images[0] for example in examples[:2])
    examples = [replace(one, images=(*one.images, *more)) for one in examples]
    folder = lmms_tasks.rounds_folder(tmp_path / "tasks", examples)
    found = run(folder, "two_rounds", samples=6)["two_rounds"]
    for pipeline, cell in found.items():
        assert cell.status == "done", cell.error
        for sample in cell.samples:
            assert (sample["rounds"], sample["images"]) == (2, 4)
            assert sample["visual_tokens"] == 4 * 144
            assert pipeline == "none" or sample["average_tokens"] <= 4 * 32
            assert "rounds" in sample
        assert cell.summary["metric"] == "right"


def test_sampled_answers_are_drawn_from_the_cells_seed(digits: Path) -> None:
    task = {"task": "lmms-eval:sampled", "include": str(digits)}
    study = study_of(tasks=[task, {**task, "task": "lmms-eval:local_digits"}], samples=8)
    worker = Worker()
    answers = []
    for cell in [study.cells[0], study.cells[0], *study.cells]:
        if cell.config["pipeline"]["name"] == "none":
            result = worker.run(cell)
            answers.append([sample["answer"] for sample in result.lines["samples.jsonl"]])
            ignored = result.cell["summary"].get("ignored_generation_arguments")
            assert ignored == (["image_grid"] if "sampled" in cell.title else None)
    assert answers[0] == answers[1] == answers[2]
    assert answers[3] != answers[0]


def test_anatomy_looks_at_benchmarks_too(digits: Path) -> None:
    task = {"task": "lmms-eval:local_digits", "include": str(digits)}
    anatomy = {"samples": 1, "scorers": ["attention"], "boundary": 4}
    (cell,) = (
        cell
        for cell in study_of(tasks=[task], samples=2, anatomy=anatomy).cells
        if cell.config["kind"] == "anatomy"
    )
    result = Worker().run(cell)
    assert result.status == "done", result.cell["traceback"]
    (record,) = result.lines["anatomy.jsonl"]
    assert record["id"] == "0"


def test_what_goes_wrong_is_a_failed_cell(digits: Path, run: Run) -> None:
    found = run(digits, "broken_scorer", "corpus_only", "local_digits", samples=2)
    for cell in found["broken_scorer"].values():
        assert cell.status == "failed" and not cell.summary and not cell.samples
        assert cell.error == "RuntimeError: the scorer has no idea"
        assert "no_idea" in cell.data["traceback"]
    for cell in found["corpus_only"].values():
        assert cell.status == "failed" and not cell.summary
        assert "no metric of it gives a number per question" in cell.error
        assert "f1 (" in cell.error
    assert {cell.status for cell in found["local_digits"].values()} == {"done"}


def test_an_error_in_the_model_is_a_failed_cell(digits: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "raising.py").write_text(RAISING)
    found = run(
        digits,
        "local_digits",
        samples=2,
        plugins=[tmp_path / "raising.py"],
        pipelines=[
            {"pipeline": {"stages": [{"at": 0, "score": "raising", "keep": 9}]}, "name": "bad"}
        ],
    )["local_digits"]
    assert found["bad"].status == "failed"
    assert "the scorer has no idea" in found["bad"].error
    assert {c.status for name, c in found.items() if name != "bad"} == {"done"}


def test_the_program_exits_with_1_and_the_report_reads_the_rest(digits: Path, call: Call) -> None:
    common = ["--model-id", "tiny-llava", "--budget", "average=32", "--samples", "4"]
    tasks = ["--task", "lmms-eval:local_digits", "--task", "lmms-eval:broken_scorer"]
    place = ["--lmms-include", digits, "--pipeline", "fastv", "--workers", "1", "--out", "run"]
    result = call("study", *common, *tasks, *place)
    assert result.code == 1
    assert "RuntimeError: the scorer has no idea" in result.err
    assert "local_digits" in result.out
    assert call("report", "run").code == 0
    text = next(Path("run").rglob("*.md")).read_text()
    assert "local_digits" in text


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("local_digit", ["no such task (did you mean 'local_digits'?)", "lmms-eval tasks list"]),
        ("some_digits", ["is a tag: name its tasks instead: lmms-eval:tagged"]),
        ("drawn", ["output type 'generate_visual_cot' is not supported, allowed: generate_until"]),
        ("gqa", ["its data is not here and cannot be downloaded"]),
        ("pope_full", ["is a group", "lmms-eval:pope_adv, lmms-eval:pope_pop"]),
    ],
)
def test_what_cannot_be_run_is_one_line(
    name: str, parts: list[str], digits: Path, call: Call
) -> None:
    arguments = ["--model-id", "tiny-llava", "--task", f"lmms-eval:{name}", "--dry-run"]
    result = call("study", *arguments, "--lmms-include", digits)
    one_line(result, *parts)


def test_code_of_a_folder_runs_only_where_it_is_named(digits: Path, call: Call) -> None:
    result = call("study", "--model-id", "tiny-llava", "--task", "lmms-eval:local_digits")
    one_line(result, "no such task")


def test_the_examples_are_the_first_documents(digits: Path) -> None:
    task = LmmsTask(benchmark="local_digits", include=digits)
    few, all_of_them = task.examples(3, 0), task.examples(1000, 0)
    assert [example.id for example in few] == ["0", "1", "2"]
    assert len(all_of_them) == COUNT
    own = DigitsTask().examples(COUNT, 0)
    for theirs, ours in zip(all_of_them, own, strict=True):
        assert (theirs.question, theirs.answer) == (ours.question, ours.answer)
        assert theirs.images[0].tobytes() == ours.images[0].tobytes()


def lmms_eval(folder: Path, task: str, arguments: str) -> subprocess.CompletedProcess[str]:
    """lmms-eval's own command line."""
    command = [sys.executable, "-m", "lmms_eval", "--model", "tokensieve", "--model_args"]
    rest = ["--tasks", task, "--include_path", str(folder), "--limit", "6", "--batch_size", "4"]
    output = ["--log_samples", "--output_path", str(folder / "out")]
    return subprocess.run(
        [*command, arguments, *rest, *output],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,  # where no other metadata of this project lies
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"},
    )


def test_lmms_evals_own_command_line_finds_the_model(digits: Path, run: Run) -> None:
    done = lmms_eval(digits, "local_digits", "pretrained=tiny-llava,pipeline=fastv,keep=average=32")
    assert done.returncode == 0, done.stderr
    assert "fastv: 32.0 of 144.0 visual tokens per decoder layer" in done.stderr
    (log,) = (digits / "out").rglob("*samples_local_digits.jsonl")
    logged = [json.loads(line) for line in log.read_text().splitlines()]
    own = run(digits, "local_digits", samples=6)["local_digits"]["fastv"].samples
    scores = {str(line["doc_id"]): float(line["right"]) for line in logged}
    assert scores == {sample["id"]: sample["score"] for sample in own}


def test_lmms_evals_own_command_line_fails_loudly(digits: Path, tmp_path: Path) -> None:
    """lmms-eval itself would print the error and exit with 0."""
    wrong = lmms_eval(digits, "local_digits", "pretrained=tiny-llava,pipeline=fastw")
    assert wrong.returncode == 2
    assert "tokensieve: unknown pipeline 'fastw'" in wrong.stderr
    (tmp_path / "raising.py").write_text(RAISING)
    (tmp_path / "bad.yaml").write_text("name: bad\nstages: [{at: 0, score: raising, keep: 9}]\n")
    arguments = f"pretrained=tiny-llava,pipeline={tmp_path}/bad.yaml,plugins={tmp_path}/raising.py"
    raised = lmms_eval(digits, "local_digits", arguments)
    assert raised.returncode == 1
    assert "the scorer has no idea" in raised.stderr
