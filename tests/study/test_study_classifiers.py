"""Classifiers in a study: the fourth column. Their answers are classes, their cost is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from study_helpers import run_here, study_of
from timm_models import oracle_logits

from tokensieve.adapters.zoo import tiny_timm
from tokensieve.core.contract.tasks import Example
from tokensieve.core.errors import ModelError, StudyError
from tokensieve.core.models.loading import LoadedClassifier, class_names, load_model
from tokensieve.core.pipeline.flops import decoder_flops
from tokensieve.core.plugins.discovery import build_registry
from tokensieve.core.study.work.study_models import ClassifierModel
from tokensieve.core.study.work.token_attribution import examine, read_terms
from tokensieve.core.study.work.worker import Worker

REGISTRY = build_registry()
NAME = tiny_timm.NAME
CLS: dict[str, Any] = {"pipeline": {"at": 2, "score": "cls-attention", "keep": 0.5}, "name": "cls"}
CLASSIFIER: dict[str, Any] = {
    "models": [NAME],
    "tasks": [{"task": "digit", "samples": 10}],
    "pipelines": [CLS],
    "budgets": [0.5],
}


def cell_of(study: Any, name: str) -> Any:
    return next(cell for cell in study.cells if f"/ {name} /" in cell.title)


@pytest.fixture(scope="module")
def worker() -> Worker:
    return Worker()


@pytest.fixture(scope="module")
def loaded() -> LoadedClassifier:
    found = load_model(NAME, REGISTRY)
    assert isinstance(found, LoadedClassifier)
    return found


def scenes(count: int) -> tuple[torch.Tensor, list[str]]:
    drawn = [tiny_timm.make_scene("heldout", index) for index in range(count)]
    return tiny_timm.pixels([scene.image for scene in drawn]), [str(s.digit) for s in drawn]


def test_answers_are_the_likeliest_classes(worker: Worker) -> None:
    lines = worker.run(cell_of(study_of(**CLASSIFIER), "none")).lines["samples.jsonl"]
    batch, truth = scenes(10)
    with torch.no_grad():
        said = [str(number) for number in tiny_timm.load_model()(batch).argmax(dim=-1).tolist()]
    assert [line["answer"] for line in lines] == said
    assert [line["score"] for line in lines] == [
        float(one == other) for one, other in zip(said, truth, strict=True)
    ]
    assert [line["per_layer"] for line in lines] == [[64] * 8] * 10
    assert {line["text_tokens"] for line in lines} == {1}


def test_cost_is_that_of_the_blocks(worker: Worker, loaded: LoadedClassifier) -> None:
    result = worker.run(cell_of(study_of(**CLASSIFIER), "cls"))
    assert result.status == "done"
    for line in result.lines["samples.jsonl"]:
        layers = [64, 64, *[21] * 6]
        assert line["per_layer"] == layers
        assert line["average_tokens"] == sum(layers) / 8
        full = decoder_flops([64] * 8, loaded.bound.dims)
        assert line["flops_share"] == decoder_flops(layers, loaded.bound.dims) / full


def test_every_cell_is_done_or_says_why_it_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = {"pipeline": {"at": 6, "score": "cls-attention", "keep": 0.5}, "name": "late"}
    tome = {"pipeline": {**CLS["pipeline"], "merge": "tome"}, "name": "tome"}
    pipelines = [CLS, late, tome, "fastv", "visionzip", "transprune", "divprune"]
    study = study_of(**{**CLASSIFIER, "pipelines": pipelines, "claims": ["cls > random"]})
    cells, _ = run_here(study, tmp_path, monkeypatch)
    found = {cell.config["pipeline"]["name"]: cell for cell in cells}
    status = {name: cell.status for name, cell in found.items()}
    assert status == {
        **dict.fromkeys(["none", "random", "uniform", "downsample", "cls", "fastv"], "done"),
        **dict.fromkeys(["divprune", "tome"], "done"),
        **dict.fromkeys(["late", "visionzip", "transprune"], "unmet"),
    }
    assert "layers before boundary 6 alone cost" in found["late"].error
    assert "a classifier has no projector" in found["visionzip"].error
    assert "'iga' needs next_attention" in found["transprune"].error
    assert all(cell.config["versions"]["timm"] for cell in cells)
    assert found["downsample"].samples[0]["per_layer"] == [30] * 8  # 5 x 6 patches of 8 x 8


def test_the_unit_of_a_missed_budget_is_the_encoders(worker: Worker) -> None:
    few = {"selector": "threshold", "rule": "absolute", "value": 5}
    adaptive = {"at": 1, "score": "cls-attention", "select": few}
    study = study_of(
        **{**CLASSIFIER, "pipelines": [{"pipeline": adaptive, "name": "all"}], "budgets": [0.25]}
    )
    result = worker.run(cell_of(study, "all"))
    assert result.status == "unmet"
    assert "visual tokens per encoder block where 16 were asked for" in result.cell["error"]


def test_a_task_that_a_classifier_cannot_answer_is_refused() -> None:
    models = ["tiny-llava", NAME]
    with pytest.raises(StudyError) as caught:
        study_of(**{**CLASSIFIER, "models": models, "tasks": [{"task": "digits", "samples": 8}]})
    (line,) = str(caught.value).splitlines()
    assert f"model '{NAME}' is a classifier: none of its 10 classes (0, 1, 2, ...)" in line
    assert "questions of task 'digits', such as" in line


def test_a_model_is_asked_its_own_tasks_only() -> None:
    study = study_of(
        models=[{"model": "tiny-llava", "tasks": "digits"}, {"model": NAME, "tasks": ["digit"]}],
        tasks=[{"task": "digits", "samples": 4}, {"task": "digit", "samples": 4}],
        anatomy={"scorers": ["random"], "samples": 1},
    )
    asked = {(cell.config["model"]["name"], cell.config["task"]["name"]) for cell in study.cells}
    assert asked == {("tiny-llava", "digits"), (NAME, "digit")}
    assert {"timm" in c.config["versions"] for c in study.cells if NAME in c.title} == {True}
    assert {"timm" in c.config["versions"] for c in study.cells if NAME not in c.title} == {False}


def test_leaving_one_out_is_masking_it(loaded: LoadedClassifier) -> None:
    (example,) = REGISTRY.get("task", "digit")().examples(1, 0)
    terms = read_terms(["cls-attention", "iga"], REGISTRY)
    (record,) = examine(loaded, [example], terms, 4, batch=10)
    batch, truth = scenes(1)
    model = tiny_timm.load_model()

    def chance(kept: list[int]) -> float:
        logits = oracle_logits(model, batch[0], {0: kept})
        return float(logits.double().log_softmax(dim=-1)[int(truth[0])])

    everything = list(range(64))
    assert record["log_likelihood"] == pytest.approx(chance(everything), abs=1e-5)
    for token in (0, 8, 9, 33, 63):
        without = chance([other for other in everything if other != token])
        assert record["loo"][token] == pytest.approx(chance(everything) - without, abs=1e-5)
    assert np.flatnonzero(record["relevant"]).tolist() == [0, 1, 8, 9]
    assert list(record["scores"]) == ["cls-attention"]
    assert "a classifier has no text" in record["missing"]["iga"]
    assert (record["rows"], record["columns"]) == (8, 8)


def test_patches_lie_where_the_processor_cut_the_picture(loaded: LoadedClassifier) -> None:
    (panel,) = loaded.bound.panels((128, 64), loaded.processor, None)
    assert (panel.rows, panel.columns, panel.box) == (8, 8, (0.25, 0.0, 0.75, 1.0))


def test_a_classifier_looks_at_one_picture(loaded: LoadedClassifier) -> None:
    from PIL import Image

    from tokensieve.core.run.prompts import VisualQuestion

    twice = VisualQuestion("Which?", (Image.new("RGB", (64, 64)),) * 2)
    with pytest.raises(ModelError, match="a question needs exactly one picture"):
        ClassifierModel(loaded).prepare([twice])


def test_an_answer_that_is_no_class_has_no_likelihood(loaded: LoadedClassifier) -> None:
    (example,) = REGISTRY.get("task", "digit")().examples(1, 0)
    other = Example("one", example.images, example.question, "eleven")
    with pytest.raises(ModelError, match=f"the answer 'eleven' is no class of model '{NAME}'"):
        list(examine(loaded, [other], [], 4))


def test_classes_without_names_are_numbers() -> None:
    from transformers import TimmWrapperConfig

    numbered = TimmWrapperConfig(num_labels=3)  # type: ignore[call-arg]  # any config has labels
    assert class_names(numbered) == ("0", "1", "2")
    named = TimmWrapperConfig.from_dict({"label_names": ["cat", "dog"], "num_classes": 2})
    assert class_names(named) == ("cat", "dog")


def test_timm_writes_hub_names_with_a_source(monkeypatch: pytest.MonkeyPatch) -> None:
    from tokensieve.core.models.finding import locate

    for name in ("timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k", "hf-hub:timm/vit_tiny"):
        assert locate(name, REGISTRY) == name.removeprefix("hf-hub:")


def test_a_classifier_has_no_attention_backend() -> None:
    with pytest.raises(ModelError, match="a classifier has no attention backends"):
        load_model(NAME, REGISTRY, attention="eager")


def test_weights_that_are_no_safetensors_are_not_read(tmp_path: Path) -> None:
    for file in tiny_timm.FOLDER.iterdir():
        target = file.name.replace("model.safetensors", "pytorch_model.bin")
        (tmp_path / target).write_bytes(file.read_bytes())
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        load_model(str(tmp_path), REGISTRY)
