"""Running a study: the numbers are those of a plain run, and what goes wrong stays in its cell."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from study_helpers import RAISING, run_here, study_of

import tokensieve
from tokensieve.core.models.loading import LoadedModel, load_model
from tokensieve.core.plugins.discovery import build_registry
from tokensieve.core.run.asking import answer
from tokensieve.core.run.prompts import VisualQuestion, prepare
from tokensieve.core.study.store.manifest import source_revision
from tokensieve.core.study.store.records import SampleRecord
from tokensieve.core.study.store.store import Cell, Store
from tokensieve.core.study.work.measures import summarize, unmet_reason


def named(cells: list[Cell], pipeline: str) -> Cell:
    return next(cell for cell in cells if cell.config["pipeline"]["name"] == pipeline)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Cell], Path]:
    with pytest.MonkeyPatch.context() as patch:
        out = tmp_path_factory.mktemp("study")
        pipelines = ["fastv", "transprune", "prumerge", "visionzip"]
        cells, _ = run_here(study_of(pipelines=pipelines), out, patch)
        return cells, out


@pytest.mark.parametrize("pipeline", ["none", "fastv", "visionzip", "random"])
def test_records_are_those_of_single_questions(
    pipeline: str, finished: tuple[list[Cell], Path]
) -> None:
    """Six questions in padded batches of four, against one after the other by hand."""
    cell = named(finished[0], pipeline)
    loaded = load_model("tiny-llava", build_registry())
    assert isinstance(loaded, LoadedModel)
    examples = build_registry().get("task", "digits")().examples(6, 0)
    resolved = cell.config["pipeline"]["resolved"]
    for example, record in zip(examples, cell.samples, strict=True):
        inputs = prepare(loaded, VisualQuestion(example.question, example.images))
        with tokensieve.attach(loaded.model, resolved, seed=cell.config["seed"]) as session:
            said = answer(loaded, inputs, 3).text
        layers = session.trace.per_layer[0] if session.trace.per_layer else [144] * 10
        assert (record["id"], record["answer"], record["per_layer"]) == (example.id, said, layers)
        assert record["score"] == float(said == example.answer)
        assert record["visual_tokens"] == 144
        assert record["text_tokens"] == inputs["input_ids"].shape[1] - 144


def test_every_pipeline_stands_at_the_budget_or_is_unmet(
    finished: tuple[list[Cell], Path],
) -> None:
    for cell in finished[0]:
        if cell.config["budget"] is None:
            assert cell.summary["average_tokens"] == 144
        elif cell.status == "done":
            assert 0.85 * 32 <= cell.summary["average_tokens"] <= 1.02 * 32
    unmet = named(finished[0], "prumerge")
    assert unmet.status == "unmet"
    assert "where 32 were asked for (-" in unmet.error
    assert len(unmet.samples) == 6


def test_seeds_draw_other_tokens(finished: tuple[list[Cell], Path]) -> None:
    drawn = [cell for cell in finished[0] if cell.config["pipeline"]["name"] == "random"]
    hashes = [tuple(sample["kept_hash"] for sample in cell.samples) for cell in drawn]
    assert len(hashes) == len(set(hashes)) == 3


def test_the_manifest_says_what_it_ran_on(finished: tuple[list[Cell], Path]) -> None:
    cells, out = finished
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["cells"] == [cell.key for cell in cells]
    assert manifest["seeds"] == [0, 1, 2]
    (start,) = manifest["starts"]
    assert {"torch", "transformers", "tokensieve"} <= set(start["versions"])
    (environment,) = manifest["environments"]
    assert environment["attention"] == "sdpa"
    assert environment["dtype"] == "float32"
    assert environment["device"] == "cpu"
    assert (out / "study.yaml").is_file()


def test_a_second_start_runs_what_is_missing_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = run_here(study_of(), tmp_path, monkeypatch)
    (first[2].path / "samples.jsonl").write_text("")
    cells, heard = run_here(study_of(budgets=[32, 40]), tmp_path, monkeypatch)
    assert len(heard.there) == len(first) - 1
    assert first[2].key in [cell.key for cell in heard.pending]
    assert any(first[2].key in line and "run again" in line for line in heard.said)
    assert all(heard.ticks[cell.key] == 6 for cell in heard.pending)
    assert len(cells) == len(first) + 6
    assert len(json.loads((tmp_path / "manifest.json").read_text())["starts"]) == 2


def test_an_exception_stays_in_its_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = tmp_path / "raising.py"
    plugin.write_text(RAISING)
    mine = {"pipeline": {"at": 1, "score": "raising", "keep": 9}, "name": "mine"}
    study = study_of([plugin], pipelines=[mine, "fastv"])
    cells, _ = run_here(study, tmp_path / "out", monkeypatch)
    failed = named(cells, "mine")
    assert failed.status == "failed"
    assert f"plugin '{plugin}', scorer 'raising' at stage 1, boundary 1: " in failed.error
    assert failed.error.endswith("RuntimeError: the scorer has no idea")
    assert "raising.py" in failed.data["traceback"]
    assert not failed.summary
    assert failed.samples == []
    assert named(cells, "fastv").status == "done"


def test_an_impossible_budget_is_unmet_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells, _ = run_here(study_of(budgets=[10]), tmp_path, monkeypatch)
    cell = named(cells, "fastv")
    assert cell.status == "unmet"
    assert "is impossible for an image of 144 tokens" in cell.error
    assert cell.samples == []


def test_a_task_without_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = build_registry().get("task", "digits")().examples(1, 0)
    example.images[0].save(tmp_path / "a.png")
    Image.new("RGB", (96, 96)).save(tmp_path / "b.png")
    rows = [
        {"image": "a.png", "question": example.question, "answers": [example.answer, "x"]},
        {"images": ["a.png", "b.png"], "question": example.question, "answer": "x"},
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    study = study_of(tasks=[str(tmp_path / "data.jsonl")], pipelines=[])
    cells, _ = run_here(study, tmp_path / "out", monkeypatch)
    assert {cell.status for cell in cells} == {"done"}
    samples = {sample["id"]: sample for sample in named(cells, "uniform").samples}
    assert samples["1"]["per_layer"] == [64] * 10  # two pictures, each at its budget
    untouched = {sample["id"]: sample for sample in named(cells, "none").samples}
    assert untouched["0"]["score"] == 1


def test_anatomy_is_a_cell_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = study_of(
        pipelines=[], anatomy={"samples": 1, "scorers": ["ttv", "random"], "boundary": 2}
    )
    cells, _ = run_here(study, tmp_path, monkeypatch)
    (cell,) = [cell for cell in cells if cell.config["kind"] == "anatomy"]
    assert cell.status == "done", cell.error
    (record,) = cell.anatomy
    assert len(record["loo"]) == len(record["relevant"]) == 144
    assert set(record["scores"]) == {"ttv", "random"}


def record(**changes: Any) -> dict[str, Any]:
    facts = {"score": 1.0, "images": 1, "visual_tokens": 100, "average_tokens": 50.0}
    return {**facts, "flops_share": 0.5, **changes}


@pytest.mark.parametrize(
    ("budget", "change", "met"),
    [
        ({"average": 50}, {}, True),
        ({"average": 50}, {"average_tokens": 51.1}, False),
        ({"average": 50}, {"average_tokens": 50.9}, True),
        ({"average": 50}, {"average_tokens": 42.6}, True),
        ({"average": 50}, {"average_tokens": 42.4}, False),
        ({"average": 25}, {"images": 2}, True),
        ({"average": 200}, {"average_tokens": 100.0}, True),  # the image has no more
        ({"share": 0.5}, {}, True),
        ({"share": 0.4}, {}, False),
        ({"flops": 0.5}, {}, True),
        ({"flops": 0.4}, {}, False),
        (None, {}, True),
    ],
)
def test_a_budget_is_met_within_two_percent_above_and_fifteen_below(
    budget: dict[str, float] | None, change: dict[str, Any], met: bool
) -> None:
    summary = summarize([SampleRecord(id="0", **record(**change))], budget)
    assert (unmet_reason(summary, budget) is None) == met


def test_the_report_reads_what_was_written(finished: tuple[list[Cell], Path]) -> None:
    cells, out = finished
    assert [cell.key for cell in Store(out).cells()] == [cell.key for cell in cells]
    assert all(cell.config["kind"] == "accuracy" for cell in cells)


def git(folder: Path, *command: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(
        ["git", "-C", str(folder), *identity, *command], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_revision_is_that_of_the_package_and_nobody_elses(tmp_path: Path) -> None:
    file = tmp_path / "core/study/store/manifest.py"
    file.parent.mkdir(parents=True)
    file.write_text("")
    assert source_revision(file) is None
    git(tmp_path, "init", "-q")
    (tmp_path / "readme").write_text("")
    git(tmp_path, "add", "readme")
    git(tmp_path, "commit", "-qm", "somebody's own project")
    assert source_revision(file) is None  # installed into it, not tracked
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "all")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert source_revision(file) == head
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/cell.json").write_text("")
    assert source_revision(file) == head
    (file.parent / "new.py").write_text("")
    assert source_revision(file) == f"{head}-dirty"


@pytest.mark.parametrize("text", ["", "[]", '{"starts": 3, "environments": null}', "{"])
def test_a_spoilt_manifest_stops_nothing(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "manifest.json").write_text(text)
    study = replace(study_of(), cells=study_of().cells[:1])
    run_here(study, tmp_path, monkeypatch)
    assert len(json.loads((tmp_path / "manifest.json").read_text())["starts"]) == 1
