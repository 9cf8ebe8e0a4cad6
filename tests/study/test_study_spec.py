"""A study's file: what is wrong is said with FILE:LINE:COL; relative paths start at the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from study_helpers import spec_of

from tokensieve.core.errors import PipelineError
from tokensieve.core.plugins.discovery import build_registry
from tokensieve.core.study.spec.study import load_study
from tokensieve.core.study.spec.task_files import FileTask

GOOD = """\
models:
  - tiny-llava
  - {model: org/model, tasks: [few], dtype: bfloat16, device: cuda, attention: sdpa}
pipelines:
  - fastv
  - mine.yaml
  - {pipeline: visionzip, name: zip}
  - {pipeline: {at: 0, score: uniform, keep: 9}, name: inline}
budgets: [{average: 32}, 16, 0.25, {flops: 0.4}]
tasks: [digits, {task: digits, samples: 100, name: few}, questions]
anatomy: {samples: 3, scorers: [ttv, {scorer: iga, rows: all-text}], boundary: 2}
claims: [zip > random, inline > fastv, ttv > iga (rows=all-text)]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.yaml").write_text("at: 0\nscore: uniform\nkeep: 5\n")
    (tmp_path / "questions").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "questions" / "a.png")
    row = {"image": "a.png", "question": "What?", "answer": "yes"}
    (tmp_path / "questions" / "data.jsonl").write_text(json.dumps(row) + "\n")
    return tmp_path


def test_a_good_file_is_read(folder: Path) -> None:
    text = GOOD.replace("questions]", "./questions]")
    (folder / "good.yaml").write_text(text)
    spec = load_study(folder / "good.yaml", build_registry())
    assert spec.name == "good"
    assert [model.title for model in spec.models] == ["tiny-llava", "model"]
    assert [entry.title for entry in spec.pipelines] == ["fastv", "mine", "zip", "inline"]
    assert [str(budget) for budget in spec.budgets] == [
        "{average: 32.0}", "{average: 16.0}", "0.25", "{flops: 0.4}"
    ]  # fmt: skip
    assert [task.title for task in spec.tasks] == ["digits", "few", "questions"]
    assert isinstance(spec.tasks[2].task, FileTask)
    assert spec.tasks[2].task.file == folder / "questions" / "data.jsonl"
    assert [spec.models[0].asked(title) for title in ("digits", "few")] == [True, True]
    assert [spec.models[1].asked(title) for title in ("digits", "few")] == [False, True]
    assert len(spec.claims) == 3
    assert spec.anatomy is not None
    assert spec.anatomy.boundary == 2


LINES = {
    "models: [tiny-lava]": "1:10: models[0]: unknown model 'tiny-lava' (did you mean 'tiny-llava'",
    "models: []": "1:9: models: needs at least one entry",
    "models: [{model: tiny-llava, dtype: half}]": "1:10: models[0]: unknown dtype 'half'",
    "models: [{model: tiny-llava, device: gpu}]": "1:10: models[0]: unknown device 'gpu'",
    "models: [{model: tiny-llava, dvice: cpu}]": "1:30: models[0].dvice: unknown key (did you mean",
    "models: [tiny-llava, tiny-llava]": "1:22: models[1]: 'tiny-llava' is there twice: give one a",
    "pipelines: [fastf]": "1:13: pipelines[0]: unknown pipeline 'fastf' (did you mean 'fastv'?)",
    "pipelines: [fastv, no.yaml]": "1:20: pipelines[1]: no.yaml: cannot be read",
    "pipelines: [bad.yaml]": "1:13: pipelines[0]: ",
    "pipelines: [{pipeline: {at: 0, score: unform}}]": "1:39: pipelines[0].pipeline.score: unknown",
    "pipelines: [{pipeline: {at: 0, score: uniform, kep: 3}}]": "1:48: pipelines[0].pipeline.kep: ",
    "budgets: [{tokens: 32}]": "1:11: budgets[0]: a study's budget holds for the whole decoder",
    "budgets: [0.2, 0.2]": "1:10: budgets: 0.2 is there twice",
    "budgets: [1.5]": "1:11: budgets[0]: impossible budget",
    "tasks: [digts]": "1:9: tasks[0]: unknown task 'digts' (did you mean 'digits'?)",
    "tasks: [{task: needle, side: 100}]": "1:30: tasks[0].side: a side of 100 pixels, allowed: mul",
    "models: [{model: tiny-llava, tasks: [digit]}]": (
        "1:38: models[0].tasks[0]: the study has no task 'digit' (did you mean 'digits'?)"
    ),
    "models: [{model: tiny-llava, tasks: []}]": "1:37: models[0].tasks: needs at least one entry",
    "claims: [uniform > fastv]": "1:10: claims[0]: 'uniform > fastv': the study has no pipeline or",
    "claims: [uniform > none]": "1:10: claims[0]: 'uniform > none': the study has no pipeline or",
    "claims: [uniform > uniform]": "1:10: claims[0]: 'uniform > uniform': two different names wit",
    "claims: [uniform]": "1:10: claims[0]: 'uniform': two different names with > between",
    "tasks: [no/data.jsonl]": "1:9: tasks[0]: ",
    "tasks: [{task: digits, sample: 3}]": "1:24: tasks[0].sample: unknown parameter of 'digits'",
    "tasks: [{file: questions, sample: 3}]": "1:27: tasks[0].sample: unknown key (did you mean",
    "tasks: [3]": "1:9: tasks[0]: a task is a name, a file, or a mapping",
    "samples: 0": "1:10: samples: must be greater than or equal to 1, not 0",
    "seeds: [0, 1]": "1:8: seeds: random pruning needs 3 different seeds at least",
    "seeds: [0, 1, 1]": "1:8: seeds: random pruning needs 3 different seeds",
    "anatomy: {scorers: [tvt]}": "1:21: anatomy.scorers[0]: unknown scorer 'tvt' (did you mean",
    "modles: [tiny-llava]": "1:1: modles: unknown key (did you mean 'models'?)",
}
REST = {
    "models": "[tiny-llava]",
    "budgets": "[{average: 32}]",
    "tasks": "[digits]",
}


@pytest.mark.parametrize("name", ["../over", "a/b", "..", " ", "a\\\\b"])
def test_results_stay_where_studies_are(name: str, folder: Path) -> None:
    text = f'name: "{name}"\nmodels: [tiny-llava]\nbudgets: [9]\ntasks: [digits]\n'
    (folder / "away.yaml").write_text(text)
    with pytest.raises(PipelineError, match=r"away.yaml:1:\d+: name: .*a folder of this name"):
        load_study(folder / "away.yaml", build_registry())


@pytest.mark.parametrize("line", LINES)
def test_a_mistake_is_one_line_with_its_place(line: str, folder: Path) -> None:
    (folder / "bad.yaml").write_text("at: 0\nscore: nothing\nkeep: 5\n")
    rest = {key: value for key, value in REST.items() if not line.startswith(f"{key}:")}
    path = folder / "study.yaml"
    path.write_text("\n".join([line, *(f"{key}: {value}" for key, value in rest.items())]) + "\n")
    with pytest.raises(PipelineError) as caught:
        load_study(path, build_registry())
    (said,) = str(caught.value).splitlines()
    assert said.startswith(f"{path}:{LINES[line]}")


def test_a_claim_is_about_two_of_a_kind() -> None:
    anatomy = {"scorers": ["ttv", "random"]}
    assert spec_of(anatomy=anatomy, claims=["ttv > random", "fastv > random"]).claims
    with pytest.raises(PipelineError, match="'fastv > ttv': one is a pipeline and one a scorer"):
        spec_of(anatomy=anatomy, claims=["fastv > ttv"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "is empty"), ("- a\n", "a study is a mapping"), ("name: [", "not valid YAML")],
)
def test_what_is_no_study_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(PipelineError, match=reason):
        load_study(path, build_registry())


def test_budgets_of_stages_have_no_place_in_a_study() -> None:
    with pytest.raises(PipelineError, match="whole decoder"):
        spec_of(budgets=[{"share": 0.5, "of": "input"}])
